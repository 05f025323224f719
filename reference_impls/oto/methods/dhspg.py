"""DHSPG as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.oto.dhspg import DHSPG, dhspg_defaults
from reference_impls.oto.methods.completion import window
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.trained import Trained, share
from reference_impls.oto.wrapper import SparseOptimizer


@dataclass(frozen=True)
class Dhspg(Trained):
    """DHSPG: the groups found redundant are penalised, each as hard as it takes, until projections have met the budget.

    At `start` all groups are scored once, a float tensor of shape (count + 1,) without a unit; with x_g all entries
    of group g, n_g how many and d_g the direction of the base's step, high is redundant:

        r_g = N(cos(x_g, d_g)) / 2 + N(1 / (||x_g|| / n_g + 1e-6)) / 2

    where N divides by the Euclidean norm over all groups that may leave. From then on a penalised group loses lr
    penalty_g x_g / ||x_g|| beside the base's step. penalty_g is `penalty`; where <x_g, d_g> < 0 it is amplify times
    the least that shrinks the group, -<x_g, d_g> / ||x_g||, at least penalty, at most cap penalty, and less than what
    would make the step ascend, -||d_g||^2 ||x_g|| / <x_g, d_g> (else the mean of least and most). Groups whose step
    leaves the half-space of epsilon, <z_g, x_g> < epsilon ||x_g||^2, are projected to zero, for good, up to the
    budget.

    Data need: D3, training with labels; nothing beyond the training run itself.

    Options:
        start: share of training before groups are scored, 0.1.
        penalty, amplify, cap: None for what is published for the base: 1e-3, 2 and 10 for SGD, 1e-2, 20 and 1000 for
            others.
        epsilon: of the half-space, in [0, 1), 0.95.
        tolerance: how much more than the budget is penalised, a share, 0.05.
        complete: whether what the budget still lacks at 0.75 of training is projected until 0.9 of it, true.

    Raises UsageError for a share outside [0, 1], options below their least, too few steps for the completion, and a
    budget out of reach.

    Source: Chen et al., OTOv2: Automatic, Generic, User-Friendly, ICLR 2023.

    Deviations: complete is an addition. There is no upper group sparsity a layer beside the limits' `protect`, and
    weight decay is the base's. What is projected is forgotten by the base's momentum.
    """

    start: float = 0.1
    penalty: float | None = None
    amplify: float | None = None
    cap: float | None = None
    epsilon: float = 0.95
    tolerance: float = 0.05
    complete: bool = True

    facts: ClassVar[Facts] = Facts(
        name="dhspg",
        summary="redundant groups are penalised until half-space projections have met the budget",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., OTOv2: Automatic, Generic, User-Friendly, ICLR 2023; with an optional completion that is "
        "not the paper's",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for a share that is none."""
        share("start", self.start)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """DHSPG."""
        start = int(self.start * run.total)
        penalty, amplify, cap = dhspg_defaults(base)
        return DHSPG(
            base,
            rows,
            quota,
            start_step=start,
            penalty=penalty if self.penalty is None else self.penalty,
            amplify=amplify if self.amplify is None else self.amplify,
            cap=cap if self.cap is None else self.cap,
            epsilon=self.epsilon,
            tolerance=self.tolerance,
            complete=None if quota.empty else window(run, self.complete, start + 1),
            seed=run.seed,
        )
