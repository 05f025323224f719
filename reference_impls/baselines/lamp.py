"""LAMP: squared weights relative to those that are not smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from conformance.method.units import Reduce
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.magnitude import WeightMagnitude


@dataclass(frozen=True)
class Lamp(WeightMagnitude):
    """Groups that are small beside the larger ones of their axis leave first; the largest of each axis leaves last.

    Score: u_g = sum of w^2 over all members of the group (row j of W (out, in, kh, kw), a norm's entry, the columns
    that read it; no biases), then u_g / sum of u_h over the groups h of the axis that are not smaller. It lies in
    [0, 1], without a unit; the largest of every axis has 1, so that every axis keeps it longest. Among equals the one
    with the lower number scores lower. Shape (count + 1,), float64.

    Data: D0, none.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=sum: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=lamp: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.

    The result depends on the weights alone. Raises UsageError for an option that does not exist and a budget out of
    reach.

    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021. Published for single
    weights of a layer; here the entries are groups of an axis, since single weights leave no smaller net.
    """

    facts: ClassVar[Facts] = Facts(
        name="lamp",
        summary="squared weights relative to what is not smaller",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021; on groups, not weights",
    )
    reduce: Reduce = "sum"
    normalise: Normalise = "lamp"
