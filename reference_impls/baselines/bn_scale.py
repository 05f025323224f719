"""The batch norm's scale as a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import UNKNOWN, Criterion, Normalise, left, normalised
from reference_impls.baselines.magnitude import magnitude
from reference_impls.baselines.norm_scale import scales


@dataclass(frozen=True)
class BnScale(Criterion):
    """Absolute scale of the batch norms a group passes.

    A group that passes none stays (`without=stay`), or is scored by its sum of absolute weights over that of
    its axis' mean (`without=l1`), whatever `normalise` says. The other scores are compared as they are:
    scales are of one kind already.
    """

    facts: ClassVar[Facts] = Facts(
        name="bn-scale",
        summary="smallest scale of the batch norm leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017 (criterion)",
    )
    normalise: Normalise = "none"
    without: Literal["stay", "l1"] = "stay"

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        super().__post_init__()
        if self.without not in ("stay", "l1"):
            raise UsageError(f"{self.name}: groups without batch norm stay or are scored by l1, not {self.without!r}")

    @property
    def unknown(self) -> str:
        """Only batch norms are looked at."""
        return "none passes a batch norm"

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the batch norms."""
        return scales(run, self.reduce)

    def score(self, run: Run) -> torch.Tensor:
        """The normalised score of each group, with the fallback where there is no batch norm."""
        scores = super().score(run)
        if self.without == "l1":
            gone = left(run)
            weights = normalised(run.groups, magnitude(run, 1, self.reduce, self.members), "mean", gone)
            scores = torch.where(scores == UNKNOWN, weights, scores)
        return scores
