"""HESSO as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.oto.hesso import HESSO
from reference_impls.oto.methods.scored import InPeriods
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.wrapper import SparseOptimizer


@dataclass(frozen=True)
class Hesso(InPeriods):
    """HESSO: in a few periods the groups that score lowest fade to zero while the base optimizer goes on.

    Scores are a float tensor of shape (count + 1,), indexed by group number, entry 0 unused, without a unit: low
    leaves. With x_g all entries of group g, n_g how many, and d_g the direction of the base's step (x moves by -lr
    d):

        s_g = magnitude  M(||x_g||) + average M(||x_g|| / n_g) + cosine M(cosine_sign cos(x_g, d_g) + 1)
              + taylor M(|<x_g, d_g>|) + taylor2 M(<x_g, d_g>^2 / 2)

    where M divides by the Euclidean norm over all groups that may leave. The first step of each period, of T steps,
    picks its part of the budget; behind step k of the period what was picked is at (T - 1 - k) / (T - 1) of where the
    base has it, at last exactly zero, for good.

    Data need: D3, training with labels; nothing beyond the training run itself.

    Options:
        start: share of training before the first period, 0.1.
        finish: share of training at which the last period ends, 0.25.
        periods: how many, 10; fewer where a period would have no step.
        magnitude, average, cosine, taylor: weights of the criteria, 0.2 each.
        taylor2: as published 0.2; 0 here.
        cosine_sign: 1, as published, takes groups that the step lengthens; -1 those it shortens.

    Raises UsageError for shares outside [0, 1], weights below 0 or all 0, a sign that is neither 1 nor -1, no step
    between start and finish, and a budget out of reach.

    Source: Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning,
    2024.

    Deviations: taylor2 ranks as taylor does, so weighing both would count it twice, and it is off. The lowest scores
    among what has not left are taken, where the papers' code cuts a surplus by position. What leaves is forgotten by
    the base's momentum, which would move it again. Budgets may be other than shares of groups; then what is to leave
    is found anew in each period.
    """

    facts: ClassVar[Facts] = Facts(
        name="hesso",
        summary="in a few periods the lowest-scored groups fade to zero while training goes on",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and "
        "Pruning, 2024; one criterion, which ranks as another does, is off by default",
        zeroes=True,
    )

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HESSO."""
        return HESSO(base, rows, quota, **self.schedule(run, 0))
