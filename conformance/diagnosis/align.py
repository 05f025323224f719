"""Which point of a subnet's run corresponds to which point of the full model's tape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conformance.diagnosis.watch import ENTER, LEAVE, OPERATION, Moment, compared
from conformance.graph.tape import Graph, refs
from conformance.partition.rules import base_name


@dataclass(frozen=True)
class Event:
    """A point of the full model's run: a call (its index on the tape; -1 outside of any) begins or ends, or a node ran.

    values are the value numbers there; node is the operation's, and for calls that of the next one.
    """

    kind: str
    call: int
    node: int
    values: tuple[int, ...]


def events_of(graph: Graph) -> list[Event]:
    """All events of a tape, in the order they happened."""
    return list(_events(graph))


def _events(graph: Graph) -> Iterator[Event]:
    calls, running, following = graph.calls, [-1], 0
    for at in range(len(graph.nodes) + 1):
        while following < len(calls) and calls[following].first == at:
            parent = calls[following].parent
            while parent not in running:  # it ended in an exception, unseen
                parent = calls[parent].parent
            while running[-1] != parent:
                yield _left(graph, running.pop(), at)
            yield Event(ENTER, following, at, calls[following].inputs)
            running.append(following)
            following += 1
        while running[-1] >= 0 and calls[running[-1]].last == at:
            yield _left(graph, running.pop(), at)
        if at < len(graph.nodes):
            yield Event(OPERATION, running[-1], at, tuple(refs(graph.nodes[at].outputs)))


def _left(graph: Graph, call: int, at: int) -> Event:
    return Event(LEAVE, call, at, graph.calls[call].outputs)


def align(graph: Graph, events: Sequence[Event], moments: Sequence[Moment]) -> dict[int, int]:
    """Event number -> moment number, where they correspond.

    A replay of this very tape corresponds node by node. Otherwise calls correspond by path and number, and
    operations one by one where both runs have the same ones in the same order: in the whole run, else within
    each call (a call that runs others, such as a norm put in place, is compared as a whole).
    """
    if any(moment.node >= 0 for moment in moments):
        return _same_nodes(graph, events, moments)
    calls = {(m.kind, m.path, m.number): at for at, m in enumerate(moments) if m.kind != OPERATION}
    pairs = {}
    for at, event in enumerate(events):
        if event.kind != OPERATION and event.call >= 0:
            call = graph.calls[event.call]
            if (event.kind, call.module, call.number) in calls:
                pairs[at] = calls[event.kind, call.module, call.number]
    mine = [at for at, event in enumerate(events) if event.kind == OPERATION and compared(_name(graph, event))]
    theirs = [at for at, moment in enumerate(moments) if moment.kind == OPERATION]
    pairs |= _one_by_one(graph, events, moments, mine, theirs) or _by_call(graph, events, moments, mine, theirs)
    return pairs


def _name(graph: Graph, event: Event) -> str:
    return base_name(graph.nodes[event.node].op)


def _same_nodes(graph: Graph, events: Sequence[Event], moments: Sequence[Moment]) -> dict[int, int]:
    by_node = {moment.node: at for at, moment in enumerate(moments)}
    return {
        at: by_node[event.node]
        for at, event in enumerate(events)
        if event.kind == OPERATION
        and event.node in by_node
        and moments[by_node[event.node]].name == _name(graph, event)
        and not _name(graph, event).startswith(("empty", "new_empty"))  # what was in memory
    }


def _one_by_one(
    graph: Graph, events: Sequence[Event], moments: Sequence[Moment], mine: Sequence[int], theirs: Sequence[int]
) -> dict[int, int]:
    """The operations in order; nothing unless those of one run begin with those of the other.

    A run that raised is the shorter one.
    """
    short = min(len(mine), len(theirs))
    if len(theirs) > len(mine) or [_name(graph, events[at]) for at in mine[:short]] != [
        moments[at].name for at in theirs[:short]
    ]:
        return {}
    return dict(zip(mine[:short], theirs[:short], strict=True))


def _by_call(
    graph: Graph, events: Sequence[Event], moments: Sequence[Moment], mine: Sequence[int], theirs: Sequence[int]
) -> dict[int, int]:
    ours: dict[tuple[str, int], list[int]] = {}
    for at in mine:
        call = graph.calls[events[at].call] if events[at].call >= 0 else None
        ours.setdefault((call.module, call.number) if call else ("", 0), []).append(at)
    other: dict[tuple[str, int], list[int]] = {}
    for at in theirs:
        other.setdefault((moments[at].path, moments[at].number), []).append(at)
    pairs: dict[int, int] = {}
    for key, own in ours.items():
        if len(own) == len(other.get(key, ())):
            pairs |= _one_by_one(graph, events, moments, own, other[key])
    return pairs
