"""The sum of absolute weights as a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.magnitude import WeightMagnitude


@dataclass(frozen=True)
class L1(WeightMagnitude):
    """Sum of absolute weights."""

    facts: ClassVar[Facts] = Facts(
        name="l1",
        summary="smallest sum of absolute weights leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017; over coupled groups",
    )
    power: ClassVar[int] = 1
