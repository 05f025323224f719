"""LHSPG as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Decision, Driver, Facts, Run
from reference_impls.oto.lhspg import LHSPG, scorable
from reference_impls.oto.lora import Also, Lora, adapters, attach
from reference_impls.oto.methods.scored import InPeriods
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.wrapper import SparseOptimizer


@dataclass(frozen=True)
class Lhspg(InPeriods):
    """LHSPG: HESSO's schedule over low-rank adapters, which are trained in place of the weights and merged at the end.

    A weight W (out, in) gets A (rank, in) and B (out, rank) and the layer computes with W + alpha / rank B A. Scores
    are HESSO's formulas, a float tensor of shape (count + 1,) without a unit, low leaves, of W_g, the entries of
    group g in frozen weights with adapters, and U_g, those of the update alpha / rank B A, in place of the direction:

        s_g = magnitude M(||W_g||) + average M(||W_g|| / n_g) + cosine M(cosine_sign cos(W_g, U_g) + 1)
              + taylor M(|<W_g, U_g>|) + taylor2 M(<W_g, U_g>^2 / 2)

    where M divides by the Euclidean norm over all groups that may leave. A low cosine says that training takes the
    group towards zero. What fades is all of the group, its rows of B (or columns of A) among it.

    Data need: D3, training with labels, of a model that is trained already (dense_epochs, or weights).

    Options:
        start, finish, periods: as HESSO's, 0.1, 0.25 and 10; no earlier than step 1.
        magnitude, average, cosine, taylor, taylor2, cosine_sign: HESSO's, 0.2 each, taylor2 0, and 1.
        rank, alpha, dropout: of the adapters, 8, 16.0 and 0.05.
        targets: patterns of modules that get adapters, separated by commas; empty for all linear layers and
            convolutions that hold groups.
        also: what else is trained, `heads` (the output layers), `all` or `nothing`.

    Raises UsageError for shares, weights and adapters that cannot be, a model without a layer to adapt, a budget out
    of reach with the groups that adapters see, and updates that are all zero when groups are scored.

    Source: Chen et al., LoRAShear: Efficient Large Language Model Structured Pruning and Knowledge Recovery, 2023.

    Deviations: the optimizer alone, without the analysis of which layers to leave alone and the recovery on mixed
    data. No weights of the criteria are published: they are HESSO's. Budgets are of the whole model, not one a
    cluster of layers. A is trained in all steps, as kept groups share it. Adapters of convolutions are an addition.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: str = ""
    also: Also = "heads"

    facts: ClassVar[Facts] = Facts(
        name="lhspg",
        summary="low-rank adapters are trained while the groups that they score lowest fade to zero",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., LoRAShear: Efficient Large Language Model Structured Pruning and Knowledge Recovery, 2023; "
        "its optimizer alone, with HESSO's weights of the criteria and budgets for the whole model, and with adapters "
        "of convolutions",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
        penalises=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for shares and adapters that cannot be."""
        super().__post_init__()
        self.lora  # noqa: B018 - checks them

    @property
    def lora(self) -> Lora:
        """What the adapters are like."""
        return Lora(self.rank, self.alpha, self.dropout)

    def prepare(self, run: Run) -> None:
        """Adapters, the same for the same seed: a checkpoint's are loaded into them. Raise UsageError as `attach`."""
        patterns = [pattern.strip() for pattern in self.targets.split(",") if pattern.strip()]
        attach(run.model, run.groups, self.lora, run.rng("lora"), targets=patterns, also=self.also)
        super().prepare(run)

    def rows(self, run: Run) -> Rows:
        """Group vectors with the adapters'."""
        return Rows(adapters(run.model).units(run.units))

    def quota(self, run: Run) -> Quota:
        """Without the groups that adapters say nothing about."""
        return scorable(super().quota(run), self.rows(run), adapters(run.model))

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """LHSPG."""
        return LHSPG(base, rows, quota, adapters(run.model), **self.schedule(run, 1))

    def decide(self, run: Run) -> Decision:
        """The groups that training has set to zero; the adapters are merged before anything looks at the model.

        Not in the last step: what is saved after it has to fit the model that `prepare` makes.
        """
        adapters(run.model).merge()
        return super().decide(run)
