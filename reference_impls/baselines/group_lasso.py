"""Group lasso while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.norm_scale import scales
from reference_impls.baselines.regulariser import Regulariser, add, batch_norms, free


@dataclass(frozen=True)
class GroupLasso(Regulariser):
    """The sum of the groups' Euclidean norms, over all that is zero once a group is removed.

    only_bn takes batch norm scales alone, with the root of the mean of their squares as norm.
    """

    facts: ClassVar[Facts] = Facts(
        name="group-lasso",
        summary="group lasso while training, then the smallest groups leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Wen et al., Learning Structured Sparsity in Deep Neural Networks, NIPS 2016; over coupled groups",
    )
    normalise: Normalise = "max"
    only_bn: bool = False

    @property
    def unknown(self) -> str:
        """Of the variant."""
        return "none passes a batch norm"

    def press(self, run: Run) -> None:
        """reg * w / norm of w's group; nothing for a group at zero."""
        if not self.only_bn:
            norms = run.units.norms()
            add(run, torch.where(free(run) & (norms > 0), self.reg / norms, 0.0), "zeroed")
            return
        lines = list(batch_norms(run))
        squares, number = (torch.zeros(run.groups.count + 1, device=run.device) for _ in range(2))
        for scale, numbers in lines:
            squares.index_add_(0, numbers, scale.square().to(squares.dtype))
            number.index_add_(0, numbers, torch.ones_like(squares[numbers]))
        norms = (squares / number.clamp(min=1) + 1e-9).sqrt()
        for scale, numbers in lines:
            scale.grad.add_((free(run) * self.reg / norms)[numbers] * scale)  # type: ignore[union-attr]

    def local(self, run: Run) -> torch.Tensor:
        """The norms that were pressed."""
        return scales(run, self.reduce) if self.only_bn else run.units.norms()
