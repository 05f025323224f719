"""What all criteria share: local scores, reduced over the members of a group, normalised within an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from conformance.errors import UsageError
from conformance.method import Method, Run
from conformance.method.ladder import SCOPES, Scope
from conformance.method.units import Reduce
from conformance.partition.groups import Groups

Normalise = Literal["none", "sum", "mean", "max", "standardise", "lamp"]


@dataclass(frozen=True)
class Criterion(Method):
    """A method that scores once and removes what scores lowest.

    ranking: `global` compares the normalised scores of all groups, `local` takes the same share of every
    axis, `isomorphic` the same share of every class of axes that are built alike. reduce joins the members
    of a group (a convolution's row, a norm's entry, the next layer's column); normalise makes the scores of
    an axis comparable with those of others: divided by their sum, mean or largest, moved to [0, 1], or
    as LAMP does.
    """

    ranking: Scope = "global"
    reduce: Reduce = "mean"
    normalise: Normalise = "mean"

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        for given, known in ((self.ranking, SCOPES), (self.reduce, _REDUCE), (self.normalise, _NORMALISE)):
            if given not in known:
                raise UsageError(f"{self.name}: there are {', '.join(known)}, but no {given!r}")

    @property
    def scope(self) -> Scope:
        """As the option says."""
        return self.ranking

    def local(self, run: Run) -> torch.Tensor:
        """The reduced score of each group before it is normalised, shape (count + 1,)."""
        raise NotImplementedError

    def score(self, run: Run) -> torch.Tensor:
        """The normalised score of each group."""
        return normalised(run.groups, self.local(run), self.normalise)


_REDUCE = ("sum", "mean", "max", "prod", "first")
_NORMALISE = ("none", "sum", "mean", "max", "standardise", "lamp")


def normalised(groups: Groups, scores: torch.Tensor, how: Normalise) -> torch.Tensor:
    """Scores made comparable across axes; float64 on the CPU, shape (count + 1,)."""
    line = scores.detach().double().cpu().numpy().copy()
    if how == "none" or line.size < 2:
        return torch.from_numpy(line)
    axis, inner = groups.axis_of[1:], line[1:]
    if how == "lamp":
        inner[:] = lamp(inner, axis)
        return torch.from_numpy(line)
    number = int(axis.max()) + 1
    size = np.bincount(axis, minlength=number)
    total = np.bincount(axis, weights=inner, minlength=number)
    most, least = np.full(number, -np.inf), np.full(number, np.inf)
    np.maximum.at(most, axis, inner)
    np.minimum.at(least, axis, inner)
    if how == "standardise":
        line[1:] = (inner - least[axis]) / (most - least + 1e-8)[axis]
    else:
        divisor = {"sum": total, "mean": total / np.maximum(size, 1), "max": most}[how]
        # An axis of zeros has nothing to divide by: its scores stay zero.
        line[1:] = inner / np.where(divisor == 0, 1, divisor)[axis]
    return torch.from_numpy(line)


def lamp(scores: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Each score over the sum of those of its axis that are not lower: the largest has 1 (Lee et al., ICLR 2021)."""
    by = np.lexsort((np.arange(scores.size), scores, axis))
    ordered, where = scores[by], axis[by]
    ends = np.append(np.flatnonzero(np.diff(where)), where.size - 1)
    running = np.cumsum(ordered[::-1])[::-1]
    after = np.append(running, 0.0)[ends + 1]
    rest = running - np.repeat(after, np.diff(np.append(-1, ends)))
    result = np.empty_like(scores)
    result[by] = np.where(rest > 0, ordered / np.where(rest > 0, rest, 1), 1.0)
    return result
