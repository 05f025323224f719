"""Groups: the minimal removal structures (PZIGs) of a traced model.

Group g is a set of slices of parameters and buffers that must leave together. Groups that share
an axis (the channels of one convolution, the heads of one attention) are listed together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from conformance.errors import SelectionError
from conformance.graph.tape import Graph
from conformance.partition.labels import Event, Labels

if TYPE_CHECKING:
    from conformance.partition.selection import Selection

PRODUCERS, CONSUMERS = "producers", "consumers"
KINDS = ("head", "head dim", "channel", "neuron", "embedding", "parameter")
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The partition of a model's state.

    count groups are numbered 1..count. dims[value] gives, for each dimension of that tape value, an
    array of group numbers, 0 where the position is held back. modes and kinds are indexed by group
    (entry 0 unused). held maps (value, dim) of the state to an event index for each held position.
    carry is which factor of a reshape goes where there is a choice, as `partition` was told.
    """

    graph: Graph
    count: int
    dims: dict[int, list[Labels]]
    modes: tuple[str, ...]
    kinds: tuple[str, ...]
    producer_dims: frozenset[tuple[int, int]]
    consumer_dims: frozenset[tuple[int, int]]
    held: dict[tuple[int, int], IntArray]
    events: tuple[Event, ...]
    carry: str = "auto"
    seconds: float = field(default=0.0, compare=False)

    @cached_property
    def state(self) -> dict[int, list[Labels]]:
        """dims of the parameters and buffers only."""
        return {index: self.dims[index] for index in dict.fromkeys(self.graph.names.values())}

    @cached_property
    def spans(self) -> csr_matrix:
        """One row for every distinct dimension with groups: how many positions each group has in it.

        A last column (index 0) counts positions that always stay.
        """
        rows: dict[bytes, Labels] = {}
        seen: set[int] = set()
        for dims in self.dims.values():
            for labels in dims:
                if id(labels) not in seen and labels.size > 1:
                    seen.add(id(labels))
                    if labels.any():
                        rows.setdefault(np.sort(labels).tobytes(), labels)
        data = [np.unique(labels, return_counts=True) for labels in rows.values()]
        if not data:
            return csr_matrix((0, self.count + 1))
        columns = np.concatenate([unique for unique, _ in data])
        counts = np.concatenate([number for _, number in data])
        line = np.repeat(np.arange(len(data)), [unique.size for unique, _ in data])
        return csr_matrix((counts, (line, columns)), shape=(len(data), self.count + 1))

    @cached_property
    def axis_of(self) -> IntArray:
        """For each group the number of its axis: the smallest dimension that contains it."""
        spans = self.spans
        widths = np.diff(spans.indptr)
        axis = np.full(self.count + 1, -1, dtype=np.int64)
        for row in np.argsort(-widths, kind="stable"):
            axis[spans.indices[spans.indptr[row] : spans.indptr[row + 1]]] = row
        axis[0] = -1
        _, numbered = np.unique(axis[1:], return_inverse=True)
        # Number axes by their first group so that the order follows the model.
        first = np.full(numbered.max(initial=-1) + 1, self.count + 1)
        np.minimum.at(first, numbered, np.arange(self.count))
        rank = np.empty_like(first)
        rank[np.argsort(first)] = np.arange(first.size)
        return np.concatenate([[-1], rank[numbered]]).astype(np.int64)

    @cached_property
    def removed_parameters(self) -> IntArray:
        """For each group the elements of parameters that vanish when it alone is removed."""
        total = np.zeros(self.count + 1)
        for index, dims in self.state.items():
            value = self.graph.values[index]
            if value.kind != "parameter" or not value.shape:
                continue
            present = np.unique(np.concatenate(dims))
            present = present[present > 0]
            if not present.size:
                continue
            kept = np.ones(present.size)
            for labels in dims:
                inside = np.searchsorted(present, labels[labels > 0])
                kept *= 1 - np.bincount(inside, minlength=present.size) / labels.size
            total[present] += np.prod(value.shape) * (1 - kept)
        return np.rint(total).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the model's state shapes or the partition change."""
        digest = hashlib.sha256()
        for name, index in self.graph.names.items():
            digest.update(f"{name}{self.graph.values[index].shape}".encode())
            for labels in self.dims[index]:
                digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    # -- choosing ------------------------------------------------------------------------------

    def select(self, removed: npt.ArrayLike) -> Selection:
        """The selection that removes these group numbers.

        Raises SelectionError when a number is unknown or a dimension would lose all positions.
        """
        from conformance.partition.selection import Selection

        given = np.asarray(removed)
        if given.size and not np.issubdtype(given.dtype, np.integer):
            raise SelectionError(f"group numbers are whole numbers, not {given.dtype}")
        groups = np.unique(given.astype(np.int64))
        if groups.size and not self.count:
            raise SelectionError("the model has no groups to select")
        if groups.size and (groups[0] < 1 or groups[-1] > self.count):
            raise SelectionError(f"group numbers go from 1 to {self.count}, got {groups[0]} to {groups[-1]}")
        if self.emptied(groups).size:
            raise SelectionError("the selection would remove every position of a dimension")
        return Selection(self, tuple(int(group) for group in groups))

    def emptied(self, removed: IntArray) -> IntArray:
        """Rows of `spans` that would keep no position."""
        kept = np.ones(self.count + 1)
        kept[removed] = 0
        return np.flatnonzero(self.spans @ kept == 0)

    def sample(
        self,
        fraction: float = 0.5,
        seed: int = 0,
        *,
        kinds: tuple[str, ...] | None = None,
        modes: tuple[str, ...] = (PRODUCERS, CONSUMERS),
    ) -> Selection:
        """Remove `fraction` of the groups of every axis at random, keeping at least one position each.

        fraction 1.0 is the extreme selection: all but what must stay. The result depends on the
        arguments only. Raises SelectionError for a fraction outside [0, 1].
        """
        if not 0 <= fraction <= 1:
            raise SelectionError(f"fraction must lie in [0, 1], got {fraction}")
        for given, known in ((kinds or (), KINDS), (modes, (PRODUCERS, CONSUMERS))):
            for name in given:
                if name not in known:
                    raise SelectionError(f"there are {', '.join(known)}, but no {name!r}")
        rng = np.random.default_rng(seed)
        order = rng.permutation(self.count) + 1
        allowed = np.array(
            [m in modes and (kinds is None or k in kinds) for m, k in zip(self.modes, self.kinds, strict=True)]
        )
        order = order[allowed[order]]
        axis = self.axis_of[order]
        by_axis = np.argsort(axis, kind="stable")
        order, axis = order[by_axis], axis[by_axis]
        _, start, size = np.unique(axis, return_index=True, return_counts=True)
        rank = np.arange(order.size) - np.repeat(start, size)
        quota = np.floor(fraction * np.repeat(size, size) + rng.random(start.size).repeat(size) * (0 < fraction < 1))
        return self.select(self.leave_one(order[rank < quota], rng))

    def leave_one(self, removed: IntArray, rng: np.random.Generator) -> IntArray:
        """Give back random groups until every dimension keeps a position."""
        removed = np.array(removed, dtype=np.int64)
        while (rows := self.emptied(removed)).size:
            for row in rows:
                inside = self.spans.indices[self.spans.indptr[row] : self.spans.indptr[row + 1]]
                if np.isin(inside, removed).all():
                    removed = removed[removed != rng.choice(inside)]
        return removed

    # -- explaining ----------------------------------------------------------------------------

    def explain(self, parameter: str, dim: int | None = None) -> str:
        """What groups the slices of a parameter are in, or what holds them back.

        Raises SelectionError for a name or dimension the model does not have.
        """
        from conformance.partition.explain import explain

        return explain(self, parameter, dim)
