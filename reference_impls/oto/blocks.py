"""The base's own step made block by block: what it does to a block is measured while that is in a core's cache.

A step that is measured afterwards reads every parameter, and what moved it, from memory once more. torch's functions
of SGD and Adam go from element to element, so that rows can be stepped for themselves; unless the base was told
otherwise they are asked for torch's fused kernels, which leave no temporaries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from reference_impls.oto.motion import Motion, Three
from reference_impls.oto.rows import row_dots
from reference_impls.oto.wrapper import adds_decay, decoupled

Terms = dict[int, list[torch.Tensor]]
"""What gradients get, by the parameter's id: term * x for each, shaped to broadcast. Decay that the base would add to
the gradient is in the first of them.
"""

_BLOCK = 1 << 17
"""Elements of a block for each thread: 1.5 MB of a parameter, its gradient and what moves it."""


class Blocks:
    """Steps parameters for the base, which makes the rest of the step itself.

    For SGD, Adam and AdamW on a CPU. A parameter must have what the base remembers of it, so that its first step is
    the base's own.
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

    def fitting(self) -> set[int]:
        """The parameters that can be stepped now, by id."""
        if not self.usable:
            return set()
        return {
            id(tensor)
            for group in self.base.param_groups
            for tensor in group["params"]
            if _dense(tensor) and self._remembered(tensor, group)
        }

    def _remembered(self, tensor: torch.Tensor, group: dict[str, Any]) -> bool:
        values = [self.base.state.get(tensor, {}).get(name) for name in _names(group)]
        return all(isinstance(value, torch.Tensor) and value.is_contiguous() for value in values)

    @contextlib.contextmanager
    def ahead(self, motion: Motion, fitting: Collection[int], terms: Terms) -> Iterator[None]:
        """Step what fits, and leave in `motion` what that did to large members; the base finds no gradient there.

        Gradients get their terms.
        """
        numbers: dict[int, list[int]] = {}
        for number in motion.later:
            numbers.setdefault(id(motion.lines.members[number].tensor), []).append(number)
        gradients = []
        for group in self.base.param_groups:
            whole = []
            for tensor in group["params"]:
                if id(tensor) not in fitting:
                    continue
                gradients.append((tensor, tensor.grad))
                if id(tensor) in numbers:
                    self._by_blocks(motion, numbers[id(tensor)], group, terms.get(id(tensor), []))
                else:
                    whole.append(tensor)
            self._at_once(whole, group, terms)
        try:
            for tensor, _ in gradients:
                tensor.grad = None
            yield
        finally:
            for tensor, gradient in gradients:
                tensor.grad = gradient

    def _at_once(self, tensors: list[torch.Tensor], group: dict[str, Any], terms: Terms) -> None:
        """Step whole parameters."""
        for some, hyper in (
            ([tensor for tensor in tensors if id(tensor) not in terms], group),
            ([tensor for tensor in tensors if id(tensor) in terms], self._without_decay(group)),
        ):
            slopes = [tensor.grad for tensor in some]
            for tensor, slope in zip(some, slopes, strict=True):
                for term in terms.get(id(tensor), ()):
                    slope.addcmul_(tensor.detach(), term, value=_sign(group))  # type: ignore[union-attr]
            held = [self.base.state.get(tensor, {}) for tensor in some]
            if some:
                stepping = Stepping(hyper)
                state = {name: [one[name] for one in held] for name in stepping.names}
                stepping([tensor.detach() for tensor in some], slopes, state, [one.get("step") for one in held])

    def _by_blocks(self, motion: Motion, numbers: list[int], group: dict[str, Any], terms: list[torch.Tensor]) -> None:
        """Step one parameter, and leave the products of its members."""
        members = [motion.lines.members[number] for number in numbers]
        tensor, gradient, copy = members[0].tensor.detach(), members[0].tensor.grad, motion.copies[numbers[0]]
        assert gradient is not None
        held: dict[str, Any] = self.base.state.get(members[0].tensor, {})
        stepping = Stepping(self._without_decay(group) if terms else group)
        products = [BlockProducts(tensor, member.dim) for member in members]
        count = held.get("step")
        for where in _pieces(tensor):
            new, slope = tensor[where], gradient[where]
            old = None if copy is None else copy[where].copy_(new)
            for term in terms:
                slope.addcmul_(new, term[where] if term.shape[0] > 1 else term, value=_sign(group))
            state = {name: [held[name][where]] for name in stepping.names}
            counted = None if count is None else count.clone()
            stepping([new], [slope], state, [counted])
            if old is None:
                moved = state["momentum_buffer"][0]
            else:
                moved = torch.sub(old, new, out=motion.memory.room(tensor, 1, len(new))[0])
            for one in products:
                one.add(where, new, moved)
        if count is not None:  # each block has counted the same step
            count.copy_(counted)
        for number, found in zip(numbers, products, strict=True):
            motion.measured[number] = found.lines

    def _without_decay(self, group: dict[str, Any]) -> dict[str, Any]:
        """Decay that is in a term already is not added again."""
        return {**group, "weight_decay": 0} if adds_decay(self.base, group) else group


