"""The sum of absolute weights as a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.magnitude import WeightMagnitude


@dataclass(frozen=True)
class L1(WeightMagnitude):
    """Groups whose weights are small in sum leave first: little goes through them.

    Score: for each member of a group the sum of |w| over its slice: row j of a kernel W (out, in, kh, kw), entry j of
    a norm's scale, column j of the weights that read it; reduced over the members, then divided by the axis' mean, so
    that 1 is an average group. Biases do not count. Shape (count + 1,), float64; before normalising in the weights'
    unit.

    Data: D0, none.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.

    The result depends on the weights alone; ties go by group number. Raises UsageError for an option that does not
    exist and a budget out of reach.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017. There each layer's filters are ranked by
    themselves and lose a share set by hand: `-o ranking=local -o members=producers` is nearest to that. Here what
    leaves together is scored together, and layers compete.
    """

    facts: ClassVar[Facts] = Facts(
        name="l1",
        summary="smallest sum of absolute weights leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017; over coupled groups",
    )
    power: ClassVar[int] = 1
