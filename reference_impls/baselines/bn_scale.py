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
    """Groups that their batch norms scale down leave first.

    Score: |gamma_j| of a batch norm's weight (channels,), averaged over the positions a group has in it, then reduced
    over the batch norms it passes; shape (count + 1,), float64, without a unit. Scales are of one kind already: they
    are compared as they are. A group that passes no batch norm stays (`without=stay`).

    Data: D0, none; the model is best trained with L1 on its scales (`bn-scale-l1`, `slimming`).

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=none: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: what `without=l1` sums over: all, producers, consumers; scales are norms' whatever it says.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        without=stay: groups without batch norm stay, or (l1) have the sum of |w| over their axis' mean, whatever
            `normalise` says.

    The result depends on the weights alone. All scales at 1, as a fresh model has them, are ties, which go by group
    number. Raises UsageError for an option that does not exist and a budget out of reach, and UnsuitedError when groups
    without batch norm stay and none passes one.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, its criterion
    alone. There a threshold takes all ties with it; here exactly the budget leaves, and gamma and beta are both zero.
    """

    facts: ClassVar[Facts] = Facts(
        name="bn-scale",
        summary="smallest scale of the batch norm leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017 (criterion)",
        requires="batch norms, or without=l1",
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
        if self.without == "stay":
            return super().score(run)
        gone = left(run)
        own = normalised(run.groups, self.local(run), self.normalise, gone)
        weights = normalised(run.groups, magnitude(run, 1, self.reduce, self.members), "mean", gone)
        scores = torch.where(own == UNKNOWN, weights, own)
        scores[torch.from_numpy(gone)] = -torch.inf
        return scores
