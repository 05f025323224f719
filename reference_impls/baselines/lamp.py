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
    """Sum of squared weights over the sum of all that are not smaller: the largest of an axis has 1, and stays."""

    facts: ClassVar[Facts] = Facts(
        name="lamp",
        summary="squared weights relative to what is not smaller",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021; on groups, not weights",
    )
    reduce: Reduce = "sum"
    normalise: Normalise = "lamp"
