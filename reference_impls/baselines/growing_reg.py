"""Growing regularisation: weight decay that grows every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Event, Facts, Run
from conformance.method.units import Reduce
from reference_impls.baselines.criterion import Normalise
from reference_impls.baselines.magnitude import magnitude
from reference_impls.baselines.regulariser import Regulariser, add, extremes, free, importance

_GROWING = "growing"


@dataclass(frozen=True)
class GrowingReg(Regulariser):
    """Trains with a weight decay that grows every epoch, faster for groups that weigh less; then the smallest leave.

    Penalty: r_g w on the gradient of all members of group g (rows and columns of W (out, in, kh, kw), norm entries,
    biases). r has shape (count + 1,), begins at reg, and grows at each epoch's end by delta (max I - I_g) /
    (max I - min I + 1e-8), I_g the root of the sum of w^2 without biases, max and min over the axis' groups that may
    leave. Score: the sum of w^2 as in `l2`, over the axis' largest; shape (count + 1,), float64; before normalising in
    the weights' unit squared.

    Data: D3, training by the recipe.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=max: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: which count: all, producers (rows and norms), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        reg=1e-4: the decay every group begins with.
        decay=false: the recipe's weight decay is off while the penalty is trained with; true keeps it.
        delta=1e-5: what the smallest group's decay gains an epoch.

    The result depends on the recipe (more epochs, more decay), the data and the seed. Raises UsageError for an option
    that does not exist and a budget out of reach.

    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021; reconstructed. There (GReg-1) the decay
    grows for filters that L1 has chosen beforehand, up to a ceiling; here for all groups by what they weigh now.
    """

    facts: ClassVar[Facts] = Facts(
        name="growing-reg",
        summary="weight decay that grows every epoch, faster for small groups, then the smallest leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Wang et al., Neural Pruning via Growing Regularization, ICLR 2021; over coupled groups, reconstructed",
    )
    normalise: Normalise = "max"
    reduce: Reduce = "mean"
    delta: float = 1e-5

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Every group begins at reg."""
        run.state[_GROWING] = torch.full((run.groups.count + 1,), self.reg, device=run.device)
        return super().wrap_optimizer(run, optimizer)

    def on_event(self, event: Event, run: Run) -> None:
        """Press after each backward pass; grow at the end of each epoch."""
        super().on_event(event, run)
        if event == "epoch_end":
            with torch.no_grad():
                line = importance(run)
                most, least = extremes(run, line)
                growth = self.delta * (most - line) / (most - least + 1e-8)
                run.state[_GROWING] = self._factors(run) + torch.where(free(run), growth, 0)

    def press(self, run: Run) -> None:
        """factor * w."""
        add(run, torch.where(free(run), self._factors(run), 0), "all")

    def _factors(self, run: Run) -> torch.Tensor:
        line: torch.Tensor = run.state[_GROWING]
        return line.to(run.device)

    def local(self, run: Run) -> torch.Tensor:
        """Squared weights."""
        return magnitude(run, 2, self.reduce, self.members)
