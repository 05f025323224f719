"""SNIP: connection sensitivity on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from conformance.method.units import Reduce
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.first_order import FirstOrder


@dataclass(frozen=True)
class Snip(FirstOrder):
    """Groups to whose connections the loss is least sensitive leave first; meant for a model that is not trained yet.

    Score: the sum of |w g| over all members' slices (row j of W (out, in, kh, kw), a norm's entry, the columns that
    read it; no biases), g the gradient of the task's loss on one batch. Shape (count + 1,), float64, in the loss'
    unit: the paper divides by the total of all, which ranks alike.

    Data: D2, labelled training batches: one.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=sum: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=none: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=1, size=64: how many batches, and samples in each.
        form=weights: where the absolute value is taken: of each weight's product (weights), of a member's sum
            (slices), of the group's sum (group; `reduce` is then without effect).

    The result depends on the weights, the data and the seed, which shuffles it. The model is in evaluation mode: batch
    norms use their running statistics, which at initialisation are 0 and 1. Raises UsageError for an option that does
    not exist and a budget out of reach.

    Source: Lee et al., SNIP: Single-shot Network Pruning, ICLR 2019. Published for single weights, whose sensitivities
    are here summed over a group: wide groups weigh more.
    """

    facts: ClassVar[Facts] = Facts(
        name="snip",
        summary="smallest connection sensitivity on one batch leaves first",
        driver=Driver.POST,
        data=DataNeed.LABELLED,
        paper="Lee et al., SNIP: Single-shot Network Pruning, ICLR 2019; on groups, not weights",
    )
    reduce: Reduce = "sum"
    normalise: Normalise = "none"
    batches: int = 1
