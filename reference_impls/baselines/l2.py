"""The sum of squared weights as a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.magnitude import WeightMagnitude


@dataclass(frozen=True)
class L2(WeightMagnitude):
    """Groups whose weights have the smallest squared norm leave first: what is zero with them is small.

    Score: for each member of a group the sum of w^2 over its slice (no root is taken): row j of a kernel W
    (out, in, kh, kw), entry j of a norm's scale, column j of the weights that read it; reduced over the members, then
    divided by the axis' mean, so that 1 is an average group. Biases do not count. Shape (count + 1,), float64; before
    normalising in the weights' unit squared.

    Data: D0, none.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.

    The result depends on the weights alone; ties go by group number. Raises UsageError for an option that does not
    exist and a budget out of reach.

    Source: Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, the group norm without sparse learning.
    There members are summed (`reduce=sum`); the mean, as the paper's own program has it, ranks an axis alike as long
    as its groups have the same members.
    """

    facts: ClassVar[Facts] = Facts(
        name="l2",
        summary="smallest sum of squared weights leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (group norm)",
    )
