"""Mean absolute activation where a group is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.feature_maps import FeatureMaps
from reference_impls.baselines.features import Consumer


@dataclass(frozen=True)
class Activation(FeatureMaps):
    """Groups with little activation where they are read leave first.

    Score: the mean of |a| over samples, positions and calls, a the channel at the input of a convolution or linear
    layer that reads the group, (batch, channel, positions...); positions of one group are averaged, its readers
    reduced, then divided by the axis' mean. Shape (count + 1,), float64; before normalising in the activation's unit.
    The columns of W (out, in, kh, kw) that read it do not enter. A group that no such module reads stays.

    Data: D1, unlabelled training batches.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the readers of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: without effect: readers are looked at.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=10, size=64: how many batches, and samples in each.

    The result depends on the weights, the data and the seed, which shuffles it. The model is in evaluation mode.
    Raises UsageError for an option that does not exist and a budget out of reach, and when no group is read by such a
    module.

    Source: a common control; no single paper.
    """

    facts: ClassVar[Facts] = Facts(
        name="activation",
        summary="smallest mean absolute activation leaves first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="a common control; no single paper",
    )

    @property
    def unknown(self) -> str:
        """Inputs of modules are seen, functional calls are not."""
        return "none is read by a convolution or linear layer that is called as a module"

    def figures(self, reader: Consumer, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Sum of absolute values."""
        del reader
        line = x.transpose(0, 1).flatten(1).abs().double()
        return line.sum(1), line.shape[1]
