"""Level 0: the model can be examined at all."""

from __future__ import annotations

import torch

from conformance.checks.quantised import quantised_operation, quantised_state
from conformance.checks.registry import CheckFailed, CheckUnsupported, Finding, check
from conformance.checks.subject import Subject
from conformance.errors import TraceError
from conformance.graph.tape import tensors_in
from conformance.graph.trace import reproducible


@check("L0.state")
def state(subject: Subject) -> Finding:
    """The model has parameters and all its state is finite."""
    quantised = quantised_state(subject.model)
    if quantised:
        raise CheckUnsupported(f"{quantised} holds quantised weights{_used_by(subject)}")
    parameters = list(subject.model.named_parameters())
    if not parameters:
        raise CheckFailed("the model has no parameters")
    for name, tensor in [*parameters, *subject.model.named_buffers()]:
        if tensor.is_floating_point() and torch.isnan(tensor).any():
            raise CheckFailed(f"{name} holds NaN")
        if isinstance(tensor, torch.nn.Parameter) and torch.isinf(tensor).any():
            raise CheckFailed(f"{name} holds infinite values")
    return Finding(len(parameters))


def _used_by(subject: Subject) -> str:
    try:
        operation = quantised_operation(subject.graph)
    except TraceError:  # L0.traceable tells why
        return ""
    return f": {operation}" if operation else ""


def _saved(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the state_dict; quantised layers put types and numbers beside them."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


@check("L0.forward")
def forward(subject: Subject) -> Finding:
    """The forward pass runs, returns tensors, and changes neither inputs nor state."""
    args, kwargs = subject.inputs()
    inputs = tensors_in((args, kwargs))
    before = [tensor.clone() for tensor in inputs]
    saved = {name: tensor.clone() for name, tensor in _saved(subject.model).items()}
    with reproducible():
        outputs = tensors_in(subject.model(*args, **kwargs))
        # What is not saved with the model may be a cache that the first pass fills: it must stay from then on.
        held = {name: tensor.detach().clone() for name, tensor in subject.model.named_buffers()} | saved
        subject.model(*args, **kwargs)
    if not outputs:
        raise CheckFailed("the model returns no tensors")
    if any(not _same(old, new) for old, new in zip(before, inputs, strict=True)):
        for old, new in zip(before, inputs, strict=True):
            new.copy_(old)
        raise CheckFailed("the forward pass changes its own input")
    now = dict(subject.model.named_buffers()) | _saved(subject.model)
    changed = [name for name in held if name not in now or not _same(held[name], now[name])]
    if changed:
        with torch.no_grad():
            for name, tensor in now.items():
                if name in held and tensor.shape == held[name].shape:
                    tensor.copy_(held[name])
        raise CheckFailed(f"the forward pass changes the model's state in evaluation mode: {', '.join(changed[:3])}")
    if any(output.is_floating_point() and torch.isnan(output).any() for output in outputs):
        raise CheckFailed("the outputs hold NaN")
    return Finding(sum(output.numel() for output in outputs))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(
        torch.equal(a, b) or ((a.isnan() == b.isnan()).all() and torch.equal(a.nan_to_num(), b.nan_to_num()))
    )


@check("L0.deterministic")
def deterministic(subject: Subject) -> Finding:
    """Two evaluations of the same input are bitwise equal, whatever the random state."""
    first, again, other = (_outputs(subject, seed) for seed in (0, 0, 12345))
    for number, (a, b, c) in enumerate(zip(first, again, other, strict=True)):
        if not _same(a, b):
            raise CheckFailed(f"output {number} differs between two evaluations")
        if not _same(a, c):
            raise CheckUnsupported(f"output {number} depends on the random state: the model draws random numbers")
    return Finding(sum(tensor.numel() for tensor in first))


def _outputs(subject: Subject, seed: int) -> list[torch.Tensor]:
    args, kwargs = subject.inputs()
    with reproducible(seed):
        return [tensor.clone() for tensor in tensors_in(subject.model(*args, **kwargs))]


@check("L0.traceable")
def traceable(subject: Subject) -> Finding:
    """Every operation of the forward pass can be recorded, and tracing changes nothing."""
    held = {name: tensor.clone() for name, tensor in _saved(subject.model).items()}
    modes = [module.training for module in subject.model.modules()]
    random = torch.random.get_rng_state()
    nodes = len(subject.graph.nodes)
    if not torch.equal(random, torch.random.get_rng_state()):
        raise CheckFailed("tracing moved the random generator")
    if modes != [module.training for module in subject.model.modules()]:
        raise CheckFailed("tracing changed a module's training mode")
    for name, tensor in _saved(subject.model).items():
        if not _same(held[name], tensor):
            raise CheckFailed(f"tracing changed {name}")
    operation = quantised_operation(subject.graph)
    if operation:
        raise CheckUnsupported(f"computes with quantised numbers: {operation}")
    return Finding(nodes, details={"operations": len(subject.graph.operations()), "device": subject.graph.device})
