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
    """Sum of w^2 h, h the mean over samples of the squared gradient of one sample's loss, in evaluation mode.

    chunk samples are differentiated at a time: each needs memory for one more set of parameters.
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
