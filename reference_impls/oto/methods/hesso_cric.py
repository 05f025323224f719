"""HESSO-CRIC as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.errors import TooFewStepsError, UsageError
from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.oto.cric import HESSOCRIC, Cycles
from reference_impls.oto.methods.scored import Scored
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.trained import share
from reference_impls.oto.wrapper import SparseOptimizer

_TRIES = 1000


@dataclass(frozen=True)
class HessoCric(Scored):
    """HESSO-CRIC: HESSO, once, after redundancy was looked at along trajectories on which groups are missing.

    Scores are HESSO's, a float tensor of shape (count + 1,) without a unit, low leaves; they are taken in every step
    of the search and averaged. What leaves is lowest by

        mean over steps of s_g + loss_weight r_l / n_l

    with r_l, for g's axis l of n_l groups, the mean over the shares 1/4, 1/2 and 3/4 of that axis' lowest groups of
    (loss a step after they were set to zero) / (loss where the search began). First come these probes, two steps
    each; then cycles: groups in doubt fade to zero within the cycle, groups that come among the lowest meanwhile are
    in doubt in the next, and the remembered model is put back. At the end what was found fades within `fade`.

    Data need: D3, training with labels; `step` looks at the loss.

    Options:
        start: share of training before the search, 0.1.
        sampling: share of training that all cycles take together, 0.15.
        fade: share of training of the final fade, 0.1. Probes take six steps an axis beside these shares.
        cycles: how many there are at most, 10.
        tolerance: with how many new groups in doubt the cycles end, 0.
        loss_weight: of the probes, 1.0; 0 for none.
        magnitude, average, cosine, taylor, taylor2, cosine_sign: HESSO's, 0.2 each, taylor2 0, and 1.

    Raises UsageError for shares outside [0, 1], weights below 0 or all 0, cycles that cannot be, a budget out of
    reach, and shares that leave no training for the probes; TooFewStepsError, with how many are needed, for too short
    a training.

    Source: Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning,
    2024 (corrective redundancy identification).

    Deviations: what is undone leaves no trace in the base optimizer either, where the papers' code lets its momentum
    run on. Running statistics of batch norms are not put back. taylor2 is off, as in HESSO.
    """

    sampling: float = 0.15
    fade: float = 0.1
    cycles: int = 10
    tolerance: int = 0
    loss_weight: float = 1.0

    facts: ClassVar[Facts] = Facts(
        name="hesso-cric",
        summary="HESSO, with redundancy looked at along trajectories on which groups are missing",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and "
        "Pruning, 2024 (corrective redundancy identification); what is undone leaves no trace in the base optimizer",
        budgets=("groups", "params", "macs"),
        zeroes=True,
        needs_loss=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for shares that cannot be."""
        super().__post_init__()
        share("sampling", self.sampling)
        share("fade", self.fade)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HESSO-CRIC."""
        start, fade, cycles = self._schedule(run.total)
        needed = self._needed(quota, run.total)
        if needed > run.total and not quota.empty:
            least = run.total
            for _ in range(_TRIES):  # its parts are shares of training, and grow with it
                least = max(least, self._needed(quota, least))
            text = f"hesso-cric needs {least} steps on this model with these options, not {run.total}"
            if self._needed(quota, least) > least:
                raise UsageError("hesso-cric: start, sampling and fade together leave no training for the probes")
            raise TooFewStepsError(text, least)
        return HESSOCRIC(base, rows, quota, start_step=start, fade_steps=fade, cycles=cycles, criteria=self.criteria)

    def _schedule(self, total: int) -> tuple[int, int, Cycles]:
        """First step, steps of the fade, and the cycles, of a training of so many steps."""
        steps = max(1, round(self.sampling * total / max(self.cycles, 1)))
        cycles = Cycles(steps, self.cycles, self.tolerance, self.loss_weight)
        return int(self.start * total), max(1, round(self.fade * total)), cycles

    def _needed(self, quota: Quota, total: int) -> int:
        start, fade, cycles = self._schedule(total)
        return start + HESSOCRIC.steps_needed(quota, cycles, fade)
