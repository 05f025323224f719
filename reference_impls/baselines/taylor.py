"""The first-order Taylor criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.first_order import FirstOrder


@dataclass(frozen=True)
class Taylor(FirstOrder):
    """How much the loss changes, to first order, when a group is removed."""

    facts: ClassVar[Facts] = Facts(
        name="taylor",
        summary="smallest weight times gradient leaves first",
        driver=Driver.POST,
        data=DataNeed.LABELLED,
        paper="Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019; over coupled groups",
    )
