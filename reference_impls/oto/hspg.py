"""HSPG: a mixed-norm penalty on all groups, later with half-space projections (OTOv1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from conformance.errors import UsageError
from conformance.partition.groups import KINDS
from reference_impls.oto.gpu_motion import motion_over
from reference_impls.oto.halfspace import Flags, HalfSpace, Scores
from reference_impls.oto.kinds import ByKind, by_kind, kinds_of
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.wrapper import Loss

MOST, RISE, STALLED = 0.999, 0.1, 0.01
LEAST = 1e-6
"""A penalty that has fallen this far is none."""


class HSPG(HalfSpace):
    """HSPG, Half-Space Stochastic Projected Gradient.

    With x_g all entries of group g and z_g where the base's step takes them, from gradients with penalty x_g /
    ||x_g|| added for each group that may leave, x_g is set to zero, from start_step on and for good, when

        <z_g, x_g> < epsilon ||x_g||^2

    up to the budget. Figures of groups are tensors of shape (count + 1,), entry 0 unused, in float32 (float64 where a
    parameter is). penalty is in units of the loss for one of x, epsilon a number without unit.

    Data need: D3, a training run; nothing beyond its gradients.

    Options:
        start_step: steps before projection, N_P in the paper.
        penalty: weight of the norms, lambda in the paper, 1e-3.
        penalty_milestones: steps at which the penalty falls to a tenth, and to 0 once that is at most 1e-6; none.
        epsilon: in [0, 1), 0.0; one number, or by kind (see `ByKind`; 0 for kinds that are not named).
        adapt_every: after so many steps (0: never), when sparsity has grown by no more than a hundredth, epsilon
            rises by 0.1 (to at most 0.999) for the kinds that are short of their upper group sparsity, or without one
            of the budget's share, and falls to 0 for the others.
        adapt_kinds: the kinds whose epsilon adapts; all, if empty.
        upper_group_sparsity: the share of an axis' groups that may be zero, a number or by kind (1 for those not
            named); None for no bound. Of more groups than an axis has room for a random part is projected.
        complete, seed: see `HalfSpace`; None and 0.

    Raises UsageError for a penalty below 0, an epsilon outside [0, 1), an upper group sparsity outside [0, 1],
    unknown kinds, a budget that is to be completed but is out of reach below the upper group sparsity, and as
    `SparseOptimizer`.

    Source: Chen et al., Only Train Once: A One-Shot Neural Network Training and Pruning Framework, NeurIPS 2021.

    Deviations: the paper has no target; here the budget is a cap, shares of groups as well as others, and complete an
    addition. Any base makes the steps. What is projected is forgotten by its momentum. Below an upper group sparsity
    as many are projected as there is room for; the released code takes as many as there are too many.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        *,
        start_step: int,
        penalty: float = 1e-3,
        penalty_milestones: Sequence[int] = (),
        epsilon: ByKind = 0.0,
        adapt_every: int = 0,
        adapt_kinds: Iterable[str] = (),
        upper_group_sparsity: ByKind | None = None,
        complete: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        """See the class."""
        figures = by_kind(epsilon, 0.0)
        worst = figures.min() if figures.min() < 0 else figures.max()
        super().__init__(base, rows, quota, epsilon=float(worst), complete=complete, seed=seed)
        if min(penalty, adapt_every, start_step, *penalty_milestones) < 0:
            raise UsageError("penalty, its milestones, adapt_every and start_step are at least 0")
        if complete is not None and complete[0] < start_step:
            raise UsageError(f"groups are completed after projection starts at step {start_step}, not at {complete[0]}")
        self.start_step, self.penalty, self.adapt_every = start_step, penalty, adapt_every
        self.penalty_milestones, self.adapt_kinds = tuple(penalty_milestones), kinds_of(adapt_kinds)
        self.upper = None if upper_group_sparsity is None else by_kind(upper_group_sparsity, 1.0)
        if self.upper is not None and not 0 <= self.upper.min() <= self.upper.max() <= 1:
            raise UsageError("upper_group_sparsity is a share of groups, between 0 and 1")
        self._kind = torch.tensor([KINDS.index(kind) if kind else 0 for kind in rows.units.groups.kinds])
        self.epsilons = torch.from_numpy(figures)
        self._last = 0.0
        if self.upper is not None and complete is not None and not quota.empty:
            nothing = np.zeros(rows.count + 1)
            quota.reaching(np.where(self.allowed(nothing, quota.free), nothing, np.inf), nothing > 0, quota.budget)
        self._motion = motion_over(rows, self._memory)
        self._after: torch.Tensor | None = None
        self._written: list[tuple[int, int]] = []

    derived: ClassVar[tuple[str, ...]] = ("_motion", "_after", "_written")

    def rebuilt(self) -> None:
        """Norms are taken anew before the next step: the same bits."""
        super().rebuilt()
        self._motion = motion_over(self.rows, self._memory)
        self._after, self._written = None, []

    def update(self, loss: Loss | None) -> None:
        """A penalised step of the base; in the second stage the projection."""
        del loss
        if self.quota.empty:
            self.base.step()
            return
        squares = self._squares()
        testing = self.steps >= self.start_step and not self.met
        penalty = self.present_penalty
        pushed = torch.where(self._open & (squares > 0), penalty / (squares.sqrt() + 1e-6), 0)
        # Norms for the next step come with the products; where steps are not made here, reading them is less.
        watched = testing or self.stepping.usable
        self.moved(self._motion, pushed if penalty else None, asked=watched)
        inner = self._inner() if watched else squares
        self._motion.forget()
        if testing:
            epsilon = self.epsilons[self._kind].to(squares)
            at_zero = self._open & (squares == 0)
            self.project(self.leaving(inner, squares, epsilon) | at_zero, inner, squares, self._free)
            self._adapt()

    @property
    def present_penalty(self) -> float:
        """The penalty of the next step."""
        passed = sum(self.steps >= one for one in self.penalty_milestones)
        found = float(self.penalty / 10**passed)
        return 0.0 if passed and found <= LEAST * (1 + 1e-9) else found

    def allowed(self, order: Scores, wanted: Flags) -> Flags:
        """Of each axis no more than its upper group sparsity has room for."""
        if self.upper is None:
            return wanted
        axis_of, kept = self.rows.units.groups.axis_of, wanted.copy()
        for axis in np.unique(axis_of[wanted]):
            inside = axis_of == axis
            upper = self.upper[self._kind.numpy()[inside]].min()
            room = math.floor(inside.sum() * upper + 1e-9) - int(self.gone[inside].sum())
            places = np.flatnonzero(wanted & inside & ~self.gone)
            kept[places[np.argsort(order[places], kind="stable")[max(room, 0) :]]] = False
        return kept

    def _squares(self) -> torch.Tensor:
        """||x_g||^2 before the step: what the step before has found after it, if nobody has written to x since."""
        known, self._after = self._after, None
        if known is None or self._written != self._writes():
            known = self._motion.squares()
        return torch.where(self._open, known, 0)

    def _inner(self) -> torch.Tensor:
        """<x_new, x_old> of every group; ||x_new||^2 is kept for the next step."""
        found = self._motion.products()
        self._after, inner = self._motion.lines.totals((found.new, found.new + found.scale * found.cross))
        return inner

    def _writes(self) -> list[tuple[int, int]]:
        return [(tensor._version, tensor.data_ptr()) for tensor in self.rows.parameters]

    def settled(self) -> None:
        """Remembers that x is as the step left it."""
        self._written = self._writes() if self._after is not None else []

    def _adapt(self) -> None:
        """The published rule, at the end of every adapt_every-th step of the second stage."""
        since = self.steps - self.start_step + 1
        if not self.adapt_every or since % self.adapt_every:
            return
        free = self.quota.free
        share = float(self.gone.sum()) / max(int(free.sum()), 1)
        stalled, self._last = share <= self._last + STALLED, share
        if not stalled:
            return
        kinds = self._kind.numpy()
        for kind in np.unique(kinds[free]):
            if self.adapt_kinds and kind not in self.adapt_kinds:
                continue
            inside = free & (kinds == kind)
            most = self.quota.budget.remove if self.upper is None else self.upper[kind]
            short = self.gone[inside].mean() < most
            self.epsilons[kind] = min(MOST, float(self.epsilons[kind]) + RISE) if short else 0.0

    def own_state(self) -> dict[str, Any]:
        """Epsilon by kind, and sparsity when it was last looked at."""
        return {"epsilons": self.epsilons.clone(), "last": self._last}

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """As saved."""
        super().load_own_state(saved)
        self.epsilons, self._last = saved["epsilons"].cpu().clone(), saved["last"]
        self._after = None
