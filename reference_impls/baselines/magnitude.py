"""Sums of powers of weights over coupled members: what criteria that look at weights alone share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import Run
from conformance.method.units import Reduce
from reference_impls.baselines.criterion import Criterion, Members, no_bias


def magnitude(run: Run, power: int, reduce: Reduce, members: Members) -> torch.Tensor:
    """Sum of |w|^p over each member's slice, reduced over the members; biases are left out. Shape (count + 1,)."""
    return run.units.reduce(lambda _, weight: weight.abs() ** power, members, reduce, only=no_bias)


@dataclass(frozen=True)
class WeightMagnitude(Criterion):
    """Sum of |w|^p over each member's slice: rows, norm entries and the columns that read them."""

    power: ClassVar[int] = 2

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members; biases are left out, as in the criterion's papers."""
        return magnitude(run, self.power, self.reduce, self.members)
