"""DHSPG: only the groups found redundant are penalised, each as hard as it takes (OTOv2)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch

from conformance.errors import UsageError
from reference_impls.oto.gpu_motion import motion_over
from reference_impls.oto.halfspace import HalfSpace
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.saliency import along, dhspg_redundancy, products
from reference_impls.oto.wrapper import Loss

MOST = 0.999


class DHSPG(HalfSpace):
    """DHSPG, Dual Half-Space Projected Gradient.

    At start_step all groups are scored once, a tensor of shape (count + 1,), entry 0 unused, without a unit, in
    float32 (float64 where a parameter is). With x_g all entries of group g, n_g how many and d_g the direction of the
    base's step, high is redundant:

        r_g = N(cos(x_g, d_g)) / 2 + N(1 / (||x_g|| / n_g + 1e-6)) / 2

    where N divides by the Euclidean norm over all groups that may leave. The most redundant, `tolerance` more than
    the budget, are penalised from then on until the budget is met: x_g loses lr * penalty_g * x_g / ||x_g|| in every
    step. Where <x_g, d_g> < 0, so that the step lengthens the group,

        penalty_g = min(max(amplify least, penalty), cap penalty), or (least + most) / 2 if that is not below most,
        least = -<x_g, d_g> / ||x_g||,   most = -||d_g||^2 ||x_g|| / <x_g, d_g>

    and elsewhere it is penalty. Between least and most the step descends and shrinks the group. Penalised groups
    whose step leaves the half-space, <z_g, x_g> < epsilon ||x_g||^2, are projected to zero, for good.

    Data need: D3, a training run; nothing beyond its gradients.

    Options:
        start_step: steps of the base alone before groups are scored.
        penalty, amplify, cap: 1e-3, 2.0 and 10.0, as published for SGD (see `dhspg_defaults`).
        epsilon: in [0, 1), 0.0.
        tolerance: how much more than the budget is penalised, a share, 0.05.
        complete, seed: see `HalfSpace`; None and 0.

    Raises UsageError for options below their least, and as `SparseOptimizer`.

    Source: Chen et al., OTOv2: Automatic, Generic, User-Friendly, ICLR 2023.

    Deviations: complete is an addition. What is projected is forgotten by the base's momentum. A budget need not be a
    share of groups.
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
            raise UsageError(
                f"groups are completed after step {start_step}, where they are scored, not at {complete[0]}"
            )
        self.start_step, self.penalty, self.amplify, self.cap = start_step, penalty, amplify, cap
        self.tolerance = tolerance
        self.penalised_groups = np.zeros(rows.count + 1, dtype=bool)
        self._active_members()

    derived: ClassVar[tuple[str, ...]] = ("_motion", "_flags")

    def rebuilt(self) -> None:
        """What is looked at of the penalised groups."""
        super().rebuilt()
        self._active_members()

    def update(self, loss: Loss | None) -> None:
        """A step of the base, and what is redundant pushed towards zero."""
        del loss
        if self.quota.empty or self.met or self.steps < self.start_step:
            self.base.step()
            return
        if self.steps == self.start_step:
            whole = motion_over(self.rows, self._memory)
            squares = whole.squares()
            self.moved(whole)
            found = products(whole, self.stepping, squares)
            self._choose(dhspg_redundancy(found, self.rows.units.sizes.to(found.xx), self._free))
            self._motion.follow(whole)
        else:
            self.moved(self._motion)
        self._push()

    def _choose(self, redundancy: torch.Tensor) -> None:
        """The penalised set: by the ladder at the budget and a tolerance, or all that may leave if that is less."""
        steps = self.quota.ranked(-redundancy, self.gone)
        budget = self.quota.budget
        most = self.quota.cost.removed(budget.kind, steps.selection(steps.steps))
        wider = dataclasses.replace(budget, remove=min(budget.remove + self.tolerance, MOST, most))
        self.penalised_groups[:] = False
        self.penalised_groups[self._agreed(self.quota.reaching(-redundancy, self.gone, wider))] = True
        self._active_members()

    def _active_members(self) -> None:
        flags = self.penalised_groups & ~self.gone
        self._flags = torch.from_numpy(flags).to(self.rows.device)
        self._motion = motion_over(self.rows, self._memory, flags)

    def _push(self) -> None:
        """Penalty and projection, from the positions that hold penalised groups."""
        lines = self._motion.lines
        found = along(self._motion, self.stepping)
        rate = lines.shared(self.stepping.rates(lines.members)[0])
        squares, xd, dd, inner, weighted = lines.totals((found.xx, found.xd, found.dd, found.zx, rate * found.xx))
        norm = squares.clamp(min=0).sqrt()  # by rounding it can be less behind a long step
        push = torch.where(self._flags, self._penalties(norm, xd, dd) / (norm + 1e-8), 0)
        self._motion.pull(push, rate)
        self._motion.forget()
        # Where a parameter's rows and columns are of different groups both may shrink it; each is tested on its own.
        inner = inner - push * weighted
        before = self.gone.sum()
        self.project(self._flags & self.leaving(inner, squares, self.epsilon), inner, squares, self._flags)
        if self.gone.sum() != before:
            self._active_members()

    def _penalties(self, norm: torch.Tensor, xd: torch.Tensor, dd: torch.Tensor) -> torch.Tensor:
        """penalty_g: enough to shrink the group although d lengthens it, while the step still descends."""
        pushed_out = (xd < 0) & (norm > 0)
        safe = torch.where(pushed_out, xd, -1)
        least = -safe / norm.clamp(min=1e-30)
        most = -dd * norm / safe
        amplified = (self.amplify * least).clamp(min=self.penalty, max=self.penalty * self.cap)
        amplified = torch.where(amplified >= most, (least + most) / 2, amplified)
        return torch.where(pushed_out, amplified, self.penalty)

    # -- state ---------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """The penalised groups."""
        return {"penalised": torch.from_numpy(self.penalised_groups.copy())}

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """As saved."""
        super().load_own_state(saved)
        self.penalised_groups = saved["penalised"].cpu().numpy().copy()
        self._active_members()


def dhspg_defaults(base: torch.optim.Optimizer) -> tuple[float, float, float]:
    """Penalty, amplification and cap as published for the base optimizer's family."""
    return (1e-3, 2.0, 10.0) if isinstance(base, torch.optim.SGD) else (1e-2, 20.0, 1e3)
