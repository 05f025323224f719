"""The first-order Taylor criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.first_order import FirstOrder


@dataclass(frozen=True)
class Taylor(FirstOrder):
    """Groups whose removal changes the loss least, to first order, leave first.

    Score: for each member the sum of |w g| over its slice (row j of W (out, in, kh, kw), a norm's entry, the columns
    that read it; no biases), g the gradient of the task's loss, averaged over the batches; reduced over the members,
    then divided by the axis' mean. Shape (count + 1,), float64; before normalising in the loss' unit.

    Data: D2, labelled training batches.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=10, size=64: how many batches, and samples in each.
        form=weights: where the absolute value is taken: of each weight's product (weights), of a member's sum
            (slices), of the group's sum (group; `reduce` is then without effect).

    The result depends on the weights, the data and the seed, which shuffles it. The model is in evaluation mode:
    running statistics, no dropout. Raises UsageError for an option that does not exist and a budget out of reach.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019. There the product of every
    batch is squared, and the model trained between small steps; here the gradient is averaged first and its products
    taken absolutely, over coupled groups, and a batch norm's scale counts like any member.
    """

    facts: ClassVar[Facts] = Facts(
        name="taylor",
        summary="smallest weight times gradient leaves first",
        driver=Driver.POST,
        data=DataNeed.LABELLED,
        paper="Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019; over coupled groups",
    )
