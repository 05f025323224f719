"""The sum of squared weights as a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.magnitude import WeightMagnitude


@dataclass(frozen=True)
class L2(WeightMagnitude):
    """Sum of squared weights (no root is taken)."""

    facts: ClassVar[Facts] = Facts(
        name="l2",
        summary="smallest sum of squared weights leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (group norm)",
    )
