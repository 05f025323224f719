"""The group table and what holds the rest back, as report rows."""

from __future__ import annotations

import numpy as np

from conformance.checks.activity import axis_name
from conformance.cost import removed_flops
from conformance.partition.explain import reason
from conformance.partition.groups import Groups
from conformance.report.schema import GroupRow, HeldBack

_EXAMPLES = 3


def group_rows(groups: Groups) -> list[GroupRow]:
    """One row an axis, in the model's order."""
    axis = groups.axis_of
    flops, parameters = removed_flops(groups), groups.removed_parameters
    order = np.argsort(axis[1:], kind="stable") + 1
    bounds = np.flatnonzero(np.diff(axis[order])) + 1
    rows = []
    for members in np.split(order, bounds) if groups.count else []:
        kinds = sorted({groups.kinds[number] for number in members})
        modes = sorted({groups.modes[number] for number in members})
        rows.append(
            GroupRow(
                axis=axis_name(groups, members),
                kind=", ".join(kinds),
                size=len(members),
                mode=", ".join(modes),
                parameters=int(parameters[members].sum()),
                flops=int(flops[members].sum()),
            )
        )
    return rows


def held_rows(groups: Groups) -> list[HeldBack]:
    """What holds parameter slices back, by operation and place, most parameters first."""
    found: dict[str, tuple[int, int, list[str]]] = {}
    for (index, dim), held in groups.held.items():
        value = groups.graph.values[index]
        if value.kind != "parameter" or value.shape[dim] < 2:
            continue
        per_slice = int(np.prod(value.shape)) // value.shape[dim]
        for event in np.unique(held[held >= 0]):
            text = reason(groups, groups.events[event])
            count = int((held == event).sum())
            slices, parameters, examples = found.get(text, (0, 0, []))
            if len(examples) < _EXAMPLES:
                examples = [*examples, f"{value.name}:{dim}"]
            found[text] = (slices + count, parameters + count * per_slice, examples)
    rows = [
        HeldBack(reason=text, slices=slices, parameters=parameters, examples=examples)
        for text, (slices, parameters, examples) in found.items()
    ]
    return sorted(rows, key=lambda row: (-row.parameters, row.reason))
