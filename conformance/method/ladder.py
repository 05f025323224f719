"""From scores to what leaves first: nested selections, one for each rung of a ladder.

Whatever the scope, a ranking is an order in which groups leave. Rounding, protection and ignored layers
only delay some of them, so every budget is solved by one search along the ladder, and a larger budget
always removes a superset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UsageError
from conformance.graph.tape import Graph
from conformance.partition.groups import Groups, IntArray
from conformance.partition.selection import Selection

Scope = Literal["global", "local", "isomorphic"]
SCOPES: tuple[Scope, ...] = ("global", "local", "isomorphic")
_STAYS = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Limits:
    """What a method must leave alone.

    round_to: groups kept in an axis are a multiple of it (an axis that cannot be is left whole). min_keep:
    groups kept in an axis at least. protect: share of each axis that stays, at least. ignore: patterns of
    parameter or module names whose groups stay (`fc`, `layer1.*`, `*.bias`).
    """

    round_to: int = 1
    min_keep: int = 1
    protect: float = 0.0
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for limits that cannot be."""
        if self.round_to < 1 or self.min_keep < 1:
            raise UsageError(f"round_to and min_keep are at least 1, not {self.round_to} and {self.min_keep}")
        if not 0 <= self.protect <= 1:
            raise UsageError(f"protect is a share between 0 and 1, not {self.protect}")


@dataclass(frozen=True)
class Ladder:
    """rung[g] is the step at which group g leaves, 1 to steps; 0 for one that stays. Entry 0 is unused."""

    groups: Groups
    rung: IntArray

    @property
    def steps(self) -> int:
        """The last rung: all that may leave has left."""
        return int(self.rung.max(initial=0))

    def removed(self, step: int) -> IntArray:
        """Group numbers that have left at `step`, ascending."""
        return np.flatnonzero((self.rung > 0) & (self.rung <= step))

    def selection(self, step: int) -> Selection:
        """The same as a selection."""
        return self.groups.select(self.removed(step))


def ladder(
    groups: Groups,
    scores: torch.Tensor | npt.ArrayLike,
    *,
    scope: Scope = "global",
    limits: Limits | None = None,
) -> Ladder:
    """Rank groups by score, lowest first.

    scores has shape (count + 1,), indexed by group number. `global` compares all groups; `local` takes
    the same share of every axis; `isomorphic` the same share of every class of axes that are built alike, by
    rank within the class (Fang et al., Isomorphic Pruning for Vision Models, 2024). A group whose score is +inf stays.
    Ties go by group number. Raises UsageError for an unknown scope or scores that are not numbers.
    """
    limits = limits or Limits()
    line = _checked(scores, groups.count)
    if scope not in SCOPES:
        raise UsageError(f"there are scopes {', '.join(SCOPES)}, but no {scope!r}")
    free = removable(groups, limits.ignore) & (line < np.inf)
    order, position, width = _within_axes(groups, line, free)
    last = _batched(position, width, limits)
    rung = np.zeros(groups.count + 1, dtype=np.int64)
    leaves = last <= width
    order, last, width = order[leaves], last[leaves], width[leaves]
    if order.size:
        rung[order] = _ranked(groups, line, order, last, width, scope)
    return Ladder(groups, _never_empty(groups, rung))


def most_leaving(groups: Groups, limits: Limits) -> IntArray:
    """For each axis how many of its groups can leave within the limits, in whatever order they do.

    Keeping every dimension from becoming empty may allow fewer. Raises UsageError for a pattern that matches nothing.
    """
    free = removable(groups, limits.ignore)
    numbers, position, width = _within_axes(groups, np.zeros(groups.count + 1), free)
    leaves = _batched(position, width, limits) <= width
    axes = int(groups.axis_of.max(initial=-1)) + 1
    return np.bincount(groups.axis_of[numbers[leaves]], minlength=axes).astype(np.int64)


def removable(groups: Groups, ignore: Iterable[str] = ()) -> npt.NDArray[np.bool_]:
    """One flag a group number: it can be removed exactly, and no ignored layer holds a slice of it.

    Raises UsageError for a pattern that matches nothing.
    """
    flags = np.ones(groups.count + 1, dtype=bool)
    for pattern in ignore:
        for name in matching(groups.graph, pattern):
            index = groups.graph.names[name]
            for dim, labels in enumerate(groups.dims[index]):
                if (index, dim) in groups.producer_dims:
                    flags[labels] = False
    flags[0] = False
    return flags


