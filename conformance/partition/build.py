"""From a traced graph to its groups: collect, resolve, analyse zeros, number, explain."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from conformance.errors import SelectionError, UsageError
from conformance.graph.tape import Graph, refs
from conformance.partition.groups import CONSUMERS, KINDS, PRODUCERS, Groups
from conformance.partition.labels import Event, Facts, Labels, Pass
from conformance.partition.propagate import propagate, state_labels
from conformance.partition.resolve import CARRIES, Classes, resolve
from conformance.partition.selection import Selection

Mask = npt.NDArray[np.bool_]


def partition(graph: Graph, pruned: Selection | None = None, carry: str = "auto") -> Groups:
    """Find every group of a traced model, how it becomes zero, and why the rest is held back.

    Where a reshape leaves a choice, `carry` makes it: `outer` lets attention heads and whole groups of a
    convolution go, `inner` head dims and the channels inside the groups (the same ones in each), `auto`
    heads, and of other pairs the one with more positions. Prune one way, then partition the subnet the
    other way, to remove both. For a subnet, `pruned` is the selection it came from: its choices are kept.

    Raises UsageError for another `carry`.
    """
    if carry not in CARRIES:
        raise UsageError(f"unknown carry {carry!r}; there are {', '.join(CARRIES)}")
    start = time.perf_counter()
    facts = Facts()
    collect = Pass(facts)
    state = state_labels(collect, graph)
    facts.state_end = facts.size
    propagate(collect, graph, state)
    if pruned is not None:
        carry = pruned.groups.carry
    before = None if pruned is None else _numbers_before(graph, state, facts.size, pruned)
    classes = resolve(facts, before, carry)
    _hold_unused(graph, state, classes)
    first = _number(classes, facts.state_end)
    producers, consumers = _mark(facts, facts.producers), _mark(facts, facts.consumers)
    dims, weak = _zero_pass(facts, first, graph, state, producers)
    never: dict[int, tuple[int, str]] = {}
    if weak:
        never = _zero_pass(facts, first, graph, state, producers | consumers)[1]
    # A group that its producers already silence is never zeroed by its readers too.
    gone = {group: Event(node, reason) for group, (node, reason) in never.items() if group in weak}
    gone |= {group: Event(-1, "fills a whole dimension") for group in _spanning(dims) if group not in gone}
    alive = _renumber(int(first.max(initial=0)), gone)
    modes = [
        "",
        *(CONSUMERS if group in weak else PRODUCERS for group in range(1, alive.size) if group not in gone),
    ]
    final = alive[first]
    events, held = _held(graph, state, classes, first, gone)
    cache: dict[int, tuple[Labels, Labels]] = {}
    return Groups(
        graph=graph,
        count=len(modes) - 1,
        dims={index: [_renamed(cache, alive, labels) for labels in lines] for index, lines in dims.items()},
        modes=tuple(modes),
        kinds=_kinds({**facts.kinds, "head": facts.batches, "head dim": classes.head_dims}, final, len(modes) - 1),
        producer_dims=_dims_with(state, producers),
        consumer_dims=_dims_with(state, consumers),
        held=held,
        events=tuple(events),
        carry=carry,
        seconds=time.perf_counter() - start,
    )


def _numbers_before(graph: Graph, state: dict[int, list[Labels]], size: int, pruned: Selection) -> Labels:
    """For each raw label of the subnet's state the group number its position had in the full model."""
    before = np.zeros(size, dtype=np.int64)
    whole = pruned.groups
    for name, index in graph.names.items():
        old = whole.graph.names.get(name)
        if old is None:
            continue
        for dim, labels in enumerate(state[index]):
            numbers = whole.dims[old][dim][pruned.kept(old, dim)]
            if numbers.size != labels.size:
                raise SelectionError(f"{name} does not have the size the selection leaves")
            before[labels] = numbers
    before[0] = 0
    return before


def _hold_unused(graph: Graph, state: dict[int, list[Labels]], classes: Classes) -> None:
    """State that no operation reads proves nothing when it shrinks: hold it back."""
    used = {index for node in graph.nodes for index in refs((node.args, node.kwargs))} | set(graph.outputs)
    classes.events.append(Event(-1, "is never used in the forward pass"))
    for index, lines in state.items():
        if index not in used:
            for labels in lines:
                classes.of[labels] = 0
                classes.reason[labels] = len(classes.events) - 1


