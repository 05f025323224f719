"""What a decision must be: repeatable, about groups that exist, and within the limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.errors import UsageError
from conformance.method.contract.registry import CheckFailed, CheckSkipped, Finding, check
from conformance.method.contract.subject import Subject, first_difference, same_decision
from conformance.method.host import Plan
from conformance.method.ladder import Limits
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed
from conformance.partition.selection import Selection

_PROTECTED = (0.25, 0.75)
_NEAR_LIMIT = 0.8
"""Which share of all that the limits allow is asked for, so that they are felt."""


@check("M.same-seed")
def same_seed(subject: Subject) -> Finding:
    """The same seed gives the same decision, weights and history, bit for bit."""
    one, other = subject.result(), subject.result(again=1)
    if not same_decision(one.decision, other.decision):
        raise CheckFailed(
            f"two runs with seed {subject.seed} decided differently", **_both(one.decision, other.decision)
        )
    for what, mine, theirs in (("model", one.model, other.model), ("subnet", one.subnet, other.subnet)):
        if name := first_difference(mine.state_dict(), theirs.state_dict()):
            raise CheckFailed(f"two runs with seed {subject.seed} gave another {what}: {name}")
    if one.history != other.history:
        raise CheckFailed(f"two runs with seed {subject.seed} logged different histories")
    return Finding(len(one.model.state_dict()) + len(one.subnet.state_dict()) + len(one.history))


@check("M.other-seed", "SHOULD")
def other_seed(subject: Subject) -> Finding:
    """Another seed gives another decision where the method declares that it draws it, and only there."""
    facts = subject.facts
    if facts.data is not DataNeed.NONE and not facts.random:
        raise CheckSkipped("the seed orders the data, on which the decision rests")
    first = subject.plan().decision
    others = [subject.plan(seed=subject.seed + step).decision for step in (1, 2)]
    same = [same_decision(first, other) for other in others]
    if facts.random and all(same):
        raise CheckFailed("it declares a random decision, and three seeds gave the same")
    if not facts.random and not all(same):
        raise CheckFailed("another seed gives another decision, and it does not declare `random`")
    return Finding(len(others))


def _both(one: object, other: object) -> dict[str, Any]:
    if isinstance(one, Selection) and isinstance(other, Selection):
        return {"only_in_one": sorted({*one.removed} ^ {*other.removed})}
    return {}


@check("M.existing")
def existing(subject: Subject) -> Finding:
    """A decision names groups, or weights, that the model has: what cannot leave exactly is in no group."""
    subject.must_remove()
    found = subject.plan()
    if isinstance(found.decision, Masks):
        return Finding(_existing_weights(subject, found.decision))
    groups, removed = subject.groups, found.decision.removed
    if found.decision.groups.fingerprint != groups.fingerprint:
        raise CheckFailed("the decision is about another partition than the run's")
    unknown = [number for number in removed if not 1 <= number <= groups.count]
    if unknown:
        raise CheckFailed(f"groups are numbered 1 to {groups.count}, and the decision names {unknown[0]!r}")
    if list(removed) != sorted(set(removed)):
        raise CheckFailed("the decision names a group twice, or not in ascending order")
    return Finding(len(removed))


def _existing_weights(subject: Subject, masks: Masks) -> int:
    state = dict(subject.base.model.named_parameters(remove_duplicate=False))
    for name, mask in masks.kept.items():
        if name not in state:
            raise CheckFailed(f"a mask is for {name}, which is no parameter of the model")
        if mask.shape != state[name].shape or str(mask.dtype) != "torch.bool":
            raise CheckFailed(
                f"the mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}, and not bool of shape "
                f"{tuple(state[name].shape)}"
            )
    return len(masks.kept)


def _kept(choice: Selection) -> Iterator[tuple[int, int]]:
    """For each axis how many groups it has, and how many stay."""
    groups = choice.groups
    axis = groups.axis_of[1:]
    stays = ~choice.gone[1:]
    for number in np.unique(axis):
        yield int((axis == number).sum()), int(stays[axis == number].sum())


def _emptied(choice: Selection) -> str:
    """A dimension of the state or of a value on the way that keeps nothing, in words; '' when none does."""
    groups = choice.groups
    names = {index: name for name, index in groups.graph.names.items()}
    for index, lines in groups.dims.items():
        for dim, labels in enumerate(lines):
            if labels.size and choice.gone[labels].all():
                return f"dimension {dim} of {names.get(index, f'value {index}')}"
    return ""


@check("M.never-empty")
def never_empty(subject: Subject) -> Finding:
    """No dimension loses every position and min_keep is kept, at the base and at the largest budget reached."""
    subject.must_remove()
    if subject.masks:
        raise CheckSkipped("the method masks single weights: no group leaves")
    looked = 0
    for limits, found in (
        (Limits(), subject.plan()),
        (Limits(), subject.largest(Limits())),
        (Limits(min_keep=2), subject.largest(Limits(min_keep=2))),
    ):
        choice = subject.selection(found)
        where = f"at a budget of {found.run.budget} with min_keep {limits.min_keep}"
        if place := _emptied(choice):
            raise CheckFailed(f"{where} {place} keeps no position", removed=len(choice))
        for width, kept in _kept(choice):
            if kept < min(limits.min_keep, width):
                raise CheckFailed(f"{where} an axis of {width} groups keeps {kept}", removed=len(choice))
            looked += 1
    return Finding(looked)


@check("M.limits")
def limits_kept(subject: Subject) -> Finding:
    """round_to, protect and ignore are respected, near the largest budget that they allow."""
    subject.must_remove()
    if subject.masks:
        return _limits_of_masks(subject)
    looked = sum(_rounded(subject, step) for step in (2, 3))
    for share in _PROTECTED:
        for width, kept in _kept(subject.selection(subject.largest(Limits(protect=share)))):
            if kept < share * width - 1e-9:
                raise CheckFailed(f"protect {share:g}: an axis of {width} groups keeps {kept}")
            looked += 1
    return Finding(looked + _ignored(subject))


def _near(subject: Subject, limits: Limits) -> Plan:
    return subject.largest(limits, _NEAR_LIMIT)


def _rounded(subject: Subject, step: int) -> int:
    """How many axes were looked at; 0 where no axis can lose a whole multiple."""
    try:
        found = _near(subject, Limits(round_to=step))
    except CheckSkipped:
        return 0
    looked = 0
    for width, kept in _kept(subject.selection(found)):
        if kept != width and kept % step:
            raise CheckFailed(f"round_to {step}: an axis of {width} groups keeps {kept}")
        looked += 1
    return looked


def _ignored(subject: Subject) -> int:
    """How many producers were ignored in vain; 0 for a model of one axis, which cannot be left alone."""
    groups = subject.groups
    if groups.axis_of.max(initial=-1) < 1:
        return 0
    made = [
        (name, groups.dims[index])
        for name, index in groups.graph.names.items()
        if any((index, dim) in groups.producer_dims for dim in range(len(groups.dims[index])))
    ]
    name = max(made, key=lambda item: sum(int((labels > 0).sum()) for labels in item[1]))[0]
    pattern = name.rpartition(".")[0] or name
    choice = subject.selection(_near(subject, Limits(ignore=(pattern,))))
    looked = 0
    for name, index in groups.graph.names.items():
        if name != pattern and not name.startswith(f"{pattern}."):
            continue
        for dim, labels in enumerate(groups.dims[index]):
            if (index, dim) in groups.producer_dims:
                if choice.gone[labels].any():
                    raise CheckFailed(f"ignore {pattern}: {int(choice.gone[labels].sum())} positions of {name} leave")
                looked += 1
    return looked


def _limits_of_masks(subject: Subject) -> Finding:
    masks = subject.plan().decision
    assert isinstance(masks, Masks)
    if len(masks.kept) < 2:
        raise CheckSkipped("one parameter is masked: nothing would be left to mask without it")
    name = max(masks.kept, key=lambda name: int((~masks.kept[name]).sum()))
    try:
        found = subject.plan(limits=Limits(ignore=(name,))).decision
    except UsageError as error:
        raise CheckSkipped(f"without {name} the base budget cannot be met: {error}") from error
    assert isinstance(found, Masks)
    if name in found.kept and not bool(found.kept[name].all()):
        raise CheckFailed(f"ignore {name}: {int((~found.kept[name]).sum())} of its weights are masked")
    return Finding(1, "round_to, min_keep and protect are about groups")
