"""L1 on batch norm scales while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.norm_scale import scales
from reference_impls.baselines.regulariser import Regulariser, batch_norms, free


@dataclass(frozen=True)
class BnScaleL1(Regulariser):
    """L1 on the scales of batch norms; the smallest scales leave."""

    facts: ClassVar[Facts] = Facts(
        name="bn-scale-l1",
        summary="L1 on batch norm scales while training, then the smallest scales leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
    )
    normalise: Normalise = "none"
    reg: float = 1e-5

    @property
    def unknown(self) -> str:
        """Only batch norms are looked at."""
        return "none passes a batch norm"

    def press(self, run: Run) -> None:
        """reg * sign(gamma)."""
        for scale, numbers in batch_norms(run):
            scale.grad.add_(self.reg * free(run)[numbers] * scale.sign())  # type: ignore[union-attr]

    def local(self, run: Run) -> torch.Tensor:
        """As bn-scale: groups without a batch norm stay."""
        return scales(run, self.reduce)
