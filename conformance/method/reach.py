"""What a budget can ask for at all: known from the groups and the limits, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from conformance.errors import UsageError
from conformance.method.budget import Budget, Ceiling, Cost, unreachable
from conformance.method.ladder import Limits, ladder, most_leaving, removable
from conformance.method.weights import maskable
from conformance.partition.groups import Groups
from conformance.partition.labels import Labels


def check_reach(budget: Budget, groups: Groups, cost: Cost, limits: Limits, asked: Ceiling | None = None) -> None:
    """Raise UsageError, with the range that can be reached, for a budget no order of leaving could meet.

    Only what is certain is refused: a method whose ranking allows less says so when it has ranked. A latency budget
    is never refused here, its time would have to be measured. Raises UsageError for an ignored pattern that matches
    nothing, too. asked is the number the budget was made from: the range is said in its terms then.
    """
    if budget.remove == 0 or budget.kind == "latency":
        return
    if budget.kind == "weights":
        if budget.remove > (most := _most_weights(groups, limits)) + 1e-9:
            raise unreachable(budget, most)
        return
    if budget.remove <= _Bound(groups, limits).share(budget, cost) + 1e-12:
        return
    # The bound is more than some orders reach; one that is sure to be reached is what the user is told.
    steps = ladder(groups, np.zeros(groups.count + 1), limits=limits)
    last = steps.selection(steps.steps)
    if asked is None:
        raise unreachable(budget, cost.removed(budget.kind, last))
    least, dense = (math.ceil(cost.size(asked.kind, choice)) for choice in (last, None))
    raise UsageError(f"the budget {asked} cannot be reached: this model and these limits allow {least} to {dense}")


def _most_weights(groups: Groups, limits: Limits) -> float:
    """The share of the weights of one tensor that may be masked, of the tensor where that is most.

    Which tensors are masked is the method's choice, so no choice of several reaches more. Raises UsageError where
    there are none.
    """
    names = maskable(groups.graph, limits)
    if not names:
        raise UsageError("nothing of this model may be masked")
    sizes = [math.prod(groups.graph.values[groups.graph.names[name]].shape) for name in names]
    stays = [min(max(limits.min_keep, math.ceil(limits.protect * size - 1e-6)), size) for size in sizes]
    return max(1 - kept / size for kept, size in zip(stays, sizes, strict=True))


@dataclass(frozen=True)
class _Bound:
    """What is left at least, counted dimension by dimension: of each axis as many groups leave as the limits allow,
    in every dimension those that take most of it.
    """

    groups: Groups
    limits: Limits

    @cached_property
    def leaving(self) -> npt.NDArray[np.int64]:
        """How many groups of each axis can leave."""
        return most_leaving(self.groups, self.limits)

    @cached_property
    def free(self) -> npt.NDArray[np.bool_]:
        """Which groups may leave."""
        return removable(self.groups, self.limits.ignore)

    def share(self, budget: Budget, cost: Cost) -> float:
        """No selection within the limits removes more."""
        if budget.kind == "groups":
            return int(self.leaving.sum()) / max(cost.groups.count, 1)
        return cost.most(budget.kind, self.kept)

    def kept(self, labels: Labels) -> int:
        """Positions of a dimension that stay in any case."""
        counts = np.bincount(labels, minlength=self.groups.count + 1)
        present = np.flatnonzero((counts > 0) & self.free)
        axis = self.groups.axis_of[present]
        by = np.lexsort((-counts[present], axis))
        present, axis = present[by], axis[by]
        _, start, size = np.unique(axis, return_index=True, return_counts=True)
        place = np.arange(present.size) - np.repeat(start, size)
        return int(labels.size - counts[present[place < self.leaving[axis]]].sum())
