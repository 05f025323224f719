"""Early-Bird tickets: the channel mask that slimming would take settles early, and training may stop waiting for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from conformance.errors import TooFewStepsError, UsageError
from conformance.method import DataNeed, Driver, Event, Facts, Run
from conformance.partition.selection import Selection
from reference_impls.tickets import gamma
from reference_impls.tickets.rounds import redraw_, snapshot
from reference_impls.tickets.slimming import Slimming


@dataclass(frozen=True)
class EarlyBird(Slimming):
    """Slimming that removes its groups as soon as its mask has settled, and trains on with the ticket alone.

    Mask: at each epoch's start |gamma| of all c batch norm channels in one line; bool (c,), False for the share p of
    smallest ones. p is a budget in groups, else the share of groups that params or macs come to now. The ticket is
    there when the newest mask differs from each of the window - 1 before it in at most `threshold` of the channels. A
    mask whose density is not within 1 % (or one channel) of 1 - p is none, and those before it do not count. Score of
    groups: as `slimming`, (count + 1,).

    Data: D3, training by the recipe.

    Options:
        penalty=1e-4: the weight of sum |gamma| in the loss.
        gamma_init=0.5: what every scale is set to before training; none leaves them, as a trained model needs.
        reduce=mean: how a group's batch norms join: mean, sum, max, prod, first (in the model's order).
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        threshold=0.1: the share of channels in which settled masks may differ.
        window=5: how many masks are compared: the fifth epoch is the earliest, with equal scales to begin with (see
            gamma_init) the sixth.
        consecutive=false: true asks that the last `window` distances between neighbours be small: one epoch more.
        reinit=false: true draws the ticket's weights anew; otherwise it keeps those of that epoch.

    The result depends on the recipe, the data and the seed. Where no ticket is found the mask at the end is taken: the
    history says so, and `state["found"]` is 0. Raises UsageError as `slimming` does, and TooFewStepsError for a
    training in which no mask could settle.

    Source: You et al., Drawing Early-Bird Tickets: Towards More Efficient Training, ICLR 2020. The comparison is that
    of its program; `consecutive` is the text's. Here groups leave, exactly p of them, and low precision is left out.
    """

    facts: ClassVar[Facts] = Facts(
        name="early-bird",
        summary="slimming whose mask is taken as soon as it settles; training goes on with the ticket",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="You et al., Drawing Early-Bird Tickets: Towards More Efficient Training, ICLR 2020; over groups",
        budgets=("groups", "params", "macs"),
        penalises=True,
        requires="batch norms",
    )
    threshold: float = 0.1
    window: int = 5
    consecutive: bool = False
    reinit: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for options that cannot be."""
        super().__post_init__()
        if not 0 <= self.threshold <= 1 or self.window < 2:
            raise UsageError(f"{self.name}: threshold is a share and window at least 2")

    def prepare(self, run: Run) -> None:
        """Nothing is found yet."""
        super().prepare(run)
        run.state |= {"masks": [], "found": 0, "removed": []}
        if self.reinit:
            run.state["theta"] = snapshot(run.model)

    @property
    def looks(self) -> int:
        """Epochs whose starts it takes to find a ticket; gammas that all begin equal make no mask at the first."""
        return self.window + self.consecutive + (self.gamma_init is not None)

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The base itself. Raises TooFewStepsError when no mask could settle: that were slimming by another name."""
        assert run.data.task is not None
        per_epoch = run.data.task.count("train") // run.recipe.batch
        needed = (self.looks - 1) * per_epoch + 1
        if run.total < needed:
            raise TooFewStepsError(
                f"{self.name} looks at {self.looks} epochs' beginnings before a mask can have settled: it needs "
                f"{needed} steps, not {run.total}; a smaller window needs fewer",
                needed,
            )
        return super().wrap_optimizer(run, optimizer)

    def on_event(self, event: Event, run: Run) -> None:
        """Look at each epoch's start; from the ticket on hold what has left at zero."""
        super().on_event(event, run)
        if event == "epoch_start" and not run.state["found"]:
            self._look(run)
        elif event == "after_backward" and run.state["found"]:
            run.units.still_(run.state["removed"])
        elif event == "after_step" and run.state["found"]:
            run.units.fill_(run.state["removed"])

    def _look(self, run: Run) -> None:
        """Draw this epoch's mask, log how far it is from the last, and take the ticket once it has settled."""
        values = gamma.vector(run.model)
        ratio = self.ratio(run)
        mask = smallest_out(values, ratio).cpu()
        density = float(mask.double().mean())
        row: dict[str, float | int | str] = {"phase": run.phase, "step": run.step, "mask_density": density}
        if abs(density - (1 - ratio)) > max(0.01, 1 / mask.numel()):
            # Equal gammas make no mask of this ratio; what is near it is near nothing.
            run.state["masks"] = []
            run.log({**row, "mask": "not of the ratio"})
            return
        masks = [*run.state["masks"], mask][-self.window - self.consecutive :]
        run.state["masks"] = masks
        if len(masks) > 1:
            row["mask_distance"] = distance(masks[-1], masks[-2])
        if settled(masks, self.threshold, self.window, consecutive=self.consecutive):
            self._take(run)
            row["early_bird"] = run.epoch + 1
        run.log(row)

    def ratio(self, run: Run) -> float:
        """The share of channels the mask leaves out: of a budget in groups that share, else what it comes to now."""
        if run.budget.kind == "groups":
            return run.budget.remove
        scores = self.score(run)
        return len(self._smallest(run, scores)) / max(int(torch.isfinite(scores[1:]).sum()), 1)

    def _smallest(self, run: Run, scores: torch.Tensor) -> Selection:
        choice = self.select(run, scores)
        assert isinstance(choice, Selection)
        return choice

    def _take(self, run: Run) -> None:
        """Fix the selection; its weights as they are, or drawn anew with an optimizer that knows nothing."""
        choice = self._smallest(run, self.score(run))
        run.state |= {"found": run.epoch + 1, "removed": list(choice.removed), "masks": []}
        if self.reinit:
            redraw_(run.model, run.state.pop("theta"), run.rng("weights"))
            if self.gamma_init is not None:
                gamma.fill_(run.model, self.gamma_init)
            assert run.optimizer is not None
            run.optimizer.state.clear()
        run.units.fill_(choice.removed)

    def decide(self, run: Run) -> Selection:
        """The ticket; where none was found, what slimming takes at the end, and the history says so."""
        if run.state["found"]:
            return run.groups.select(np.array(run.state["removed"], dtype=np.int64))
        run.log({"phase": run.phase, "step": run.step, "early_bird": "not found: the mask at the end is taken"})
        choice = self._smallest(run, self.score(run))
        run.state["removed"] = list(choice.removed)
        return choice


def smallest_out(values: torch.Tensor, ratio: float) -> torch.Tensor:
    """Bool, False for what is not above the value of rank floor(ratio * size): that many, and all that equal it."""
    number = math.floor(ratio * values.numel() + 1e-9)
    if not number:
        return torch.ones_like(values, dtype=torch.bool)
    return values > torch.sort(values).values[number - 1]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The share of positions in which two masks differ."""
    return float((one != other).double().mean())


def settled(masks: list[torch.Tensor], threshold: float, window: int, *, consecutive: bool) -> bool:
    """Whether the masks (oldest first) hold still.

    The newest of `window` masks is near each of the others; or, consecutive, the last `window` distances
    between neighbours are all small, which needs one mask more.
    """
    if len(masks) < window + consecutive:
        return False
    masks = masks[-window - consecutive :]
    pairs = list(pairwise(masks)) if consecutive else [(masks[-1], older) for older in masks[:-1]]
    return all(distance(one, other) <= threshold for one, other in pairs)