def _number(classes: Classes, end_of_state: int) -> Labels:
    """Group numbers of raw labels: classes that hold state, numbered by first appearance."""
    present, first = np.unique(classes.of[:end_of_state], return_index=True)
    order = np.argsort(first[present != 0], kind="stable")
    numbers = np.zeros(int(classes.of.max(initial=0)) + 1, dtype=np.int64)
    numbers[present[present != 0][order]] = np.arange(1, order.size + 1)
    return numbers[classes.of]


def _mark(facts: Facts, arrays: list[Labels]) -> Mask:
    """Which raw labels carry a mark; reshaped weights pass theirs on to the weight's own labels."""
    mask = np.zeros(facts.size, dtype=bool)
    for labels in arrays:
        mask[labels] = True
    for grid in reversed(facts.grids):
        marked = mask[grid.flat].reshape(grid.shape)
        for axis, factor in enumerate(grid.factors):
            others = tuple(other for other in range(marked.ndim) if other != axis)
            line = np.expand_dims(mask[factor], others)
            mask[factor] |= marked.any(axis=others)
            mask[grid.flat] |= np.broadcast_to(line, grid.shape).reshape(-1)
    mask[0] = False
    return mask


def _zero_pass(
    facts: Facts, final: Labels, graph: Graph, state: dict[int, list[Labels]], zeroed: Mask
) -> tuple[dict[int, list[Labels]], dict[int, tuple[int, str]]]:
    """Replay the rules with slices of `zeroed` state at zero; which groups are then not exact?"""
    replay = Pass(facts, final)
    signed = {
        index: [np.where(zeroed[labels], final[labels], -final[labels]) for labels in lines]
        for index, lines in state.items()
    }
    dims = propagate(replay, graph, signed)
    return dims, replay.violations


def _spanning(dims: dict[int, list[Labels]]) -> set[int]:
    """Groups that are all there is of some dimension."""
    found = set()
    seen: set[int] = set()
    for lines in dims.values():
        for labels in lines:
            if labels.size > 1 and id(labels) not in seen:
                seen.add(id(labels))
                group = abs(int(labels[0]))
                if group and (np.abs(labels) == group).all():
                    found.add(group)
    return found


def _renumber(count: int, gone: dict[int, Event]) -> Labels:
    alive = np.ones(count + 1, dtype=np.int64)
    alive[[0, *gone]] = 0
    return np.where(alive == 1, np.cumsum(alive), 0)


def _renamed(cache: dict[int, tuple[Labels, Labels]], alive: Labels, labels: Labels) -> Labels:
    """Final numbers without signs; arrays that were one object stay one object."""
    known = cache.get(id(labels))
    if known is None:
        known = (labels, alive[np.abs(labels)] if labels.any() else labels)
        cache[id(labels)] = known
    return known[1]


def _held(
    graph: Graph, state: dict[int, list[Labels]], classes: Classes, first: Labels, gone: dict[int, Event]
) -> tuple[list[Event], dict[tuple[int, int], npt.NDArray[np.int64]]]:
    """For every position of the state the event that holds it back, -1 where it is in a group."""
    events = list(classes.events)
    event_of = np.full(int(first.max(initial=0)) + 1, -1, dtype=np.int64)
    for group, event in gone.items():
        event_of[group] = len(events)
        events.append(event)
    single, whole = len(events), len(events) + 1
    events += [Event(-1, "has a single position"), Event(-1, "does not hold floating point numbers")]
    held = {}
    for index, lines in state.items():
        for dim, labels in enumerate(lines):
            if labels.size == 1 and graph.values[index].floating:
                held[index, dim] = np.full(1, single)
            elif not graph.values[index].floating:
                held[index, dim] = np.full(labels.size, whole)
            else:
                held[index, dim] = np.where(first[labels] == 0, classes.reason[labels], event_of[first[labels]])
    return events, held


def _kinds(marked: dict[str, list[Labels]], final: Labels, count: int) -> tuple[str, ...]:
    """head, head dim, channel, neuron or embedding by what makes the group; else parameter."""
    rank = np.full(count + 1, len(KINDS) - 1)
    for number, kind in reversed(list(enumerate(KINDS))):
        for labels in marked.get(kind, []):
            rank[final[labels]] = np.minimum(rank[final[labels]], number)
    return ("", *(KINDS[number] for number in rank[1:]))


def _dims_with(state: dict[int, list[Labels]], mask: Mask) -> frozenset[tuple[int, int]]:
    return frozenset(
        (index, dim) for index, lines in state.items() for dim, labels in enumerate(lines) if mask[labels].any()
    )
