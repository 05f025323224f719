"""HSPG as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.oto.hspg import HSPG
from reference_impls.oto.kinds import by_kind, kinds_of, read_by_kind, read_shares
from reference_impls.oto.methods.completion import window
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.trained import Trained, share
from reference_impls.oto.wrapper import SparseOptimizer


@dataclass(frozen=True)
class Hspg(Trained):
    """HSPG: a penalty on the norm of every group, later with projections of what a step takes out of its half-space.

    With x_g all entries of group g, z_g where the step would take them, from the gradient of

        loss + penalty sum_g ||x_g||

    group g is set to zero, for good, when <z_g, x_g> < epsilon ||x_g||^2, from `start` on and up to the budget.
    Figures of groups are float tensors of shape (count + 1,), entry 0 unused; penalty is in units of the loss for one
    of x, epsilon a number without unit. Of more groups than there is room for a random part, drawn by the seed, is
    projected.

    Data need: D3, training with labels; nothing beyond the training run itself.

    Options:
        start: share of training before projection, N_P in the paper, 0.25.
        penalty: weight of the mixed norm, lambda in the paper, 1e-3.
        penalty_milestones: shares of training, such as `35/120,40/120`, at which penalty falls to a tenth, and to 0
            once that is at most 1e-6; empty for none.
        epsilon: where it begins, in [0, 1), 0.0; a number, or by kind such as `conv=0,linear=0.99`.
        adapt: share of training after which epsilon is adapted, 0.02; 0 for never.
        adapt_kinds: the kinds whose epsilon adapts, separated by commas; empty for all.
        upper_group_sparsity: the share of an axis' groups that may be zero, a number or by kind such as `linear=0.9`;
            none (None) for no bound.
        complete: whether what the budget still lacks at 0.75 of training is projected until 0.9 of it, by the lowest
            <z_g, x_g> / ||x_g||^2; true.

    Raises UsageError for shares outside [0, 1], unknown kinds, an epsilon outside [0, 1), a penalty below 0, too few
    steps for the completion, and a budget out of reach.

    Source: Chen et al., Only Train Once: A One-Shot Neural Network Training and Pruning Framework, NeurIPS 2021.

    Deviations: the paper has no target; here the budget is a cap, and complete meets it. Any base optimizer makes the
    steps, the paper's is SGD. Zero groups are forgotten by its momentum.
    """

    start: float = 0.25
    penalty: float = 1e-3
    penalty_milestones: str = ""
    epsilon: float | str = 0.0
    adapt: float = 0.02
    adapt_kinds: str = ""
    upper_group_sparsity: float | str | None = None
    complete: bool = True

    facts: ClassVar[Facts] = Facts(
        name="hspg",
        summary="a mixed-norm penalty, then half-space projections, up to the budget",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., Only Train Once: A One-Shot Neural Network Training and Pruning Framework, NeurIPS 2021; "
        "capped by the budget, with an optional completion that is not the paper's",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for shares that are none."""
        share("start", self.start)
        share("adapt", self.adapt)
        self._published()

    def _published(self) -> dict[str, Any]:
        """The options that are text here, as arguments of `HSPG`; milestones as shares."""
        upper = self.upper_group_sparsity
        found: dict[str, Any] = {
            "penalty_milestones": read_shares("penalty_milestones", self.penalty_milestones),
            "epsilon": read_by_kind("epsilon", self.epsilon),
            "adapt_kinds": [kind.strip() for kind in self.adapt_kinds.split(",") if kind.strip()],
            "upper_group_sparsity": None if upper is None else read_by_kind("upper_group_sparsity", upper),
        }
        for given in (found["epsilon"], found["upper_group_sparsity"]):
            by_kind(given or 0.0, 0.0)
        kinds_of(found["adapt_kinds"])
        return found

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HSPG."""
        start, told = int(self.start * run.total), self._published()
        told["penalty_milestones"] = [round(share * run.total) for share in told["penalty_milestones"]]
        return HSPG(
            base,
            rows,
            quota,
            start_step=start,
            penalty=self.penalty,
            **told,
            adapt_every=max(1, round(self.adapt * run.total)) if self.adapt else 0,
            complete=None if quota.empty else window(run, self.complete, start),
            seed=run.seed,
        )
