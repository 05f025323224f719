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
    """Trains with L1 on the scales of batch norms; then the smallest scales leave.

    Penalty: reg sum |gamma|, as reg sign(gamma) on the gradient of each batch norm's weight (channels,), after the
    backward pass; only on entries of groups that may leave. Score: |gamma_j| as it is after training, averaged over a
    group's positions and reduced over its batch norms; shape (count + 1,), float64, without a unit. A group without
    batch norm stays.

    Data: D3, training by the recipe.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the batch norms of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=none: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: without effect: scales are looked at.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        reg=1e-5: the penalty's weight in the loss.
        decay=false: the recipe's weight decay is off while the penalty is trained with; true keeps it.

    The result depends on the recipe, the data and the seed. Raises UsageError for an option that does not exist and a
    budget out of reach, and when no group passes a batch norm.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017. Here scales that
    cannot leave are not pressed, weight decay is off (two pulls at once make reg mean little), and coupled groups
    leave as one. `slimming` is the method as published, with all scales pressed.
    """

    facts: ClassVar[Facts] = Facts(
        name="bn-scale-l1",
        summary="L1 on batch norm scales while training, then the smallest scales leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
        requires="batch norms",
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