def _pieces(tensor: torch.Tensor) -> list[slice]:
    """Rows of a block each, an even number."""
    rows = tensor.shape[0]
    step = max(_BLOCK * torch.get_num_threads() // tensor[0].numel() // 2 * 2, 2)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _names(group: dict[str, Any]) -> list[str]:
    """What the base remembers of a parameter, of its shape."""
    if "momentum" in group:
        return ["momentum_buffer"] if group["momentum"] else []
    return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]


def _plain(group: dict[str, Any]) -> bool:
    """Whether a group is on a CPU, is stepped parameter by parameter there, and by numbers that are at hand."""
    if any(group.get(name) for name in ("foreach", "capturable", "differentiable")):
        return False
    numbers = all(isinstance(value, float | int) for value in (group["lr"], *group.get("betas", ())))
    return numbers and all(tensor.device.type == "cpu" for tensor in group["params"])


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


def _sign(group: dict[str, Any]) -> int:
    return -1 if group["maximize"] else 1


class Stepping:
    """torch's own arithmetic, with the hyperparameters of one param_group."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.names = _names(group)
        own = ["momentum", "dampening", "nesterov"] if "momentum" in group else ["amsgrad", "eps"]
        self._given = {name: group[name] for name in ("lr", "weight_decay", "maximize", *own)}
        self._given |= {"foreach": False, "fused": group.get("fused") is not False}
        self._adam = "betas" in group
        if self._adam:
            self._given["beta1"], self._given["beta2"] = group["betas"]
            self._given["decoupled_weight_decay"] = decoupled(group)

    def __call__(
        self, tensors: list[torch.Tensor], slopes: list[Any], state: dict[str, list[torch.Tensor]], counts: list[Any]
    ) -> None:
        """Step tensors, or the same rows of each with its gradient, state and count of steps."""
        if self._adam:
            most = state.get("max_exp_avg_sq", [])
            adam(tensors, slopes, state["exp_avg"], state["exp_avg_sq"], most, counts, **self._given)
        else:
            buffers: list[Any] = state.get("momentum_buffer") or [None] * len(tensors)
            sgd(tensors, slopes, buffers, **self._given)


class BlockProducts:
    """<x_new, x_new>, <x_new, moved> and <moved, moved> at each position of one dimension, block by block."""

    def __init__(self, tensor: torch.Tensor, dim: int) -> None:
        self._dim = dim
        self._found = tensor.new_zeros(3, tensor.shape[dim])

    def add(self, where: slice, new: torch.Tensor, moved: torch.Tensor) -> None:
        """Take these rows in."""
        if self._dim:
            pairs = (new, new), (new, moved), (moved, moved)
            self._found += torch.stack([row_dots(one, other, self._dim) for one, other in pairs])
            return
        news, cross, lengths = self._found[:, where]
        rows = new.flatten(1), moved.flatten(1)
        torch.linalg.vector_norm(rows[0], dim=1, out=news)
        torch.linalg.vector_norm(rows[1], dim=1, out=lengths)
        cross.copy_(row_dots(*rows, 0))

    @property
    def lines(self) -> Three:
        """The three."""
        if not self._dim:
            self._found[::2].square_()
        return self._found[0], self._found[1], self._found[2]
