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
    """Mean absolute activation at the inputs of the convolutions and linear layers that read a group."""

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
