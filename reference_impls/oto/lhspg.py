"""LHSPG: groups fade while adapters learn, and what adapters have learned says which groups (LoRAShear)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from conformance.errors import UsageError
from reference_impls.oto.fading import Periods
from reference_impls.oto.lora import Adapters
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Lines, Rows
from reference_impls.oto.saliency import Criteria, Products, hesso_scores


class LHSPG(Periods):
    """LHSPG, LoRA Half-Space Projected Gradient: HESSO's schedule over a model with adapters.

    W_g are the entries of group g in frozen weights with adapters, n_g how many, U_g those of their updates s B A.
    The scores are a tensor of shape (count + 1,), entry 0 unused, without a unit, in float32 (float64 where a
    parameter is): low leaves. They are HESSO's formulas of W_g with U_g in place of the optimizer's direction,

        s_g = magnitude M(||W_g||) + average M(||W_g|| / n_g) + cosine M(cosine_sign cos(W_g, U_g) + 1)
              + taylor M(|<W_g, U_g>|) + taylor2 M(<W_g, U_g>^2 / 2)

    where M divides by the Euclidean norm over all groups that may leave: a cosine that is low says that training has
    been taking the group towards zero. What fades is all of the group, and with it its rows of B (and columns of A
    where the columns that read it have to be zero): kept groups' adapters are trained throughout on the loss of the
    fading network.

    rows are of `adapters.units(...)`; base is over what wants gradients once adapters are attached. A group without
    an entry in a weight with adapters stays, as nothing is known of it.

    Data need: D3, a training run; nothing beyond its gradients.

    Options:
        start_step: steps before the first period, at least 1, as all updates are zero before the first step.
        pruning_steps, periods, criteria: as HESSO's.

    Raises UsageError for a schedule that cannot be, and when the budget cannot be reached with the groups that can be
    scored. A step that scores raises it when no update has become anything but zero.

    Source: Chen et al., LoRAShear: Efficient Large Language Model Structured Pruning and Knowledge Recovery, 2023.

    Deviations: no weights of the criteria are published; they are HESSO's. The budget is of the whole model, not one
    a cluster of layers. A is trained in all steps, as kept groups share it. The average is over the group's own
    entries.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        adapters: Adapters,
        *,
        start_step: int,
        pruning_steps: int,
        periods: int = 10,
        criteria: Criteria | None = None,
    ) -> None:
        """See the class."""
        super().__init__(
            base,
            rows,
            scorable(quota, rows, adapters),
            start_step=start_step,
            pruning_steps=pruning_steps,
            periods=periods,
            criteria=criteria,
        )
        if start_step < 1 and not quota.empty:
            raise UsageError("pruning starts at step 1 at the earliest: before it the adapters' updates are all zero")
        self.adapters = adapters
        self._weights = adapted_members(rows, adapters)
        self._sizes = self._weights.total(
            self._weights.repeated(
                [item.tensor.numel() / item.tensor.shape[item.dim] for item in self._weights.members]
            )
        )

    def scored_step(self) -> torch.Tensor:
        """Scores of weights and updates as they are, then a step of the base."""
        lines = self._weights
        # One update at a time: the next is made when the one before has been read.
        updates = (self.adapters.update(member.name) for member in lines.members)
        xx, xu, uu = lines.grams(lines.tensors(), updates)
        if not bool((uu[self._free] > 0).any()):
            raise UsageError(
                f"after {self.steps} steps all updates of the adapters are zero, and groups cannot be scored by them: "
                "start pruning later, or raise the learning rate"
            )
        scores = hesso_scores(Products(xx, xu, uu), self._sizes, self._free, self.criteria)
        self.base.step()
        return scores


def adapted_members(rows: Rows, adapters: Adapters) -> Lines:
    """The group vectors' members that are weights with adapters."""
    found = [member for member in rows.members if member.name in adapters.layers]
    return Lines(found, rows.count, rows.dtype, rows.device)


def scorable(quota: Quota, rows: Rows, adapters: Adapters) -> Quota:
    """The quota, with groups left alone that no weight with adapters has an entry of."""
    alone = np.ones(rows.count + 1, dtype=bool)
    for member in adapted_members(rows, adapters).members:
        alone[member.groups] = False
    return replace(quota, alone=alone)
