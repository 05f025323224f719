"""DHSPG: only the groups found redundant are penalised, each as hard as it takes (OTOv2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from conformance.errors import UsageError
from reference_impls.oto.halfspace import HalfSpace, Old
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Member, Rows
from reference_impls.oto.saliency import dhspg_redundancy, products
from reference_impls.oto.wrapper import Loss, decoupled

MOST = 0.999


class DHSPG(HalfSpace):
    """Dual Half-Space Projected Gradient.

    At start_step all groups are scored once; the most redundant, `tolerance` more than the budget, are penalised
    from then on until the budget is met: x_g loses lr * penalty_g * x_g / ||x_g|| in every step, where penalty_g
    is `penalty`, raised to `amplify` times the least that makes the step shrink x_g (at most `cap` times
    `penalty`, and not so far that the step no longer descends). Penalised groups whose step leaves the
    half-space of epsilon are projected to zero.

    Raises UsageError for options below their least.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        *,
        start_step: int,
        penalty: float = 1e-3,
        amplify: float = 2.0,
        cap: float = 10.0,
        epsilon: float = 0.0,
        tolerance: float = 0.05,
        complete: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        """See the class."""
        super().__init__(base, rows, quota, epsilon=epsilon, complete=complete, seed=seed)
        if penalty < 0 or amplify < 1 or cap < 1 or tolerance < 0 or start_step < 0:
            raise UsageError("penalty, tolerance and start_step are at least 0, amplify and cap at least 1")
        if complete is not None and complete[0] <= start_step:
            raise UsageError(f"groups are completed after step {start_step}, where they are scored, not at {complete[0]}")
        self.start_step, self.penalty, self.amplify, self.cap = start_step, penalty, amplify, cap
        self.tolerance = tolerance
        self.penalised_groups = np.zeros(rows.count + 1, dtype=bool)
        self._active: list[Member] = []
        self._flags = torch.zeros(rows.count + 1, dtype=torch.bool, device=rows.device)

    def update(self, loss: Loss | None) -> None:
        """A step of the base, and what is redundant pushed towards zero."""
        del loss
        if self.quota.empty or self.met or self.steps < self.start_step:
            self.base.step()
            return
        if self.steps == self.start_step:
            before = self.remember()
            self.base.step()
            found = products(self.rows, before, self.direction(before))
            self._choose(dhspg_redundancy(found, self.rows.units.sizes.to(found.xx), self._free))
            old = Old(self, {}, set(before))
        else:
            old = self.old_points(self._active, decay=True)
            self.base.step()
        self._push(old)

    def _choose(self, redundancy: torch.Tensor) -> None:
        """The penalised set: by the ladder at the budget and a tolerance, or all that may leave if that is less."""
        steps = self.quota.ranked(-redundancy, self.gone)
        budget = self.quota.budget
        most = self.quota.cost.removed(budget.kind, steps.selection(steps.steps))
        wider = dataclasses.replace(budget, remove=min(budget.remove + self.tolerance, MOST, most))
        self.penalised_groups[:] = False
        self.penalised_groups[self.quota.reaching(-redundancy, self.gone, wider)] = True
        self._active_members()

    def _active_members(self) -> None:
        self._flags = torch.from_numpy(self.penalised_groups & ~self.gone).to(self.rows.device)
        self._active = [member for member in self.rows.members if bool(self._flags[member.index].any())]

    def _push(self, old: Old) -> None:
        """Penalty and projection, from lines of the members that hold penalised groups."""
        rows, flags = self.rows, self._flags
        held = self._group_of()
        active = {id(member) for member in self._active}
        lines: list[tuple[torch.Tensor, ...]] = []
        for member in rows.members:
            if id(member) in active:
                lines.append(self._lines(member, old, held.get(id(member.tensor))))
            else:
                nothing = torch.zeros(member.index.numel(), dtype=rows.dtype, device=rows.device)
                lines.append((nothing,) * 5)
        xx, inner, xd, dd, weighted = (rows.gather(part) for part in zip(*lines, strict=True))
        norm = xx.sqrt()
        push = torch.where(flags, self._penalties(norm, xd, dd) / (norm + 1e-8), 0)
        for member in self._active:
            self._apply(member, old, held.get(id(member.tensor)), push)
        inner = inner - push * weighted
        before = self.gone.sum()
        self.project(flags & self.leaving(inner, xx, self.epsilon), inner, xx, flags)
        if self.gone.sum() != before:
            self._active_members()

    def _lines(self, member: Member, old: Old, group: dict[str, Any] | None) -> tuple[torch.Tensor, ...]:
        """<x, x>, <x_new, x>, <x, d>, <d, d> and lr <x, x> a position."""
        rows = self.rows
        rate = 0.0 if group is None else float(group["lr"])
        copy = old.copy(member)
        new = rows.squares(member)
        if copy is None:
            step, _ = old.step_of(member)
            cross, dd = rows.dots(member, member.tensor, step), rows.squares(member, step)
            inner = new + rate * cross
            xd = cross + rate * dd
            xx = inner + rate * xd
        else:
            xx = rows.squares(member, copy)
            inner = rows.dots(member, copy, member.tensor)
            if group is None or member.tensor.grad is None or rate == 0:
                return xx, inner, torch.zeros_like(xx), torch.zeros_like(xx), rate * xx
            moved = copy.sub(member.tensor)
            if decoupled(group) and group.get("weight_decay", 0):
                moved.sub_(copy, alpha=rate * group["weight_decay"])
            xd = rows.dots(member, copy, moved) / rate
            dd = rows.squares(member, moved) / rate**2
        return xx, inner, xd, dd, rate * xx

    def _penalties(self, norm: torch.Tensor, xd: torch.Tensor, dd: torch.Tensor) -> torch.Tensor:
        """penalty_g: enough to shrink the group although d lengthens it, while the step still descends."""
        pushed_out = (xd < 0) & (norm > 0)
        safe = torch.where(pushed_out, xd, -1)
        least = -safe / norm.clamp(min=1e-30)
        most = -dd * norm / safe
        amplified = (self.amplify * least).clamp(min=self.penalty, max=self.penalty * self.cap)
        amplified = torch.where(amplified >= most, (least + most) / 2, amplified)
        return torch.where(pushed_out, amplified, self.penalty)

    def _apply(self, member: Member, old: Old, group: dict[str, Any] | None, push: torch.Tensor) -> None:
        """x_new loses lr * push * x_old."""
        if group is None:
            return
        rate = float(group["lr"])
        copy = old.copy(member)
        spread = member.spread(push * rate)
        tensor = member.tensor
        if copy is not None:
            tensor.addcmul_(copy, spread, value=-1)
        else:
            step, _ = old.step_of(member)
            tensor.mul_(1 - spread).addcmul_(step, spread, value=-rate)

    # -- state ---------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """The penalised groups."""
        return {"penalised": torch.from_numpy(self.penalised_groups.copy())}

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """As saved."""
        super().load_own_state(saved)
        self.penalised_groups = saved["penalised"].cpu().numpy().copy()
        self._active_members()

