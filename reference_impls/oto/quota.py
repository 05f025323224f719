"""Which groups leave and how many: a run's budget and limits over scores that change while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from conformance.method.budget import Budget, Cost, solve
from conformance.method.ladder import Ladder, Limits, ladder, removable
from conformance.partition.groups import Groups

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quota:
    """How much is to leave in all, and in what steps. Arguments called `gone` are flags of the groups already zero.

    alone are flags of groups that stay because the method can say nothing about them.
    """

    groups: Groups
    budget: Budget
    limits: Limits
    cost: Cost
    alone: npt.NDArray[np.bool_] | None = None

    @cached_property
    def free(self) -> npt.NDArray[np.bool_]:
        """One flag a group number: it may leave at all."""
        found = removable(self.groups, self.limits.ignore)
        return found if self.alone is None else found & ~self.alone

    @property
    def empty(self) -> bool:
        """Nothing is to leave: training is the base optimizer's, bit for bit."""
        return self.budget.remove == 0

    def check(self) -> None:
        """Raise UsageError, with what can be reached, for a budget that these limits do not allow."""
        self.reaching(np.zeros(self.groups.count + 1), np.zeros(self.groups.count + 1, dtype=bool), self.budget)

    def met(self, gone: npt.NDArray[np.bool_]) -> bool:
        """Whether the groups gone are as much as the budget asks for."""
        share = self.cost.removed(self.budget.kind, self.groups.select(np.flatnonzero(gone)))
        return share >= self.budget.remove - 1e-12

    def ranked(self, scores: torch.Tensor | npt.ArrayLike, gone: npt.NDArray[np.bool_]) -> Ladder:
        """All that may leave, lowest score first, behind what is gone."""
        line = np.array(scores.cpu().numpy() if isinstance(scores, torch.Tensor) else scores, dtype=np.float64)
        if self.alone is not None:
            line[self.alone] = np.inf
        line[gone] = -np.inf
        return ladder(self.groups, line, limits=self.limits)

    def reaching(self, scores: torch.Tensor | npt.ArrayLike, gone: npt.NDArray[np.bool_], budget: Budget) -> Numbers:
        """What has left, `gone` included, once a budget is met. Raises UsageError when it cannot be."""
        steps = self.ranked(scores, gone)
        return steps.removed(solve(steps, budget, self.cost))

    def stage(self, scores: torch.Tensor | npt.ArrayLike, gone: npt.NDArray[np.bool_], number: int, of: int) -> Numbers:
        """What leaves in stage `number` (from 1) of `of`, without what is gone.

        An equal number of groups in each stage, what does not divide in the last. How many groups meet the
        budget is found anew each time, with the scores as they are; where groups leave in batches a stage
        takes no more than its share, and the next makes up for it.
        """
        steps = self.ranked(scores, gone)
        rung = solve(steps, self.budget, self.cost)
        if number < of:
            rung = _holding(steps, number * (_up_to(steps, rung) // of))
        removed = steps.removed(rung)
        return removed[~gone[removed]]

    def rest(self, scores: torch.Tensor | npt.ArrayLike, gone: npt.NDArray[np.bool_], left: int) -> Numbers:
        """What leaves next when the rest of the budget is spread over `left` more stages."""
        steps = self.ranked(scores, gone)
        rung = solve(steps, self.budget, self.cost)
        if left > 1:
            already = int(gone.sum())
            rung = _holding(steps, already + max(_up_to(steps, rung) - already, 0) // left)
        removed = steps.removed(rung)
        return removed[~gone[removed]]

    def within(self, order: npt.ArrayLike, wanted: npt.NDArray[np.bool_], gone: npt.NDArray[np.bool_]) -> Numbers:
        """Of the groups wanted those that may leave now without going past the budget, lowest `order` first."""
        line = np.where(wanted, np.asarray(order, dtype=np.float64), np.inf)
        steps = self.ranked(line, gone)
        rung = steps.steps
        whole = steps.selection(rung)
        if rung and self.cost.removed(self.budget.kind, whole) > self.budget.remove:
            rung = solve(steps, self.budget, self.cost)
        removed = steps.removed(rung)
        return removed[~gone[removed]]


def _up_to(steps: Ladder, rung: int) -> int:
    """How many groups have left at a rung."""
    return int(((steps.rung > 0) & (steps.rung <= rung)).sum())


def _holding(steps: Ladder, most: int) -> int:
    """The last rung at which no more than `most` groups have left."""
    left = np.cumsum(np.bincount(steps.rung[steps.rung > 0], minlength=1))
    return int(np.searchsorted(left, most, side="right")) - 1
