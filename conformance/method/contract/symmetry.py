"""Channels have no names: in another order the same ones leave."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from conformance.backend import Inputs
from conformance.equivalence.compare import equivalent
from conformance.equivalence.gradient import NoDropout
from conformance.equivalence.verdict import Status
from conformance.graph.tape import tensors_in
from conformance.method.contract.registry import CheckFailed, CheckSkipped, CheckUnsupported, Finding, check
from conformance.method.contract.subject import Subject
from conformance.method.contract.synthetic import Synthetic
from conformance.method.host import Options, Plan, plan
from conformance.method.masks import Masks
from conformance.partition.groups import Groups, IntArray
from conformance.partition.selection import Selection
from conformance.subnet.permute import exchangeable, permute, permuted, reorder

_TIE = 1e-9
"""Scores that are closer than this, relatively, are taken for equal: which of them leaves is up to the order."""


@check("M.equivariant")
def equivariant(subject: Subject) -> Finding:
    """With the channels of every axis in another order, the same channels leave."""
    subject.must_remove()
    if not subject.facts.equivariant:
        raise CheckSkipped("it declares that its decision depends on the order of channels")
    model, args = _wide(subject)
    order = _order(model, args, subject.groups, subject.seed)
    task = None if subject.needed is None else subject.task_of(model, torch.float64)
    with NoDropout():
        if subject.trains and _draws(model, args):
            raise CheckUnsupported("the model draws random numbers by position in training")
        first = _planned(subject, model, args, task)
        other = _planned(subject, permuted(model, subject.groups, order), args, task)
    moved = int((order != np.arange(order.size)).sum())
    if isinstance(first.decision, Masks) or isinstance(other.decision, Masks):
        _same_masks(first.decision, other.decision, subject.groups, order)
        return Finding(moved)
    ties = _same_groups(first, other, order)
    return Finding(moved if len(first.decision) else 0, f"{ties} groups of equal score apart" if ties else "")


def _wide(subject: Subject) -> tuple[torch.nn.Module, Inputs]:
    """The model and its inputs in float64: sums in another order then differ by 1e-16, not by what decides."""
    model = copy.deepcopy(subject.base.model).double()
    args: Inputs = pytree.tree_map_only(
        torch.Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, subject.base.inputs()
    )
    return model, args


def _order(model: torch.nn.Module, given: Inputs, groups: Groups, seed: int) -> IntArray:
    """An order of all groups that keeps the function, by the field oracle; axes in which none does stay.

    Raises CheckUnsupported when no axis can be put in another order.
    """
    sets = exchangeable(groups)

    def kept(some: list[IntArray]) -> bool:
        twin = permuted(model, groups, reorder(groups, some, seed))
        verdict = equivalent(model, twin, *given, oracle="field", seed=seed)
        if verdict.status is Status.UNSUPPORTED:
            raise CheckUnsupported(f"whether another order is the same function cannot be decided: {verdict.reason}")
        return verdict.equal

    if sets and not kept(sets):
        sets = [members for members in sets if kept([members])]
        if sets and not kept(sets):
            sets = sets[:1]
    if not sets:
        raise CheckUnsupported("no channels of this model can change places without changing what it computes")
    return reorder(groups, sets, seed)


def _draws(model: torch.nn.Module, given: Inputs) -> bool:
    """Whether two passes in training mode differ under different random states."""
    outputs = []
    for seed in (0, 1):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            args, kwargs = copy.deepcopy(given)
            outputs.append(tensors_in(copy.deepcopy(model).train()(*args, **kwargs)))
    return any(not torch.equal(one, other) for one, other in zip(*outputs, strict=True))


def _planned(subject: Subject, model: torch.nn.Module, given: Inputs, task: Synthetic | None) -> Plan:
    args, kwargs = given
    return plan(
        subject.method(), model, args, kwargs, budget=subject.budget, task=task, recipe=subject.recipe,
        options=Options(seed=subject.seed, measure=False),
    )  # fmt: skip


def _same_masks(first: object, other: object, groups: Groups, order: IntArray) -> None:
    assert isinstance(first, Masks)
    assert isinstance(other, Masks)
    lines = {groups.graph.values[index].name: dims for index, dims in groups.state.items()}
    for name, mask in first.kept.items():
        expected = permute(mask, lines[name], order) if name in lines else mask
        if name not in other.kept or not torch.equal(expected, other.kept[name]):
            raise CheckFailed(f"with channels in another order other weights of {name} are masked")


def _same_groups(first: Plan, other: Plan, order: IntArray) -> int:
    """How many groups differ that have equal scores. Raises CheckFailed for any other difference."""
    assert isinstance(first.decision, Selection)
    assert isinstance(other.decision, Selection)
    gone, found = first.decision.gone, other.decision.gone[np.argsort(order)]  # by the numbers of the first
    only_first, only_other = np.flatnonzero(gone & ~found), np.flatnonzero(found & ~gone)
    if not only_first.size and not only_other.size:
        return 0
    details: dict[str, Any] = {"only_as_given": only_first.tolist(), "only_reordered": only_other.tolist()}
    text = f"with channels in another order {max(only_first.size, only_other.size)} other groups leave"
    if first.run.scores is None or only_first.size != only_other.size:
        raise CheckFailed(text, **details)
    scores = first.run.scores.detach().double().cpu().numpy()
    one, two = np.sort(scores[only_first]), np.sort(scores[only_other])
    if (np.abs(one - two) > _TIE * np.maximum(np.abs(one), np.abs(two))).any():
        raise CheckFailed(text, **details)
    return int(only_first.size)
