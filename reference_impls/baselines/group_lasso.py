"""Group lasso while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.norm_scale import scales
from reference_impls.baselines.regulariser import Regulariser, add, batch_norms, free


@dataclass(frozen=True)
class GroupLasso(Regulariser):
    """Trains with the sum of the groups' norms as penalty; then the groups with the smallest norm leave.

    Penalty: reg sum_g ||w_g||_2, w_g all that is zero once group g is removed: its rows of W (out, in, kh, kw), norm
    entries and biases, and columns where only these make the subnet exact; as reg w / ||w_g||_2 on the gradient, 0 for
    a group at zero. Score: ||w_g||_2 over the axis' largest; shape (count + 1,), float64; before normalising in the
    weights' unit.

    Data: D3, training by the recipe.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the batch norms of a group join with only_bn; without effect otherwise.
        normalise=max: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: without effect: what is zeroed counts.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        reg=1e-4: the penalty's weight in the loss.
        decay=false: the recipe's weight decay is off while the penalty is trained with; true keeps it.
        only_bn=false: true presses batch norm scales alone, by the root of their mean square, and scores by |gamma|.

    The result depends on the recipe, the data and the seed. Raises UsageError for an option that does not exist and a
    budget out of reach, and with only_bn when no group passes a batch norm.

    Source: Wen et al., Learning Structured Sparsity in Deep Neural Networks, NIPS 2016. There filters and channels of
    each layer are groups of their own; here what leaves together has one norm. It is not scaled by the group's size.
    """

    facts: ClassVar[Facts] = Facts(
        name="group-lasso",
        summary="group lasso while training, then the smallest groups leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Wen et al., Learning Structured Sparsity in Deep Neural Networks, NIPS 2016; over coupled groups",
    )
    normalise: Normalise = "max"
    only_bn: bool = False

    @property
    def unknown(self) -> str:
        """Of the variant."""
        return "none passes a batch norm"

    def press(self, run: Run) -> None:
        """reg * w / norm of w's group; nothing for a group at zero."""
        if not self.only_bn:
            norms = run.units.norms()
            add(run, torch.where(free(run) & (norms > 0), self.reg / norms, 0.0), "zeroed")
            return
        lines = list(batch_norms(run))
        squares, number = (torch.zeros(run.groups.count + 1, device=run.device) for _ in range(2))
        for scale, numbers in lines:
            squares.index_add_(0, numbers, scale.square().to(squares.dtype))
            number.index_add_(0, numbers, torch.ones_like(squares[numbers]))
        norms = (squares / number.clamp(min=1) + 1e-9).sqrt()
        for scale, numbers in lines:
            scale.grad.add_((free(run) * self.reg / norms)[numbers] * scale)  # type: ignore[union-attr]

    def local(self, run: Run) -> torch.Tensor:
        """The norms that were pressed."""
        return scales(run, self.reduce) if self.only_bn else run.units.norms()
