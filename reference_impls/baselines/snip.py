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
    """Connection sensitivity from one batch, summed over a group; meant for a model that is not trained yet."""

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
