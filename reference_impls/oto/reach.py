"""How far a step of the base can carry a group at most: known without reading the model once more.

A group leaves the half-space {z : <z, x> >= epsilon ||x||^2} only if it moves by more than (1 - epsilon) ||x||.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from reference_impls.oto.rows import Member, Rows
from reference_impls.oto.wrapper import decoupled

_SLACK = 5e-4
"""Share of ||x|| that rounding in norms and products may make up, many times over."""

_SHORTEST, _ROUNDING = 1e-4, 1e-2
"""Least 1 - beta2 for which what rounding adds up to in a float32 second moment is less than a hundredth."""


class Reach:
    """Upper bounds of every group's step, carried from step to step of one base optimizer.

    SGD: a row of the momentum buffer is no longer than b, where b becomes momentum * b + (1 - dampening) * ||row of
    the gradient||. Adam, AdamW, with or without amsgrad: by Cauchy-Schwarz |m| <= r sqrt(v) entails, after a step
    with any gradient, |m| <= r' sqrt(v) with r'^2 = beta1^2 r^2 / beta2 + (1 - beta1)^2 / (1 - beta2); so no
    coordinate moves by more than lr r' sqrt(1 - beta2^t) / (1 - beta1^t), apart from decoupled decay.

    What is carried holds for the state it was made of: if anybody has written to that, b and r are measured anew.
    """

    def __init__(self, base: torch.optim.Optimizer, rows: Rows) -> None:
        self.base, self.rows = base, rows
        self.linear = type(base) is torch.optim.SGD
        self._sizes = rows.repeated([math.sqrt(m.tensor.numel() / max(m.tensor.shape[m.dim], 1)) for m in rows.members])
        self._ids = {id(tensor) for tensor in rows.parameters}
        self._asked = False
        self._carried: Any = None
        self._seen: list[tuple[int, int]] | None = None

    @property
    def known(self) -> bool:
        """Whether bounds can be told of this base: on a CPU, where asking them does not stop a device."""
        wide = all(t.dtype in (torch.float32, torch.float64) and t.device.type == "cpu" for t in self.rows.parameters)
        hooks = self.base._optimizer_step_pre_hooks or self.base._optimizer_step_post_hooks
        if hooks or not wide or type(self.base) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            return False
        return self.linear or all(_bounded(group) for group in self.base.param_groups)

    def near(self, squares: torch.Tensor, epsilon: torch.Tensor, lengths: list[torch.Tensor]) -> torch.Tensor:
        """Flags of the groups that may leave the half-space of epsilon in the step the base is about to make.

        squares are ||x||^2 of every group; lengths, for SGD alone, are the norms of the gradient at each position,
        a line a member. To be called once a step, before it.
        """
        norms = squares.sqrt()
        moved, shrunk = self._sgd(self.rows.joined(lengths)) if self.linear else self._adam()
        most = self.rows.total(moved.square()).sqrt() + shrunk * norms
        return ~(most * (1 + _SLACK) <= (1 - epsilon - _SLACK) * norms)

    def settled(self) -> None:
        """To be called when a step is complete, with all that is written to the base's state.

        What is carried holds from here on, unless the step was one whose bounds nobody asked for.
        """
        if self._asked:
            self._seen, self._asked = self._state(), False

    def _sgd(self, lengths: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Bounds at each position."""
        groups, self._asked = self._groups(), True
        if self._carried is None or self._seen != self._state():
            # A parameter that does not move has no buffer, or keeps it.
            pairs = [
                (member.tensor.detach(), self._held(member).get("momentum_buffer")) for member in self.rows.members
            ]
            found = self.rows.squares([tensor if buffer is None else buffer for tensor, buffer in pairs])
            there = self.rows.repeated([float(buffer is not None) for _, buffer in pairs])
            self._carried = torch.where(there > 0, self.rows.joined(found).sqrt() * (1 + _SLACK), 0)
        keeps, takes, ahead, rate = [], [], [], []
        for member, group in zip(self.rows.members, groups, strict=True):
            moves = group is not None and member.tensor.grad is not None
            momentum = float(group["momentum"]) if group is not None else 0.0
            first = self._held(member).get("momentum_buffer") is None
            keeps.append(momentum if moves else 1.0)
            takes.append((1.0 if first or not momentum else abs(1 - group["dampening"])) if moves else 0.0)  # type: ignore[index]
            ahead.append(momentum if moves and group["nesterov"] else 0.0)  # type: ignore[index]
            rate.append(float(group["lr"]) if moves else 0.0)  # type: ignore[index]
        lengths = lengths * (1 + _SLACK)
        rounding = 1 + 8 * torch.finfo(torch.float32).eps
        self._carried = (self.rows.repeated(keeps) * self._carried + self.rows.repeated(takes) * lengths) * rounding
        ahead_line = self.rows.repeated(ahead)
        step = torch.where(ahead_line > 0, lengths + ahead_line * self._carried, self._carried)
        return self.rows.repeated(rate) * step, 0.0

    def _adam(self) -> tuple[torch.Tensor, float]:
        """Bounds at each position, and the share by which decoupled decay shrinks x."""
        self._asked = True
        measured = self._carried is None or self._seen != self._state()
        carried: dict[int, float] = {} if measured else self._carried
        reached: dict[int, float] = {}
        shrunk = 0.0
        for group in self.base.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None or id(tensor) not in self._ids:
                    continue
                held = self.base.state.get(tensor, {})
                beta1, beta2 = map(float, group["betas"])
                # What underflow may take from sqrt(v).
                tiny = math.sqrt(4 * torch.finfo(tensor.dtype).tiny / (1 - beta2))
                if measured and "exp_avg" in held:
                    ratio = held["exp_avg"].abs().div_(held["exp_avg_sq"].sqrt().add_(tiny))
                    carried[id(tensor)] = float(ratio.max()) * (1 + _SLACK)
                before = carried.get(id(tensor), 0.0)
                after = math.sqrt(beta1**2 * before**2 / beta2 + (1 - beta1) ** 2 / (1 - beta2)) * (1 + 1e-6)
                carried[id(tensor)] = after
                count = float(held["step"]) + 1 if "step" in held else 1.0
                wide = math.sqrt(1 - beta2**count) + tiny / float(group["eps"])
                reached[id(tensor)] = float(group["lr"]) * after * wide / (1 - beta1**count) * (1 + _ROUNDING)
                if decoupled(group):
                    shrunk = max(shrunk, float(group["lr"]) * float(group["weight_decay"]))
        self._carried = carried
        most = [reached.get(id(member.tensor), 0.0) for member in self.rows.members]
        return self.rows.repeated(most) * self._sizes, shrunk

    def _groups(self) -> list[dict[str, Any] | None]:
        held = {id(tensor): group for group in self.base.param_groups for tensor in group["params"]}
        return [held.get(id(member.tensor)) for member in self.rows.members]

    def _held(self, member: Member) -> dict[str, Any]:
        found: dict[str, Any] = self.base.state.get(member.tensor, {})
        return found

    def _state(self) -> list[tuple[int, int]]:
        """What tells the base's state from another, or from the same after somebody has written to it."""
        names = ("momentum_buffer",) if self.linear else ("exp_avg", "exp_avg_sq")
        found = []
        for tensor in self.rows.parameters:
            held = self.base.state.get(tensor, {})
            for name in names:
                value = held.get(name)
                found.append((0, 0) if value is None else (value._version, value.data_ptr()))
        return found


def _bounded(group: dict[str, Any]) -> bool:
    """Whether a group's hyperparameters leave rounding within the margins."""
    beta1, beta2 = map(float, group["betas"])
    return 0 <= beta1 <= 0.999 and beta2 <= 1 - _SHORTEST and beta2 > 0 and float(group["eps"]) >= 1e-12
