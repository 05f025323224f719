"""DepGraph's sparse learning: weight decay that grows as a group weighs less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.magnitude import magnitude
from reference_impls.baselines.regulariser import Regulariser, add, extremes, free, importance


@dataclass(frozen=True)
class GroupNormReg(Regulariser):
    """Trains with weight decay that is stronger the less a group weighs in its axis; then the smallest groups leave.

    Penalty: reg 2^(alpha (max I - I_g) / (max I - min I)) w on the gradient of all members of group g (rows and
    columns of W (out, in, kh, kw), norm entries, biases); I_g the root of the sum of their w^2 without biases, max and
    min over the axis' groups that may leave. The factor goes from 1 to 2^alpha; an axis whose groups weigh the same is
    left alone. Score: the sum of w^2 as in `l2`, over the axis' largest; shape (count + 1,), float64; before
    normalising in the weights' unit squared.

    Data: D3, training by the recipe.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=max: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        reg=1e-4: the penalty's weight in the loss.
        decay=false: the recipe's weight decay is off while the penalty is trained with; true keeps it.
        alpha=4: the factor of the smallest group is 2^alpha.

    The result depends on the recipe, the data and the seed. Raises UsageError for an option that does not exist and a
    budget out of reach.

    Source: Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, its sparse learning. There reg is 5e-4 on
    CIFAR. The score is a mean over members instead of their sum.
    """

    facts: ClassVar[Facts] = Facts(
        name="group-norm-reg",
        summary="weight decay that grows as a group weighs less in its axis, then the smallest groups leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (sparse learning)",
    )
    normalise: Normalise = "max"
    alpha: float = 4.0

    def press(self, run: Run) -> None:
        """reg * 2^(alpha (max - I) / (max - min)) * w; an axis whose groups weigh all the same is left alone."""
        line = importance(run)
        most, least = extremes(run, line)
        pressed = free(run) & (most > least)
        exponent = torch.where(pressed, self.alpha * (most - line) / torch.where(pressed, most - least, 1), 0)
        add(run, torch.where(pressed, self.reg * 2**exponent, 0), "all")

    def local(self, run: Run) -> torch.Tensor:
        """Squared weights, as the penalty."""
        return magnitude(run, 2, self.reduce, self.members)
