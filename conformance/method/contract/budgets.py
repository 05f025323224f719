"""Budgets: met, reported truthfully, and larger ones remove more."""

from __future__ import annotations

import itertools
import math

import numpy as np

from conformance.cost import measured_flops, parameter_count
from conformance.errors import UsageError
from conformance.method.budget import Budget, Cost, Kind
from conformance.method.contract.registry import CheckFailed, CheckSkipped, Finding, check
from conformance.method.contract.subject import Subject, amount
from conformance.method.host import Plan, Result
from conformance.method.masks import Masks
from conformance.method.protocol import Driver
from conformance.method.weights import maskable
from conformance.partition.selection import Selection

_ROUNDING = 1e-9


@check("M.budget")
def budget(subject: Subject) -> Finding:
    """Budgets of every kind are met within one rung, and the shares reported are those of model and subnet."""
    if not subject.kinds:
        raise CheckSkipped("it takes budgets of measured time only")
    notes: list[str] = []
    looked = 0
    for kind in subject.kinds:
        wanted = subject.budget if kind == subject.budget.kind else subject.modest(kind, subject.budget.remove)
        result = subject.result(wanted)
        if not subject.facts.removes:
            _refuses(subject, kind)
        if isinstance(result.decision, Masks):
            looked += _masks_meet(subject, wanted, result, result.decision)
            continue
        looked += _truthful(subject, result, notes)
        over = result.removed[kind] - wanted.remove
        rung = _rung(subject, kind)
        if over < -_ROUNDING:
            raise CheckFailed(f"the budget {wanted} is missed: {result.removed[kind]:.4f} leaves")
        if over > rung + _ROUNDING:
            raise CheckFailed(
                f"the budget {wanted} is overshot: {result.removed[kind]:.4f} leaves, and one rung is {rung:.4f}"
            )
        looked += 1
    return Finding(looked, "; ".join(dict.fromkeys(notes)))


def _refuses(subject: Subject, kind: Kind) -> None:
    """A control must not take a budget that it cannot meet."""
    try:
        subject.plan(Budget(kind, 0.1))
    except UsageError:
        return
    raise CheckFailed(f"it declares itself a control, and takes a budget of 0.1 of the {kind}")


def _rung(subject: Subject, kind: Kind) -> float:
    """The largest step a decision can be too far: what one group saves, or for all but global ranks one of each axis.

    Groups save less the more of their neighbours have left, so the dense model's figures bound all others.
    """
    groups, cost = subject.groups, Cost(subject.groups)
    saved = np.zeros(groups.count + 1)
    for group in range(1, groups.count + 1):
        saved[group] = cost.removed(kind, Selection(groups, (group,)))
    axes = np.zeros(int(groups.axis_of.max()) + 1)
    np.maximum.at(axes, groups.axis_of[1:], saved[1:])
    by_rank = subject.plan().run.scores is not None and subject.given.scope == "global"
    return float(axes.max() if by_rank else axes.sum())


def _truthful(subject: Subject, result: Result, notes: list[str]) -> int:
    """Compare the report with what is counted on the modules. How many figures were compared."""
    groups = subject.groups
    choice = subject.selection(result)
    counted = {
        "groups": len(choice) / max(groups.count, 1),
        "params": 1 - parameter_count(result.subnet) / parameter_count(subject.base.model),
    }
    if any(groups.graph.shaped_by_values(node) for node in groups.graph.nodes):
        notes.append("multiply-adds were not counted on the subnet: how much it computes depends on values")
    elif dense := measured_flops(subject.base.model, groups.graph):
        counted["macs"] = 1 - measured_flops(result.subnet, groups.graph) / dense
    for kind, share in counted.items():
        if abs(share - result.removed[kind]) > _ROUNDING:
            raise CheckFailed(f"it reports that {result.removed[kind]:.6f} of the {kind} left; counted are {share:.6f}")
    return len(counted)


def _masks_meet(subject: Subject, wanted: Budget, result: Result, masks: Masks) -> int:
    """The budget lies between the share of all that may be masked and that of the parameters that are.

    One weight a tensor is free.
    """
    gone = sum(int((~mask).sum()) for mask in masks.kept.values())
    masked = sum(mask.numel() for mask in masks.kept.values())
    may = set(maskable(subject.groups.graph))
    graph = subject.groups.graph
    total = sum(math.prod(graph.values[graph.names[name]].shape) for name in may)
    if alien := sorted(masks.kept.keys() - may):
        raise CheckFailed(f"it masks {alien[0]}, which is no weight of a matrix product or convolution")
    if abs(result.removed["weights"] - gone / masked) > _ROUNDING:
        raise CheckFailed(
            f"it reports that {result.removed['weights']:.6f} of the weights left; counted are {gone / masked:.6f}"
        )
    if gone / masked < wanted.remove - _ROUNDING:
        raise CheckFailed(f"the budget {wanted} is missed: {gone / masked:.4f} of the masked weights are zero")
    if gone / total > wanted.remove + len(masks.kept) / total + _ROUNDING:
        raise CheckFailed(f"the budget {wanted} is overshot: {gone / total:.4f} of all that may be are masked")
    return 2


@check("M.monotone")
def monotone(subject: Subject) -> Finding:
    """A larger budget removes at least as much, and all of it and more where the method ranks without training."""
    subject.must_remove()
    kind, share = subject.budget.kind, subject.budget.remove
    if kind == "latency":
        raise CheckSkipped("measured times are not ordered")
    plans = [subject.plan(Budget(kind, part)) for part in (share / 2, share, share + (1 - share) / 5)]
    cost = Cost(subject.groups)
    ranks = subject.facts.driver is Driver.POST and all(found.run.scores is not None for found in plans)
    for less, more in itertools.pairwise(plans):
        small, large = (amount(found.decision, kind, cost) for found in (less, more))
        words = f"{less.run.budget} and {more.run.budget}"
        if large < small - _ROUNDING:
            raise CheckFailed(f"of {words} the larger budget removes less: {small:.4f} and {large:.4f}")
        if ranks and not _contains(more, less):
            raise CheckFailed(f"of {words} the larger budget keeps what the smaller removes")
    return Finding(len(plans) - 1, "" if ranks else "amounts only: it does not rank once and for all")


def _contains(more: Plan, less: Plan) -> bool:
    if isinstance(more.decision, Masks) and isinstance(less.decision, Masks):
        inner = more.decision.kept
        return all(name in inner and not (inner[name] & ~mask).any() for name, mask in less.decision.kept.items())
    assert isinstance(more.decision, Selection)
    assert isinstance(less.decision, Selection)
    return {*less.decision.removed} <= {*more.decision.removed}
