"""Answer 'why': which group a slice is in, or which operation holds it back."""

from __future__ import annotations

import difflib

import numpy as np

from conformance.errors import SelectionError
from conformance.partition.groups import Groups
from conformance.partition.labels import Event


def reason(groups: Groups, event: Event) -> str:
    """One phrase: what the operation does to the slice, and where in the model's code."""
    if event.node < 0:
        return event.reason
    if event.node >= len(groups.graph.nodes):
        return event.reason
    return f"{event.reason}: {groups.graph.nodes[event.node].where}"


def explain(groups: Groups, parameter: str, dim: int | None = None) -> str:
    """Text, one paragraph a dimension."""
    graph = groups.graph
    if parameter not in graph.names:
        near = difflib.get_close_matches(parameter, graph.names, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise SelectionError(f"the model has no parameter or buffer named {parameter!r}{hint}")
    index = graph.names[parameter]
    shape = graph.values[index].shape
    if dim is not None and not -len(shape) <= dim < len(shape):
        raise SelectionError(f"{parameter} has dimensions 0 to {len(shape) - 1}, not {dim}")
    dims = range(len(shape)) if dim is None else [dim % len(shape)]
    lines = [f"{parameter} {tuple(shape)}"]
    for at in dims:
        lines += _dimension(groups, parameter, index, at)
    return "\n".join(lines)


def _dimension(groups: Groups, parameter: str, index: int, dim: int) -> list[str]:
    labels = groups.dims[index][dim]
    lines = [f"  dimension {dim}: {labels.size} positions"]
    members = np.unique(labels[labels > 0])
    if members.size:
        role = " and ".join(
            name
            for name, marked in (("produces", groups.producer_dims), ("reads", groups.consumer_dims))
            if (index, dim) in marked
        )
        kinds = sorted({groups.kinds[group] for group in members})
        modes = sorted({groups.modes[group] for group in members})
        lines.append(
            f"    {members.size} groups ({', '.join(kinds)}; zero by {', '.join(modes)}), "
            f"numbers {members[0]} to {members[-1]}" + (f"; this tensor {role} them" if role else "")
        )
        lines.append(f"    leaves together with: {', '.join(_together(groups, members, parameter, dim))}")
    held = groups.held[index, dim]
    # Every group that is never zero has an event of its own; alike ones are told once.
    counts: dict[str, int] = {}
    for event, count in zip(*np.unique(held[held >= 0], return_counts=True), strict=True):
        text = reason(groups, groups.events[event])
        counts[text] = counts.get(text, 0) + int(count)
    return [*lines, *(f"    {count} held back: {text}" for text, count in counts.items())]


def _together(groups: Groups, members: np.ndarray, parameter: str, dim: int) -> list[str]:
    found = []
    chosen = np.zeros(groups.count + 1, dtype=bool)
    chosen[members] = True
    chosen[0] = False
    for name, index in groups.graph.names.items():
        for at, labels in enumerate(groups.dims[index]):
            if (name, at) != (parameter, dim) and chosen[labels].any():
                found.append(f"{name}:{at}")
    return found or ["nothing else"]
