"""Network slimming: train with an L1 penalty on the scales of batch norms, remove the channels with the smallest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Event, Facts, Method, Run
from conformance.method.ladder import SCOPES, Scope
from conformance.method.units import Reduce
from reference_impls.tickets import gamma


@dataclass(frozen=True)
class Slimming(Method):
    """L1 on gamma while training, then one threshold over all groups.

    penalty is the weight of sum |gamma| in the loss. gamma_init is what every gamma is set to before training;
    `none` leaves them, as a model that is trained already needs. A group with several batch norms (channels
    that a residual stream shares) has their scales joined by `reduce`; a group without one stays. ranking is
    among which groups the threshold lies.
    """

    facts: ClassVar[Facts] = Facts(
        name="slimming",
        summary="smallest scale of its batch norms leaves first, after training with an L1 penalty on them",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017; over groups",
        penalises=True,
    )
    penalty: float = 1e-4
    gamma_init: float | None = 0.5
    reduce: Reduce = "mean"
    ranking: Scope = "global"

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        if self.ranking not in SCOPES or self.reduce not in ("sum", "mean", "max", "prod", "first"):
            raise UsageError(f"{self.name}: there is no ranking={self.ranking} with reduce={self.reduce}")
        if not self.penalty >= 0:
            raise UsageError(f"{self.name}: penalty is at least 0, not {self.penalty}")

    @property
    def scope(self) -> Scope:
        """As the option says."""
        return self.ranking

    def prepare(self, run: Run) -> None:
        """Set the scales, and see that there is something to rank, before training for hours."""
        gamma.scores(run, self.reduce)
        if self.gamma_init is not None:
            gamma.fill_(run.model, self.gamma_init)

    def on_event(self, event: Event, run: Run) -> None:
        """The penalty's gradient."""
        if event == "after_backward":
            gamma.penalise_(run.model, self.penalty)

    def score(self, run: Run) -> torch.Tensor:
        """|gamma| of each group."""
        return gamma.scores(run, self.reduce)
