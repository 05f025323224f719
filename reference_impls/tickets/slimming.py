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
    """Trains with L1 on all batch norm scales; then the groups with the smallest scales leave.

    Penalty: penalty sum |gamma|, as penalty sign(gamma) on the gradient of every batch norm's weight (channels,),
    after the backward pass. Score: |gamma| of a group's entries, summed within a norm and joined over the batch norms
    it passes; shape (count + 1,), in the parameters' dtype, without a unit; one threshold over all groups. +inf for a
    group without batch norm, which stays.

    Data: D3, training by the recipe; its weight decay acts on the scales too.

    Options:
        penalty=1e-4: the weight of sum |gamma| in the loss.
        gamma_init=0.5: what every scale is set to before training; none leaves them, as a trained model needs.
        reduce=mean: how a group's batch norms join: mean, sum, max, prod, first (in the model's order).
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.

    The result depends on the recipe, the data and the seed. Raises UsageError for an option that does not exist, when
    no group has a batch norm (before training), and for a budget out of reach.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017. There every
    reader of a residual stream is narrowed by itself, by a gather; here what a stream ties leaves as one group. There
    a strict threshold takes a channel more and all ties; here exactly the budget leaves. gamma and beta are both zero,
    or the subnet would be another function, and the last group of an axis stays.
    """

    facts: ClassVar[Facts] = Facts(
        name="slimming",
        summary="smallest scale of its batch norms leaves first, after training with an L1 penalty on them",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017; over groups",
        penalises=True,
        requires="batch norms",
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
