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
    """Squared weights with a factor for each group that grows every epoch, faster for those that weigh less."""

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
