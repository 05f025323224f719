"""Optimal Brain Damage with the diagonal of the empirical Fisher information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import no_bias
from reference_impls.baselines.gradients import mean_squared_gradients
from reference_impls.baselines.hessian import SecondOrder


@dataclass(frozen=True)
class Obd(SecondOrder):
    """Groups whose removal raises the loss least, to second order, leave first.

    Score: for each member the sum of w^2 h over its slice (row j of W (out, in, kh, kw), a norm's entry, the columns
    that read it; no biases), h of W's shape the mean over samples of the squared gradient of one sample's loss;
    reduced over the members, then divided by the axis' mean. Shape (count + 1,), float64; before normalising in the
    loss' unit squared.

    Data: D2, labelled training batches.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=2, size=64: how many batches, and samples in each.
        chunk=8: samples that are differentiated at a time; each needs memory for one more set of parameters.

    The result depends on the weights, the data and the seed, which shuffles it; but for rounding not on `chunk`. The
    model is in evaluation mode. Raises UsageError for an option that does not exist and a budget out of reach, and for
    a loss that one sample by itself does not have.

    Source: LeCun et al., Optimal Brain Damage, NIPS 1989. There the Hessian's diagonal, halved, scores single weights;
    here the diagonal of the empirical Fisher information stands for it, over coupled groups. It is a true mean over
    samples: the square of a batch's mean gradient would be another thing.
    """

    facts: ClassVar[Facts] = Facts(
        name="obd",
        summary="smallest squared weight times diagonal Fisher information leaves first",
        driver=Driver.POST,
        data=DataNeed.LABELLED,
        paper="LeCun et al., Optimal Brain Damage, NIPS 1989; h is the empirical Fisher diagonal; over coupled groups",
    )

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members; biases are left out. Raises UsageError for a loss that one sample does not have."""
        batches = run.data.labelled(self.batches, self.size)
        try:
            h = mean_squared_gradients(run, batches, run.data.loss, self.chunk)
        except UsageError as error:
            raise UsageError(f"{self.name} needs the loss of each sample by itself, and here: {error}") from error
        return run.units.reduce(lambda name, weight: weight.square() * h[name], self.members, self.reduce, only=no_bias)
