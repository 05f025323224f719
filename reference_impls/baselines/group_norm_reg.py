"""DepGraph's sparse learning: weight decay that grows as a group weighs less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.magnitude import magnitude
from reference_impls.baselines.regulariser import Regulariser, add, extremes, free, importance


@dataclass(frozen=True)
class GroupNormReg(Regulariser):
    """Squared weights, the more the less a group weighs in its axis: factors from 1 for the largest to 2^alpha."""

    facts: ClassVar[Facts] = Facts(
        name="group-norm-reg",
        summary="weight decay that grows as a group weighs less in its axis, then the smallest groups leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (sparse learning)",
    )
    normalise: Normalise = "max"
    alpha: float = 4.0

    def press(self, run: Run) -> None:
        """reg * 2^(alpha (max - I) / (max - min)) * w; an axis whose groups weigh all the same is left alone."""
        line = importance(run)
        most, least = extremes(run, line)
        pressed = free(run) & (most > least)
        exponent = torch.where(pressed, self.alpha * (most - line) / torch.where(pressed, most - least, 1), 0)
        add(run, torch.where(pressed, self.reg * 2**exponent, 0), "all")

    def local(self, run: Run) -> torch.Tensor:
        """Squared weights, as the penalty."""
        return magnitude(run, 2, self.reduce, self.members)
