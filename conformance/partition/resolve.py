"""From facts to classes: connected components, then a decision for every grid.

A grid (heads x head dims, convolution groups x channels) says that a flat position stays only
while all its factors stay. Here each grid lets exactly one factor go; which one follows from what
is known (a factor that ended FIXED leaves the other). Where nothing forces it `carry` says: `auto`
the factor that is a batch of attention, else the finer one; `outer` heads and whole groups; `inner`
head dims and the channels inside groups. Grids that share a factor are decided alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from conformance.partition.labels import Event, Facts, Grid, Labels

_NONE = np.iinfo(np.int64).max


CARRIES = ("auto", "outer", "inner")


@dataclass
class Classes:
    """of[label] is the label's class; 0 FIXED. reason[class] is an event index while known.

    head_dims are the labels of grids' factors whose other factor is a batch of attention.
    """

    of: Labels
    events: list[Event]
    reason: Labels
    head_dims: list[Labels]


class _Resolver:
    def __init__(self, facts: Facts, before: Labels | None, carry: str) -> None:
        self.facts = facts
        self.before = before
        self.carry = carry
        self.events = list(facts.events)
        self.left: list[Labels] = []
        self.right: list[Labels] = []
        self.of = np.arange(facts.size, dtype=np.int64)
        self.count = facts.size
        self.fixed_by = np.full(facts.size, _NONE, dtype=np.int64)
        self.fixed_by[0] = _NONE - 1

    # -- bookkeeping ---------------------------------------------------------------------------

    def unite(self, left: Labels, right: Labels) -> None:
        """Join current classes pairwise at the next `settle`."""
        self.left.append(left)
        self.right.append(right)

    def event(self, node: int, reason: str) -> int:
        self.events.append(Event(node, reason))
        return len(self.events) - 1

    def fix(self, classes: Labels, event: int) -> None:
        np.minimum.at(self.fixed_by, classes[classes != 0], event)

    def settle(self) -> None:
        """Merge united classes, and move every fixed class to 0 remembering why."""
        if self.left:
            left, right = np.concatenate(self.left), np.concatenate(self.right)
            self.left, self.right = [], []
            apart = (left != right) & (left != 0) & (right != 0)
            graph = coo_matrix(
                (np.ones(int(apart.sum()), dtype=np.int8), (left[apart], right[apart])),
                (self.count, self.count),
            )
            count, component = connected_components(graph, directed=False)
            fixed_by = np.full(count, _NONE, dtype=np.int64)
            np.minimum.at(fixed_by, component, self.fixed_by)
            # Label 0 keeps class 0: nothing was united with it (those became events).
            order = np.arange(count)
            zero = component[0]
            order[zero], order[0] = 0, zero
            self.of = order[component][self.of]
            self.fixed_by = fixed_by[np.argsort(order)]
            self.count = count

    def current(self, labels: Labels) -> Labels:
        """Classes of raw labels, 0 where FIXED."""
        classes = self.of[labels]
        return np.where(self.fixed_by[classes] == _NONE, classes, 0)

    # -- grids ---------------------------------------------------------------------------------

    def propagate(self, grid: Grid) -> tuple[bool, bool]:
        """Apply what is forced. Returns (something new, still undecided)."""
        flat = self.current(grid.flat).reshape(grid.shape)
        factors = [self.current(factor) for factor in grid.factors]
        news = False
        if not flat.all():
            reasons = self.fixed_by[self.of[grid.flat]].reshape(grid.shape)
            for axis, factor in enumerate(factors):
                others = tuple(other for other in range(flat.ndim) if other != axis)
                why = np.where(flat == 0, reasons, _NONE).min(axis=others)
                hit = (why != _NONE) & (factor != 0)
                if hit.any():
                    np.minimum.at(self.fixed_by, factor[hit], why[hit])
                    news = True
            if news:
                return True, True
        free = np.zeros(grid.shape, dtype=np.int64)
        carrier = np.zeros(grid.shape, dtype=np.int64)
        for axis, factor in enumerate(factors):
            line = _along(factor, axis, grid.shape)
            free += line != 0
            carrier = np.maximum(carrier, line)
        single = (free == 1) & (flat != carrier)
        if single.any():
            self.unite(flat[single], carrier[single])
            news = True
        lost = (free == 0) & (flat != 0)
        if lost.any():
            self.fix(flat[lost], self.event(grid.node, "both factors of a reshaped dimension are fixed"))
            news = True
        undecided = bool((free > 1).any())
        if undecided and not news:
            for axis, factor in enumerate(factors):
                if grid.shape[axis] > 1 and factor.any() and (flat == flat.take([0], axis=axis)).all():
                    event = self.event(grid.node, "repeats the same groups along a reshaped dimension")
                    self.fix(factor, event)
                    return True, True
        return news, undecided

    def decide(self, grids: list[Grid]) -> None:
        """Choose the factor that may go for every grid nothing forces."""
        batch = self._batches(grids)
        copies = self._classes(self.facts.copies)
        keep, drop = np.zeros(self.count, dtype=bool), np.zeros(self.count, dtype=bool)
        # Attention heads first, alone: what they force decides most of the other grids.
        open_ = [grid for grid in grids if len(self._options(grid)) > 1]
        headed = [grid for grid in open_ if any(batch[self.current(factor)].any() for factor in grid.factors)]
        for grid in self._first(headed or open_):
            factors = [self.current(factor) for factor in grid.factors]
            options = self._options(grid)
            settled = self._settled_before(grid)

            def preference(
                axis: int, grid: Grid = grid, factors: list[Labels] = factors, settled: int | None = settled
            ) -> tuple[Any, ...]:
                own = factors[axis][factors[axis] != 0]
                heads, original = bool(batch[own].any()), not copies[own].any()
                wanted = {
                    "auto": (axis == grid.prefer, heads, original, np.unique(own).size, -axis),
                    "outer": (heads, original, -axis),
                    "inner": (not heads, original, axis),
                }
                return (not drop[own].any(), axis == settled, bool(keep[own].any()), *wanted[self.carry])

            best = max(options, key=preference)
            for axis in options:
                own = factors[axis][factors[axis] != 0]
                if axis == best:
                    keep[own] = True
                else:
                    drop[own] = True
                    event = self.event(grid.node, "the other factor of this reshape was chosen to carry the groups")
                    self.fix(own, event)

    def _options(self, grid: Grid) -> list[int]:
        """The factors that may still go."""
        return [axis for axis, factor in enumerate(grid.factors) if self.current(factor).any()]

    def _batches(self, grids: list[Grid]) -> npt.NDArray[np.bool_]:
        """Classes of attention's batches.

        A batch that is merged from others (samples and heads) says that these are batches, and so is what is
        divided into batches only. One that is a dimension of a parameter is the heads themselves.
        """
        found = self._classes(self.facts.batches)
        state = self._classes([np.arange(1, self.facts.state_end)])
        news = True
        while news:
            news = False
            for grid in grids:
                parts = [factor for factor in grid.factors if self.current(factor).any()]
                if self._all(found & ~state, grid.flat):
                    reached = self._classes(parts)
                elif parts and all(self._all(found, factor) for factor in parts):
                    reached = self._classes([grid.flat])
                else:
                    continue
                news |= bool((reached & ~found).any())
                found |= reached
        return found

    def _first(self, grids: list[Grid]) -> list[Grid]:
        """Grids that do not wait for others.

        What divides a factor of another grid further waits until that one has said whether its positions are all
        different groups, as heads are, or repeat, as they do along a batch of samples. What has the same
        flat dimension or a factor in common waits as well, unless others wait for it: they are decided alike.
        """
        divided = self._classes(factor for grid in grids for factor in grid.factors)
        dividing = self._classes(grid.flat for grid in grids)
        waiting = [self._all(divided, grid.flat) for grid in grids]
        asked = [any(self._all(dividing, factor) for factor in grid.factors) for grid in grids]
        before = -1
        while before != sum(waiting):
            before = sum(waiting)
            late = [grid for grid, waits in zip(grids, waiting, strict=True) if waits]
            flats = self._classes(grid.flat for grid in late)
            factors = self._classes(factor for grid in late for factor in grid.factors)
            for number, grid in enumerate(grids):
                if not asked[number]:
                    waiting[number] |= self._all(flats, grid.flat)
                    waiting[number] |= any(self._all(factors, factor) for factor in grid.factors)
        return [grid for grid, waits in zip(grids, waiting, strict=True) if not waits] or grids

    def _all(self, marked: npt.NDArray[np.bool_], labels: Labels) -> bool:
        """Whether all classes here that may still go are marked, and there is one."""
        classes = self.current(labels)
        classes = classes[classes != 0]
        return bool(classes.size and marked[classes].all())

    def _settled_before(self, grid: Grid) -> int | None:
        """The factor that carried the groups in the model this one was pruned from, if that is known."""
        if self.before is None:
            return None
        of_class = np.zeros(self.count, dtype=np.int64)
        known = np.flatnonzero(self.before)
        of_class[self.current(known)] = self.before[known]
        of_class[0] = 0
        numbers = of_class[self.current(grid.flat)].reshape(grid.shape)
        varying = [axis for axis in range(numbers.ndim) if (numbers != numbers.take([0], axis=axis)).any()]
        return varying[0] if len(varying) == 1 and numbers.all() else None

    def _classes(self, arrays: Iterable[Labels]) -> npt.NDArray[np.bool_]:
        chosen = np.zeros(self.count, dtype=bool)
        for labels in arrays:
            chosen[self.current(labels)] = True
        chosen[0] = False
        return chosen

    def run(self) -> Classes:
        facts = self.facts
        if facts.left:
            nodes = np.repeat(np.asarray(facts.join_nodes), [labels.size for labels in facts.left])
            left, right = np.abs(np.concatenate(facts.left)), np.abs(np.concatenate(facts.right))
            half = (left == 0) != (right == 0)
            where, which = np.unique(nodes[half], return_inverse=True)
            first = len(self.events)
            self.events += [Event(int(node), "joins it to a fixed dimension") for node in where]
            np.minimum.at(self.fixed_by, np.maximum(left[half], right[half]), first + which)
            self.unite(left, right)
        for labels, event in zip(facts.fixed_labels, facts.fixed_events, strict=True):
            self.fix(labels, event)
        self.settle()
        pending = facts.grids
        while pending:
            news, undecided = False, []
            for grid in pending:
                changed, open_ = self.propagate(grid)
                news |= changed
                if open_ or changed:
                    undecided.append(grid)
            self.settle()
            if not news:
                self.decide(undecided)
            pending = undecided
        fixed_class = self.fixed_by != _NONE
        of = np.where(fixed_class[self.of], 0, self.of)
        return Classes(of, self.events, self.fixed_by[self.of], self._head_dims())

    def _head_dims(self) -> list[Labels]:
        """The factors beside a batch of attention."""
        heads = np.zeros(self.count, dtype=bool)
        for labels in self.facts.batches:
            heads[self.of[labels]] = True
        heads[0] = False
        found = []
        for grid in self.facts.grids:
            batch = [bool(heads[self.of[factor]].any()) for factor in grid.factors]
            if any(batch):
                found += [factor for factor, is_batch in zip(grid.factors, batch, strict=True) if not is_batch]
        return found


def _along(factor: Labels, axis: int, shape: tuple[int, ...]) -> Labels:
    view = [1] * len(shape)
    view[axis] = factor.size
    return factor.reshape(view)


def resolve(facts: Facts, before: Labels | None = None, carry: str = "auto") -> Classes:
    """Decide every class. Terminates: each round fixes or unites something, or decides all grids.

    before[raw label] may hold group numbers of an unpruned model, whose decisions are then kept.
    """
    return _Resolver(facts, before, carry).run()
