"""The base's own step, made by torch's fused kernels where the base was not told otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from reference_impls.oto import gpu
from reference_impls.oto.motion import Bound
from reference_impls.oto.rows import Member

_CPU = torch.device("cpu")


class Stepping:
    """Steps for SGD, Adam and AdamW: a base that was told nothing runs one operation after another.

    torch's fused kernels round differently; a base made with fused=False is stepped to its own bits. A parameter must
    have what the base remembers of it, so that its first step is the base's own. What cannot be stepped here the base
    steps.
    """

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base

    @property
    def usable(self) -> bool:
        """Whether steps of this base can be made here at all."""
        # Hooks on the base would see a step of a few parameters.
        hooks = self.base._optimizer_step_pre_hooks or self.base._optimizer_step_post_hooks
        known = type(self.base) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        return known and not hooks and all(_plain(group) for group in self.base.param_groups)

    def step(self) -> None:
        """One step of all parameters. Raises UsageError while a CUDA graph is captured."""
        gpu.not_captured()
        fitting = [(group, self._fitting(group)) for group in self.base.param_groups] if self.usable else []
        with _hidden([tensor for _, tensors in fitting for tensor in tensors]):
            self.base.step()
        for group, tensors in fitting:
            if tensors:
                self._step(group, tensors)

    # -- what is known of a step -----------------------------------------------------------------

    def group_of(self) -> dict[int, dict[str, Any]]:
        """The param_group of each parameter, by its id."""
        return {id(tensor): group for group in self.base.param_groups for tensor in group["params"]}

    def shifts(self, *, penalised: bool = False) -> Bound:
        """Before a step: for parameters whose step will be x - lr * b, what says b, and lr, by id.

        In a penalised step the gradient has the decay in it.
        """
        found: Bound = {}
        if type(self.base) is not torch.optim.SGD:
            return found
        for group in self.base.param_groups:
            if group["nesterov"]:
                continue
            rate = float(group["lr"])  # a tensor on a GPU is waited for: once
            for tensor in group["params"]:
                if tensor.grad is None or tensor.grad.layout is not torch.strided:
                    continue
                if group["momentum"]:
                    found[id(tensor)] = None, rate
                elif not group["maximize"] and (penalised or not group["weight_decay"]):
                    found[id(tensor)] = tensor.grad, rate
        return found

    def buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        """b of a parameter after a step, where nothing else says it."""
        found: torch.Tensor = self.base.state[tensor]["momentum_buffer"]
        return found

    def rates(self, members: Sequence[Member]) -> tuple[list[float], list[float]]:
        """For each member its lr, and its decoupled weight decay; 0 where the base does not move it."""
        held: dict[int, tuple[float, float]] = {}
        for group in self.base.param_groups:
            rate = float(group["lr"])
            decay = float(group.get("weight_decay", 0)) if rate and decoupled(group) else 0.0
            held.update(dict.fromkeys(map(id, group["params"]), (rate, decay)))
        found = [held.get(id(member.tensor), (0.0, 0.0)) for member in members]
        decays = [
            decay if member.tensor.grad is not None else 0.0 for member, (_, decay) in zip(members, found, strict=True)
        ]
        return [rate for rate, _ in found], decays

    # -- making it -------------------------------------------------------------------------------

    def _fitting(self, group: dict[str, Any]) -> list[torch.Tensor]:
        names, counted = _names(group), "betas" in group
        return [
            tensor for tensor in group["params"] if _dense(tensor) and self._remembered(tensor, names, counted=counted)
        ]

    def _remembered(self, tensor: torch.Tensor, names: list[str], *, counted: bool) -> bool:
        held = self.base.state.get(tensor, {})
        if counted and not (
            isinstance(held.get("step"), torch.Tensor) and held["step"].device in (_CPU, tensor.device)
        ):
            return False
        return all(
            isinstance(value := held.get(name), torch.Tensor)
            and value.is_contiguous()
            and value.dtype is tensor.dtype
            and value.device == tensor.device
            for name in names
        )

    def _step(self, group: dict[str, Any], tensors: list[torch.Tensor]) -> None:
        """torch's own function, with the hyperparameters of one param_group."""
        held: list[dict[str, Any]] = [self.base.state.get(tensor, {}) for tensor in tensors]
        state = {name: [one[name] for one in held] for name in _names(group)}
        own = ["momentum", "dampening", "nesterov"] if "momentum" in group else ["amsgrad", "eps"]
        given = {name: group[name] for name in ("lr", "weight_decay", "maximize", *own)}
        fused = group.get("fused") is not False
        values = [tensor.detach() for tensor in tensors]
        slopes = [tensor.grad for tensor in tensors if tensor.grad is not None]
        if "momentum" in group:
            buffers: list[Any] = state.get("momentum_buffer") or [None] * len(tensors)
            sgd(values, slopes, buffers, foreach=False, fused=fused, **given)
            return
        given["beta1"], given["beta2"] = group["betas"]
        most, counts = state.get("max_exp_avg_sq", []), [one["step"] for one in held]
        lists = values, slopes, state["exp_avg"], state["exp_avg_sq"], most
        if fused:
            fused_adam(lists, counts, decays=decoupled(group), given=given)
        else:
            adam(*lists, counts, foreach=False, fused=False, decoupled_weight_decay=decoupled(group), **given)


