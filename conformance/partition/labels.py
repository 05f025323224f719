"""Labels on positions: what rules read and write, and what they may say about them.

Every dimension of every tensor is an int64 array with one label a position. Label 0 is FIXED: the
position can never be removed. Positions whose labels end in one class are removed together.

Rules run two or three times over the tape. The first pass collects facts (joins, fixings, grids;
signs mean nothing yet); `resolve` turns them into classes. The later passes replay the rules on
resolved labels, with a sign:
+g says "this slice is exactly zero once group g's zeroing is done", -g says it need not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]

_ZEROS: dict[int, Labels] = {}


def fixed(size: int) -> Labels:
    """A dimension none of whose positions can go. Shared and read-only."""
    found = _ZEROS.get(size)
    if found is None:
        found = np.zeros(size, dtype=np.int64)
        found.flags.writeable = False
        _ZEROS[size] = found
    return found


def is_fixed(labels: Labels) -> bool:
    """True when every position is literally FIXED."""
    return _ZEROS.get(labels.size) is labels or not labels.any()


def zero_if(labels: Labels, zero: npt.NDArray[np.bool_]) -> Labels:
    """The labels with the sign set to say where the slice is zero."""
    size = np.abs(labels)
    return np.where(zero, size, -size)


def nonzero(labels: Labels) -> Labels:
    """The labels of a slice that is not known to be zero."""
    return labels if is_fixed(labels) else -np.abs(labels)


@dataclass(slots=True)
class Labelled:
    """A tensor as rules see it: one label array a dimension.

    static: computed from parameters, buffers and constants alone. index: its value on the tape.
    """

    dims: list[Labels]
    shape: tuple[int, ...]
    static: bool
    floating: bool
    index: int

    @property
    def ndim(self) -> int:
        return len(self.dims)

    def axis(self, dim: int) -> int:
        """The dimension number with negatives resolved."""
        return dim % self.ndim if self.ndim else 0


@dataclass(frozen=True, slots=True)
class Event:
    """Why labels became FIXED: the operation and a phrase."""

    node: int
    reason: str


@dataclass(slots=True)
class Grid:
    """A flat dimension that is the product of factors: kept(flat[i, j]) = kept(i) and kept(j).

    prefer is the factor to carry the groups when nothing forces it and nobody says otherwise.
    """

    flat: Labels
    factors: list[Labels]
    shape: tuple[int, ...]
    node: int
    prefer: int | None = None


@dataclass
class Facts:
    """What the first pass collected; arrays are appended as they come and joined once.

    Labels below state_end are those of parameters and buffers.
    """

    size: int = 1
    state_end: int = 1
    left: list[Labels] = field(default_factory=list)
    right: list[Labels] = field(default_factory=list)
    join_nodes: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    fixed_labels: list[Labels] = field(default_factory=list)
    fixed_events: list[int] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    producers: list[Labels] = field(default_factory=list)
    consumers: list[Labels] = field(default_factory=list)
    batches: list[Labels] = field(default_factory=list)
    copies: list[Labels] = field(default_factory=list)
    kinds: dict[str, list[Labels]] = field(default_factory=dict)
    ranges: dict[tuple[int, object], tuple[int, int]] = field(default_factory=dict)


class Pass:
    """One run of the rules. `final` is None while facts are collected, else raw label -> group."""

    def __init__(self, facts: Facts, final: Labels | None = None) -> None:
        self.facts = facts
        self.final = final
        self.node = -1
        self.violations: dict[int, tuple[int, str]] = {}
        self._reasons: dict[tuple[int, str], int] = {}

    @property
    def collecting(self) -> bool:
        return self.final is None

    def fresh(self, size: int, key: object = 0) -> Labels:
        """New labels that nothing is known about; the same (operation, key) gives the same again."""
        if size == 1:
            return fixed(1)
        if self.final is not None:
            start, stop = self.facts.ranges[self.node, key]
            return self.final[start:stop]
        start = self.facts.size
        self.facts.size += size
        self.facts.ranges[self.node, key] = (start, start + size)
        return np.arange(start, start + size, dtype=np.int64)

    def known(self, key: object) -> bool:
        """Whether the collecting pass drew fresh labels under this key."""
        return (self.node, key) in self.facts.ranges

    def join(self, left: Labels, right: Labels) -> None:
        """These positions are removed together, one by one."""
        if left is right or self.final is not None:
            return
        if left.size != right.size:
            raise ValueError(f"cannot join {left.size} positions with {right.size}")
        if is_fixed(left) and is_fixed(right):
            return
        self.facts.left.append(left)
        self.facts.right.append(right)
        self.facts.join_nodes.append(self.node)

    def fix(self, labels: Labels, reason: str) -> None:
        """These positions cannot be removed, because of what this operation does."""
        if self.final is not None or is_fixed(labels):
            return
        event = self._reasons.setdefault((self.node, reason), len(self.facts.events))
        if event == len(self.facts.events):
            self.facts.events.append(Event(self.node, reason))
        self.facts.fixed_labels.append(np.abs(labels))
        self.facts.fixed_events.append(event)

    def require_zero(self, labels: Labels, reason: str) -> None:
        """Removal is exact only if these slices are zero here (checked on resolved labels)."""
        if self.final is not None and not is_fixed(labels):
            for group in np.unique(-labels[labels < 0]):
                self.violations.setdefault(int(group), (self.node, reason))

    def forbid_zero(self, labels: Labels, reason: str) -> None:
        """The operation has no finite value at zero, so these slices may not be silenced first."""
        if self.final is not None and not is_fixed(labels):
            for group in np.unique(labels[labels > 0]):
                self.violations.setdefault(int(group), (self.node, reason))

    def contract(self, left: Labels, right: Labels) -> None:
        """A sum of products runs over this dimension: either operand's slice must be zero."""
        self.join(left, right)
        if self.final is not None:
            self.require_zero(np.maximum(left, right), "is not zero where it is summed")

    def producer(self, labels: Labels) -> None:
        """Zeroing these slices of a parameter silences the structure."""
        if self.final is None and not is_fixed(labels):
            self.facts.producers.append(np.abs(labels))

    def consumer(self, labels: Labels) -> None:
        """These slices of a parameter read the structure."""
        if self.final is None and not is_fixed(labels):
            self.facts.consumers.append(np.abs(labels))

    def batch(self, labels: Labels) -> None:
        """Independent batches of a product of two activations: attention heads."""
        if self.final is None and not is_fixed(labels):
            self.facts.batches.append(np.abs(labels))

    def copied(self, labels: Labels) -> None:
        """Positions that are copies of one (an expanded dimension)."""
        if self.final is None:
            self.facts.copies.append(np.abs(labels))

    def kind(self, name: str, labels: Labels) -> None:
        """What the field calls structures that start at these labels."""
        if self.final is None and not is_fixed(labels):
            self.facts.kinds.setdefault(name, []).append(np.abs(labels))

    # -- grids ---------------------------------------------------------------------------------

    def merge(self, factors: Sequence[Labels], key: object) -> Labels:
        """Flatten dimensions into one, row-major."""
        shape = tuple(factor.size for factor in factors)
        free = [axis for axis, factor in enumerate(factors) if not is_fixed(factor)]
        size = int(np.prod(shape))
        recorded = self.known((key, "flat"))
        if not free and not recorded:
            return fixed(size)
        if len(free) == 1 and not recorded:
            return np.ascontiguousarray(np.broadcast_to(_along(factors[free[0]], free[0], shape), shape)).reshape(-1)
        flat = self.fresh(size, (key, "flat"))
        if self.final is None:
            self.facts.grids.append(Grid(flat, [np.abs(factor) for factor in factors], shape, self.node))
            return flat
        zero = np.zeros(shape, dtype=bool)
        grid = np.abs(flat).reshape(shape)
        for axis in free:
            factor = _along(factors[axis], axis, shape)
            zero |= (factor > 0) & (np.abs(factor) == grid)
        return zero_if(flat, zero.reshape(-1))

    def split(self, flat: Labels, shape: tuple[int, ...], key: object) -> list[Labels]:
        """Unflatten one dimension into factors, row-major."""
        recorded = any(self.known((key, axis)) for axis in range(len(shape)))
        if is_fixed(flat) and not recorded:
            return [fixed(size) for size in shape]
        grid = flat.reshape(shape)
        if not recorded:
            size = np.abs(grid)
            varying = [axis for axis, n in enumerate(shape) if n > 1 and (size != size.take([0], axis=axis)).any()]
            if len(varying) <= 1:
                factors = [fixed(n) for n in shape]
                for axis in varying:
                    others = tuple(other for other in range(len(shape)) if other != axis)
                    line = size.min(axis=others)
                    factors[axis] = zero_if(line, grid.min(axis=others) > 0)
                if not varying and not is_fixed(flat):
                    self.fix(flat, "every position is the same group")
                return factors
        factors = [self.fresh(n, (key, axis)) for axis, n in enumerate(shape)]
        if self.final is None:
            self.facts.grids.append(Grid(np.abs(flat), list(factors), shape, self.node))
            return factors
        signed = []
        for axis, factor in enumerate(factors):
            others = tuple(other for other in range(len(shape)) if other != axis)
            same = np.abs(grid) == _along(np.abs(factor), axis, shape)
            signed.append(zero_if(factor, ~(same & (grid < 0)).any(axis=others)))
        return signed

    def grid(self, flat: Labels, factors: list[Labels], shape: tuple[int, ...], *, prefer: int | None = None) -> None:
        """Say that an existing flat dimension is the product of existing factors."""
        if self.final is None:
            own = [np.abs(factor) for factor in factors]
            self.facts.grids.append(Grid(np.abs(flat), own, shape, self.node, prefer))


def _along(factor: Labels, axis: int, shape: tuple[int, ...]) -> Labels:
    view = [1] * len(shape)
    view[axis] = factor.size
    return factor.reshape(view)
