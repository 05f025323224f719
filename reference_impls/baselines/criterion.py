"""What all criteria share: local scores, reduced over the members of a group, normalised within an axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UnsuitedError, UsageError
from conformance.method import Budget, Decision, Method, Run, Slices, ladder
from conformance.method.budget import solve
from conformance.method.ladder import SCOPES, Scope
from conformance.method.units import Reduce
from conformance.partition.groups import Groups

Normalise = Literal["none", "sum", "mean", "max", "standardise", "lamp"]
Members = Literal["all", "producers", "consumers"]
Flags = npt.NDArray[np.bool_]

UNKNOWN = float("inf")
"""The local score of a group that a criterion can say nothing about: the group stays."""


@dataclass(frozen=True)
class Criterion(Method):
    """A method that scores groups and removes what scores lowest.

    ranking: `global` compares the normalised scores of all groups, `local` takes the same share of every
    axis, `isomorphic` the same share of every class of axes that are built alike. reduce joins the members
    of a group (a convolution's row, a norm's entry, the next layer's column); normalise makes the scores of
    an axis comparable with those of others: divided by their sum, mean or largest, moved to [0, 1], or
    as LAMP does. members: all of them, only what makes the structure, or only the columns that read it.
    steps: the budget is reached in that many equal parts; before each one the scores are computed anew, with
    what has left at zero.
    """

    ranking: Scope = "global"
    reduce: Reduce = "mean"
    normalise: Normalise = "mean"
    members: Members = "all"
    steps: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        choices = (
            (self.ranking, SCOPES),
            (self.reduce, _REDUCE),
            (self.normalise, _NORMALISE),
            (self.members, _MEMBERS),
        )
        for given, known in choices:
            if given not in known:
                raise UsageError(f"{self.name}: there are {', '.join(known)}, but no {given!r}")
        if self.steps < 1:
            raise UsageError(f"{self.name}: steps is at least 1, not {self.steps}")

    @property
    def scope(self) -> Scope:
        """As the option says."""
        return self.ranking

    def local(self, run: Run) -> torch.Tensor:
        """The reduced score of each group before it is normalised, shape (count + 1,); UNKNOWN where there is none."""
        raise NotImplementedError

    def score(self, run: Run) -> torch.Tensor:
        """The normalised score of each group; -inf for those that have left in an earlier step."""
        gone = left(run)
        scores = self.local(run)
        if run.groups.count and bool((scores[1:] == UNKNOWN).all()):
            raise UnsuitedError(f"{self.name} can say nothing about any group of this model: {self.unknown}")
        line = normalised(run.groups, scores, self.normalise, gone)
        line[torch.from_numpy(gone)] = -torch.inf
        return line

    @property
    def unknown(self) -> str:
        """Why a group may have no score; for messages."""
        return "none has a member that it looks at"

    def decide(self, run: Run) -> Decision:
        """What scores lowest, in as many steps as the option says; the model is at zero in what left before the last.

        Raises UsageError when the budget cannot be reached.
        """
        if self.steps == 1:
            return super().decide(run)
        removed = np.zeros(0, dtype=np.int64)
        for step in range(1, self.steps + 1):
            rungs = ladder(run.groups, self.score(run), scope=self.scope, limits=run.limits)
            part = Budget(run.budget.kind, run.budget.remove * step / self.steps)
            # What has left stands lowest, so that it leaves again; a step that went past this target adds nothing.
            rung = max(solve(rungs, part, run.cost), int(rungs.rung[removed].max(initial=0)))
            removed = rungs.removed(rung)
            run.state[_LEFT] = torch.from_numpy(removed)
            run.units.fill_(removed)
            run.log({"phase": "prune", "step": step, "removed": len(removed)})
        return run.groups.select(removed)


_REDUCE = ("sum", "mean", "max", "prod", "first")
_NORMALISE = ("none", "sum", "mean", "max", "standardise", "lamp")
_MEMBERS = ("all", "producers", "consumers")
_LEFT = "left"


def left(run: Run) -> Flags:
    """One flag a group number: it has left in an earlier step of this run."""
    gone = np.zeros(run.groups.count + 1, dtype=bool)
    if _LEFT in run.state:
        gone[run.state[_LEFT].numpy()] = True
    return gone


def no_bias(item: Slices) -> bool:
    """Whether a member is something else than a bias, which no criterion of the literature counts."""
    return "bias" not in item.name.rpartition(".")[2] or item.name.endswith("table")


def position_means(run: Run, lines: Mapping[tuple[str, int], torch.Tensor], reduce: Reduce) -> torch.Tensor:
    """Figures a position, averaged over each group's positions in a member, then reduced over the members.

    lines maps (name, dimension) to a tensor of that size. UNKNOWN for a group in none of them. Shape (count + 1,).
    """
    shares = {}
    for item in run.units.slices:
        if (line := lines.get((item.name, item.dim))) is not None:
            number = torch.from_numpy(np.bincount(item.groups)[item.groups]).to(line.device)
            shares[item.name, item.dim] = line / number
    known = run.units.from_lines({key: torch.ones_like(line) for key, line in lines.items()})
    return torch.where(known > 0, run.units.from_lines(shares, reduce), UNKNOWN)


def normalised(groups: Groups, scores: torch.Tensor, how: Normalise, gone: Flags | None = None) -> torch.Tensor:
    """Scores made comparable across axes; float64 on the CPU, shape (count + 1,).

    Scores that are UNKNOWN, and groups that are gone, neither change nor count.
    """
    line = scores.detach().double().cpu().numpy().copy()
    here = line < UNKNOWN if gone is None else (line < UNKNOWN) & ~gone
    here[0] = False
    if how == "none" or not here.any():
        return torch.from_numpy(line)
    axis, inner = groups.axis_of[here], line[here]
    if how == "lamp":
        line[here] = lamp(inner, axis)
        return torch.from_numpy(line)
    number = int(axis.max()) + 1
    size = np.bincount(axis, minlength=number)
    total = np.bincount(axis, weights=inner, minlength=number)
    most, least = np.full(number, -np.inf), np.full(number, np.inf)
    np.maximum.at(most, axis, inner)
    np.minimum.at(least, axis, inner)
    if how == "standardise":
        line[here] = (inner - least[axis]) / (most[axis] - least[axis] + 1e-8)
    else:
        divisor = {"sum": total, "mean": total / np.maximum(size, 1), "max": most}[how]
        # An axis of zeros has nothing to divide by: its scores stay zero.
        line[here] = inner / np.where(divisor == 0, 1, divisor)[axis]
    return torch.from_numpy(line)


def lamp(scores: npt.NDArray[np.float64], axis: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each score over the sum of those of its axis that are not lower: the largest has 1 (Lee et al., ICLR 2021)."""
    result = np.empty_like(scores)
    by = np.lexsort((np.arange(scores.size), scores, axis))
    # Axis by axis: a sum that ran on over other axes would cost the small ones their digits.
    for inside in np.split(by, np.flatnonzero(np.diff(axis[by])) + 1):
        ordered = scores[inside]
        rest = np.cumsum(ordered[::-1])[::-1]
        result[inside] = np.where(rest > 0, ordered / np.where(rest > 0, rest, 1), 1.0)
    return result
