"""Level 1: the structure is right: groups, coverage and counts."""

from __future__ import annotations

import numpy as np

from conformance.checks.registry import CheckFailed, CheckUnsupported, Finding, check
from conformance.checks.subject import Subject
from conformance.checks.table import held_rows
from conformance.cost import (
    measured_flops,
    parameter_count,
    predicted_flops,
    predicted_parameters,
)
from conformance.partition.build import partition

_SAMPLED = 64


@check("L1.groups")
def groups_found(subject: Subject) -> Finding:
    """Something can be pruned, and finding it again gives the same."""
    groups = subject.groups
    if not groups.count:
        rows = held_rows(groups)
        # Kernels are never a removable width: the reason a reader looks for is another one.
        telling = [row for row in rows if "kernel extent" not in row.reason] or rows
        worst = f", most by this: {telling[0].reason}" if telling else ""
        raise CheckUnsupported(f"no group was found: everything is held back{worst}")
    if partition(subject.graph).fingerprint != groups.fingerprint:
        raise CheckFailed("two partitions of the same graph differ")
    return Finding(groups.count)


@check("L1.disjoint")
def disjoint(subject: Subject) -> Finding:
    """Groups are disjoint, cover what is not held back, and none is empty or fills a dimension."""
    groups = subject.groups
    present = np.concatenate([labels for lines in groups.state.values() for labels in lines])
    empty = np.setdiff1d(np.arange(1, groups.count + 1), present)
    if empty.size:
        raise CheckFailed(f"group {int(empty[0])} has no slices")
    seen: dict[tuple[str, int], set[int]] = {}
    numbers = np.random.default_rng(subject.seed).permutation(groups.count)[:_SAMPLED] + 1
    for number in numbers:
        slices = groups.select([int(number)]).slices()
        owners = groups.graph.owners()
        first_names = {names[0] for names in owners.values()}
        for name, dims in slices.items():
            if name not in first_names:
                continue
            for dim, positions in dims.items():
                taken = seen.setdefault((name, dim), set())
                if taken & set(positions):
                    raise CheckFailed(f"group {number} shares positions of {name} dimension {dim} with another")
                taken |= set(positions)
                if len(positions) == groups.graph.values[groups.graph.names[name]].shape[dim]:
                    raise CheckFailed(f"group {number} fills dimension {dim} of {name}")
    return Finding(len(numbers))


@check("L1.accounted")
def accounted(subject: Subject) -> Finding:
    """Every slice of every parameter is in a group, or held back by a named operation."""
    groups = subject.groups
    counted = 0
    for name, index in groups.graph.names.items():
        if groups.graph.values[index].kind != "parameter":
            continue
        for dim, labels in enumerate(groups.dims[index]):
            held = groups.held[index, dim]
            wrong = (labels == 0) != (held >= 0)
            if wrong.any():
                raise CheckFailed(f"position {int(wrong.argmax())} of {name} dimension {dim} is unaccounted for")
            if any(not groups.events[event].reason for event in np.unique(held[held >= 0])):
                raise CheckFailed(f"a slice of {name} dimension {dim} is held back without a reason")
            counted += labels.size
    return Finding(counted)


@check("L1.counts")
def counts(subject: Subject) -> Finding:
    """Predicted parameter and FLOP counts of model and subnet are what the modules really have."""
    groups = subject.groups
    choice = groups.sample(0.5, subject.seed)
    subnet = subject.pair(choice).subnet.module
    found = {
        "parameters": (predicted_parameters(groups), parameter_count(subject.model)),
        "FLOPs": (predicted_flops(groups), measured_flops(subject.model, groups.graph)),
        "subnet parameters": (predicted_parameters(groups, choice), parameter_count(subnet)),
    }
    note = ""
    if groups.graph.first_by_values < len(groups.graph.nodes):
        note = "the subnet's FLOPs were not compared: how much it computes depends on values, and its own are others"
    else:
        found["subnet FLOPs"] = (predicted_flops(groups, choice), measured_flops(subnet, groups.graph))
    for what, (predicted, measured) in found.items():
        if predicted != measured:
            raise CheckFailed(f"{what}: predicted {predicted}, measured {measured}")
    if choice.removed and found["subnet parameters"][1] >= found["parameters"][1]:
        raise CheckFailed("the subnet has as many parameters as the model")
    return Finding(len(found), note, details={what: measured for what, (_, measured) in found.items()})
