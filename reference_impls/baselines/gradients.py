"""Gradients for criteria: in evaluation mode, of copies of the parameters, so that the model stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from conformance.method import Batch, Run

Loss = Callable[[Any, Batch], torch.Tensor]
Named = dict[str, torch.Tensor]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside: no dropout, running statistics in batch norms. Every module's mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    recurrent = any(isinstance(module, torch.nn.RNNBase) for module in model.modules())
    try:
        model.eval()
        # cuDNN has no backward pass of recurrent layers in evaluation mode.
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent):
            yield
    finally:
        for module, training in modes:
            module.training = training


def stand_ins(model: torch.nn.Module) -> tuple[Named, Named]:
    """Parameters that share the model's memory and none of its gradients, and copies of the buffers, by name."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return parameters, {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def call(model: torch.nn.Module, state: tuple[Named, Named], batch: Batch) -> Any:
    """What the model gives for a batch with another state; tied tensors stay tied."""
    merged = {**state[0], **state[1]}
    return torch.func.functional_call(model, merged, batch.args, dict(batch.kwargs))


def mean_gradients(run: Run, batches: list[Batch]) -> Named:
    """For each parameter of the units the gradient of the task's loss, averaged over labelled batches; by name.

    The model is in evaluation mode. Frozen parameters have their gradient as well; one the loss does not
    depend on has zeros.
    """
    parameters, buffers = stand_ins(run.model)
    parameters = {name: parameter.requires_grad_() for name, parameter in parameters.items()}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with evaluating(run.model), torch.enable_grad():
        for batch in batches:
            loss = run.data.loss(call(run.model, (parameters, buffers), batch), batch)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    total[name] += gradient / len(batches)
    return _by_unit_names(run, total)


def mean_squared_gradients(run: Run, batches: list[Batch], loss: Loss, chunk: int) -> Named:
    """For each parameter of the units the mean over samples of the squared gradient of one sample's loss; by name.

    loss takes the output for one sample (a batch of 1) and that batch. Samples are vectorised, `chunk` at a
    time; a model that torch.func cannot vectorise has them one by one (the run's log says so).
    """
    samples = sum(batch.size for batch in batches)
    total: Named = {}
    with evaluating(run.model):
        for batch in batches:
            try:
                found = _vectorised(run.model, batch, loss, chunk)
            except (RuntimeError, ValueError) as error:
                run.log({"phase": "gradients", "step": 0, "one_by_one": str(error).partition("\n")[0]})
                found = _one_by_one(run.model, batch, loss)
            for name, squares in found.items():
                total[name] = total[name] + squares / samples if name in total else squares / samples
    return _by_unit_names(run, total)


def _vectorised(model: torch.nn.Module, batch: Batch, loss: Loss, chunk: int) -> Named:
    state = stand_ins(model)
    total = {name: torch.zeros_like(parameter) for name, parameter in state[0].items()}

    def one(parameters: Named, leaves: list[torch.Tensor]) -> torch.Tensor:
        sample = _with_leaves(batch, [leaf.unsqueeze(0) for leaf in leaves])
        return loss(call(model, (parameters, state[1]), sample), sample)

    gradients = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))
    leaves = _sample_leaves(batch)
    for start in range(0, batch.size, chunk):
        # Fused attention has no vectorised form; written out it has.
        with sdpa_kernel(SDPBackend.MATH):
            found = gradients(state[0], [leaf[start : start + chunk] for leaf in leaves])
        for name, gradient in found.items():
            total[name] += gradient.square().sum(0)
    return total


def _one_by_one(model: torch.nn.Module, batch: Batch, loss: Loss) -> Named:
    parameters, buffers = stand_ins(model)
    parameters = {name: parameter.requires_grad_() for name, parameter in parameters.items()}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for number in range(batch.size):
        sample = _with_leaves(batch, [leaf[number : number + 1] for leaf in _sample_leaves(batch)])
        with torch.enable_grad():
            value = loss(call(model, (parameters, buffers), sample), sample)
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                total[name] += gradient.square()
    return total


def _sample_leaves(batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch that have one entry a sample, in the order in which a tree is walked."""
    leaves: Iterable[Any] = pytree.tree_leaves((batch.args, dict(batch.kwargs), batch.target))
    return [leaf for leaf in leaves if _has_samples(leaf, batch.size)]


def _has_samples(leaf: Any, size: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == size


def _with_leaves(batch: Batch, leaves: list[torch.Tensor]) -> Batch:
    """The batch with those tensors in place of its own."""
    flat, spec = pytree.tree_flatten((batch.args, dict(batch.kwargs), batch.target))
    rest = iter(leaves)
    size = batch.size
    return Batch(*pytree.tree_unflatten([next(rest) if _has_samples(leaf, size) else leaf for leaf in flat], spec))


def _by_unit_names(run: Run, found: Named) -> Named:
    """The same under the names that the units use: a tied parameter has several."""
    first = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        name: found[first[id(tensor)]]
        for name, tensor in run.units.tensors.items()
        if isinstance(tensor, torch.nn.Parameter)
    }
