"""Lottery tickets of groups: prune channels, put those left back to where they began, train the small net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from conformance.errors import UsageError
from conformance.method import Budget, DataNeed, Driver, Facts, Run, ladder
from conformance.method.budget import solve
from conformance.method.ladder import SCOPES, Scope
from conformance.method.units import Reduce
from conformance.partition.selection import Selection
from reference_impls.baselines.criterion import Normalise, normalised
from reference_impls.tickets import gamma
from reference_impls.tickets.rounds import Rounds

Criterion = Literal["gamma", "l1"]
Kept = dict[str, dict[int, torch.Tensor]]


@dataclass(frozen=True)
class StructuredTicket(Rounds):
    """Groups leave in rounds, the others are put back to where they began and trained again: a ticket that is small.

    Score: the group's |gamma|, joined over its batch norms (+inf without one: it stays), or the sum of |w| over the
    rows of W (out, in, kh, kw) that make it; of the model as trained; shape (count + 1,), float64. What has left has
    -inf. After round L of R = rounds the share 1 - (1 - p)^(L / R) of the budget's measure has gone (geometric), or
    p L / R (linear), p the budget.

    Data: D3, training by the recipe, R + 1 times (R with dense_first=false).

    Options:
        rounds=1: how often is pruned and trained.
        schedule=geometric: each round removes the same share of what is left; linear: of the whole.
        reset=init: the weights each round trains: from before training (init), from after `rewind` of it (rewind),
            drawn anew (random), or as they are, at the fine-tuning rate (keep).
        rewind=0: for reset=rewind, a share of the training below 1 or a number of steps; training goes on from there.
        control=none: none, or random weights in the last round (random), in the ticket that was found.
        dense_first=true: train the model before the first round; false takes it as trained.
        criterion=gamma: scales of batch norms (gamma), or the filters' absolute sum (l1).
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=none: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.

    The result depends on the recipe, the data and the seed. `state["kept"]` has the positions that stay, for `sliced`.
    Raises UsageError for options that do not exist or contradict each other, a budget out of reach, and, for gamma,
    when no group has a batch norm.

    Source: Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; reconstructed for groups. Published tickets
    are masks of weights, which no dense kernel runs faster.
    """

    facts: ClassVar[Facts] = Facts(
        name="structured-ticket",
        summary="groups leave in rounds, the others put back to where they began",
        driver=Driver.ROUNDS,
        data=DataNeed.TRAINING,
        paper="Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; reconstructed for groups",
        zeroes=True,
        requires="batch norms, or criterion=l1",
    )
    criterion: Criterion = "gamma"
    reduce: Reduce = "mean"
    normalise: Normalise = "none"
    ranking: Scope = "global"

    def __post_init__(self) -> None:
        """Raise UsageError for options that cannot be."""
        super().__post_init__()
        choices = (
            (self.criterion, get_args(Criterion)),
            (self.ranking, SCOPES),
            (self.reduce, get_args(Reduce)),
            (self.normalise, get_args(Normalise)),
        )
        for given, known in choices:
            if given not in known:
                raise UsageError(f"{self.name}: there are {', '.join(known)}, but no {given!r}")

    @property
    def scope(self) -> Scope:
        """As the option says."""
        return self.ranking

    def score(self, run: Run) -> torch.Tensor:
        """By the criterion; what has left before is lowest."""
        if self.criterion == "gamma":
            line = gamma.scores(run, self.reduce)
        else:
            line = run.units.reduce(
                lambda _, weight: weight.abs(), "producers", self.reduce, only=lambda item: _is_matrix(run, item.name)
            )
        found = normalised(run.groups, torch.where(line == torch.inf, 0, line), self.normalise)
        found[(line == torch.inf).cpu()] = torch.inf
        found[run.state.get("removed", [])] = -torch.inf
        return found

    def prune(self, run: Run, level: int) -> None:
        """Remove up to this round's share of the budget, and remember what of each tensor stays."""
        budget = Budget(run.budget.kind, self.gone(level, run.budget.remove))
        steps = ladder(run.groups, self.score(run), scope=self.ranking, limits=run.limits)
        choice = steps.selection(solve(steps, budget, run.cost))
        run.state["removed"] = list(choice.removed)
        run.state["kept"] = kept(choice)
        share = run.cost.removed("groups", choice)
        run.log({"phase": f"round-{run.round}", "step": self.begins(run)[0], "removed": share})

    def hold(self, run: Run) -> None:
        """Every slice of a removed group is zero."""
        run.units.fill_(run.state["removed"])

    def still(self, run: Run) -> None:
        """Nor has it a gradient."""
        run.units.still_(run.state["removed"])

    def decide(self, run: Run) -> Selection:
        """The last round's."""
        return run.groups.select(np.array(run.state["removed"], dtype=np.int64))


def _is_matrix(run: Run, name: str) -> bool:
    return run.units.tensors[name].ndim > 1


def kept(choice: Selection) -> Kept:
    """For each parameter and buffer, by name, and each dimension that shrinks: the positions that stay (int64)."""
    names = choice.groups.graph.names
    return {
        name: {dim: torch.from_numpy(choice.kept(names[name], dim)) for dim in dims}
        for name, dims in choice.slices().items()
    }


def sliced(theta: Mapping[str, torch.Tensor], positions: Kept) -> dict[str, torch.Tensor]:
    """The state of the full model, such as theta_0, as the subnet has it."""
    found = {}
    for name, tensor in theta.items():
        for dim, line in positions.get(name, {}).items():
            tensor = tensor.index_select(dim, line.to(tensor.device))  # noqa: PLW2901 - one cut after the other
        found[name] = tensor.clone()
    return found