def fused_adam(
    lists: Sequence[list[torch.Tensor]], counts: list[torch.Tensor], *, decays: bool, given: dict[str, Any]
) -> None:
    """A step of Adam, or of AdamW where weight decay shrinks parameters directly, by torch's kernel.

    lists are parameters, gradients, exp_avg, exp_avg_sq and max_exp_avg_sq (none without amsgrad). The kernel reads
    counts of steps where the parameters are; a base that was told nothing keeps them on the CPU. Those advance there,
    and one number is sent for all that have the same.
    """
    torch._foreach_add_(counts, 1)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(lists[0]):
        alike.setdefault((tensor.device, tensor.dtype), []).append(place)
    kernel: Any = torch._fused_adamw_ if decays else torch._fused_adam_
    for (device, _), places in alike.items():
        picked = [[some[place] for place in places] if some else [] for some in (*lists, counts)]
        kernel(*picked[:-1], _counts_on(device, picked[-1]), **given)


def _counts_on(device: torch.device, counts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Counts of steps as the kernel reads them: themselves where they are there, else one tensor for equal ones."""
    apart = [place for place, count in enumerate(counts) if _elsewhere(count, device)]
    if not apart:
        return counts
    found, made = list(counts), dict[float, torch.Tensor]()
    for place, number in zip(apart, torch.stack([counts[place] for place in apart]).tolist(), strict=True):
        if number not in made:
            made[number] = torch.full((), number, dtype=torch.float32, device=device)
        found[place] = made[number]
    return found


def _elsewhere(count: torch.Tensor, device: torch.device) -> bool:
    return count.device != device


@contextlib.contextmanager
def _hidden(tensors: list[torch.Tensor]) -> Iterator[None]:
    """The base finds no gradients of these, so that it leaves them alone."""
    gradients = [tensor.grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.grad = None
        yield
    finally:
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient


def _names(group: dict[str, Any]) -> list[str]:
    """What the base remembers of a parameter, of its shape."""
    if "momentum" in group:
        return ["momentum_buffer"] if group["momentum"] else []
    return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]


def decoupled(group: dict[str, Any]) -> bool:
    """Whether weight decay shrinks parameters directly rather than through the gradient."""
    return bool(group.get("decoupled_weight_decay", False))


def adds_decay(base: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Whether the base adds weight_decay * x to the gradient before anything else, as far as is known of it."""
    known = type(base) in (torch.optim.SGD, torch.optim.Adam)
    return known and not decoupled(group) and group["weight_decay"] != 0


def _plain(group: dict[str, Any]) -> bool:
    """Whether a group is on a CPU or a GPU, nothing was said of how it is stepped, and its numbers are at hand."""
    if any(group.get(name) for name in ("foreach", "capturable", "differentiable")):
        return False
    numbers = all(isinstance(value, float | int) for value in (group["lr"], *group.get("betas", ())))
    return numbers and all(tensor.device.type in ("cpu", "cuda") for tensor in group["params"])


def _dense(tensor: torch.Tensor) -> bool:
    gradient = tensor.grad
    return (
        gradient is not None
        and tensor.numel() > 0
        and tensor.dtype in (torch.float32, torch.float64)
        and gradient.layout is torch.strided
        and tensor.is_contiguous()
        and gradient.is_contiguous()
    )