def matching(graph: Graph, pattern: str) -> list[str]:
    """Names of parameters and buffers that a pattern of `Limits.ignore` means. Raises UsageError for none."""
    hits = [name for name in graph.names if fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")]
    if not hits:
        raise UsageError(f"no parameter or module of the model matches {pattern!r}")
    return hits


def _checked(scores: torch.Tensor | npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    line = np.asarray(scores.detach().cpu() if isinstance(scores, torch.Tensor) else scores, dtype=np.float64)
    if line.shape != (count + 1,):
        raise UsageError(f"scores have shape {line.shape}; {count} groups need ({count + 1},), entry 0 unused")
    if np.isnan(line[1:]).any():
        raise UsageError(f"{int(np.isnan(line[1:]).sum())} of {count} scores are not numbers")
    return line


def _within_axes(
    groups: Groups, line: npt.NDArray[np.float64], free: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray, IntArray]:
    """Free groups by axis and score; for each its place in the axis from 1, and the axis' width in groups."""
    numbers = np.flatnonzero(free)
    axis = groups.axis_of[numbers]
    by = np.lexsort((numbers, line[numbers], axis))
    numbers, axis = numbers[by], axis[by]
    _, start, size = np.unique(axis, return_index=True, return_counts=True)
    position = np.arange(numbers.size) - np.repeat(start, size) + 1
    width = np.bincount(groups.axis_of[1:], minlength=1)[axis] if numbers.size else axis
    return numbers, position, width


def _batched(position: IntArray, width: IntArray, limits: Limits) -> IntArray:
    """How many of its axis have left once this group leaves: the next count that `limits` allow; _STAYS if none."""
    step = limits.round_to
    first = width % step  # the counts allowed are first, first + step, ...
    last = first + -(-(position - first) // step) * step
    last = np.where(position <= first, np.maximum(first, 1), last)
    least = np.maximum(limits.min_keep, np.ceil(limits.protect * width - 1e-9).astype(np.int64))
    least = np.maximum(-(-least // step) * step, step)
    last = np.where(width - last >= least, last, _STAYS)
    # A batch is taken whole or not at all: fewer free groups than it has means that it stays.
    complete = _largest_place(position)
    return np.where(last <= complete, last, _STAYS)


def _largest_place(position: IntArray) -> IntArray:
    """For each entry the number of free groups of its axis (places count from 1 within each axis)."""
    if not position.size:
        return position
    start = np.flatnonzero(position == 1)
    size = np.diff(np.append(start, position.size))
    return np.repeat(size, size)


def _ranked(
    groups: Groups,
    line: npt.NDArray[np.float64],
    order: IntArray,
    last: IntArray,
    width: IntArray,
    scope: Scope,
) -> IntArray:
    """The rung of each group: batches in the order of the scope."""
    axis = groups.axis_of[order]
    if scope == "local":
        return np.unique(last / width, return_inverse=True)[1] + 1
    # A batch leaves with its highest score, so that all of an axis leaves in its own order.
    _, batch = np.unique(np.stack([axis, last]), axis=1, return_inverse=True)
    batch = batch.ravel()
    place = np.zeros(batch.max() + 1, dtype=np.int64)
    np.maximum.at(place, batch, np.arange(order.size))
    # Its last group decides ties: another one's number could put it behind the next batch of its axis.
    number = order[place]
    rank = np.empty_like(number)
    rank[np.lexsort((number, line[number]))] = np.arange(number.size) + 1
    if scope == "global":
        return rank[batch]
    pattern = _patterns(groups)[axis]
    by = np.lexsort((rank[batch], pattern))
    share = np.empty(order.size)
    _, start, size = np.unique(pattern[by], return_index=True, return_counts=True)
    share[by] = (np.arange(order.size) - np.repeat(start, size) + 1) / np.repeat(size, size)
    whole = np.zeros(number.size)
    np.maximum.at(whole, batch, share)
    return np.unique(whole[batch], return_inverse=True)[1] + 1


def _patterns(groups: Groups) -> IntArray:
    """A number for each axis; the same for axes whose groups lie in the same operations' arguments alike."""
    axes = int(groups.axis_of.max(initial=-1)) + 1
    seen: list[list[tuple[str, ...]]] = [[] for _ in range(axes)]
    leaf = {index: name for name, index in groups.graph.names.items()}
    for index, lines in groups.state.items():
        for dim, labels in enumerate(lines):
            for axis in np.unique(groups.axis_of[np.unique(labels[labels > 0])]):
                name = leaf[index].rpartition(".")[2]
                role = "producer" if (index, dim) in groups.producer_dims else "reader"
                seen[axis].append((name, str(len(lines)), str(dim), role))
    kinds = np.asarray(groups.kinds)
    first = np.unique(groups.axis_of[1:], return_index=True)[1] + 1
    keys = [(str(kinds[first[axis]]), *map(str, sorted(seen[axis]))) for axis in range(axes)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def _never_empty(groups: Groups, rung: IntArray) -> IntArray:
    """Keep the last to leave of any dimension that would lose every position in the end."""
    spans = groups.spans
    for row in groups.emptied(np.flatnonzero(rung > 0)):
        inside = spans.indices[spans.indptr[row] : spans.indptr[row + 1]]
        if (rung[inside] > 0).all():
            rung[inside[np.argmax(rung[inside])]] = 0
    return rung
