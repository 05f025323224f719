"""Faults of extraction, of the partition, or of the subnet as a module, each found by one check.

These run through the checks of a model with one function of the engine replaced by a faulty one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils import _pytree as pytree

import conformance as pc
from conformance.backend import Backend
from conformance.checks.runner import check
from conformance.errors import SelectionError
from conformance.report.schema import Outcome
from conformance.subnet.extract import GRAPH, SAME_CLASS, Candidate, candidates
from conformance.subnet.zero import zero, zero_

Faulty = Callable[[ExitStack, list[int]], None]
"""Puts the fault in place until the stack is left; adds to the list whenever it really did something."""


@dataclass(frozen=True)
class CheckKind:
    """A kind of fault and the check that must not pass."""

    name: str
    what: str
    fires: str
    place: Faulty


CHECK_KINDS: dict[str, CheckKind] = {}


def kind(name: str, what: str, fires: str) -> Callable[[Faulty], Faulty]:
    def register(place: Faulty) -> Faulty:
        CHECK_KINDS[name] = CheckKind(name, what, fires, place)
        return place

    return register


@dataclass(frozen=True)
class CheckRow:
    """planted: whether the fault had a place in this model; fired: the named check did not pass; clean: it did without."""

    planted: bool
    fired: bool
    outcome: str


def run(kind: CheckKind, backend: Backend, seed: int = 0) -> CheckRow:
    """The named check on a model with the fault in the engine."""
    done: list[int] = []
    level = int(kind.fires[1])
    only = (kind.fires,) if level == 2 else ("*",)
    with ExitStack() as stack:
        kind.place(stack, done)
        report = check(backend, level=level, seed=seed, only=only)
    (result,) = [result for result in report.checks if result.id == kind.fires]
    return CheckRow(bool(done), result.outcome in (Outcome.FAIL, Outcome.UNSUPPORTED), result.outcome.value)


def clean(backend: Backend, fires: str, seed: int = 0) -> bool:
    """Whether the check passes without a fault."""
    level = int(fires[1])
    report = check(backend, level=level, seed=seed, only=(fires,) if level == 2 else ("*",))
    return any(result.id == fires and result.outcome is Outcome.PASS for result in report.checks)


Extraction = Callable[[torch.nn.Module, pc.Selection], Iterator[Candidate]]


def _extracting(stack: ExitStack, faulty: Extraction, *modules: str) -> None:
    for module in modules or ("subject", "level2"):
        stack.enter_context(patch(f"conformance.checks.{module}.candidates", faulty))


def _mapped(change: Callable[[torch.nn.Module], torch.nn.Module], done: list[int]) -> Extraction:
    """Correct subnets of the model's own class, changed afterwards."""

    def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
        for found in candidates(model, choice):
            if choice.removed and found.kind == SAME_CLASS:
                done.append(1)
                yield Candidate(change(found.module), found.kind)
            else:
                yield found

    return faulty


@kind("no-op", "the zeroed full model in place of a subnet: the same function, not smaller", "L1.counts")
def _no_op(stack: ExitStack, done: list[int]) -> None:
    def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
        done.append(len(choice))
        yield Candidate(zero(model, choice), SAME_CLASS)

    _extracting(stack, faulty)


@kind("nothing-done", "the model itself in place of a subnet, nothing zeroed", "L1.counts")
def _nothing(stack: ExitStack, done: list[int]) -> None:
    def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
        done.append(len(choice))
        yield Candidate(copy.deepcopy(model), SAME_CLASS)

    _extracting(stack, faulty)


@kind("original-zeroed", "extraction zeroes the slices in the caller's model", "L2.identity")
def _original_zeroed(stack: ExitStack, done: list[int]) -> None:
    def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
        done.append(len(choice))
        zero_(model, choice)
        yield from candidates(model, choice)

    _extracting(stack, faulty)


@kind("original-trained", "extraction leaves the caller's model in training mode", "L2.identity")
def _original_trained(stack: ExitStack, done: list[int]) -> None:
    def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
        done.append(1)
        for found in candidates(model, choice):
            model.train()
            yield found

    _extracting(stack, faulty)


def _outputs(stack: ExitStack, done: list[int], wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    _extracting(stack, _mapped(wrap, done))


class _FirstTwo(torch.nn.Module):
    """Knows a batch of two only: later rows are those of the first two."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def rows(leaf: torch.Tensor) -> torch.Tensor:
            return torch.cat([leaf[:2], leaf[:2]])[: leaf.shape[0]] if leaf.ndim and leaf.shape[0] > 2 else leaf

        args, kwargs = pytree.tree_map_only(torch.Tensor, rows, (args, kwargs))
        return self.inner(*args, **kwargs)


@kind("batch-baked-in", "the subnet is right for the traced batch only", "L2.batch")
def _batch(stack: ExitStack, done: list[int]) -> None:
    _outputs(stack, done, _FirstTwo)


def _detached(module: torch.nn.Module) -> torch.nn.Module:
    """No gradient flows back through the last layer with weights."""
    layers = [part for part in module.modules() if isinstance(part, (torch.nn.Linear, torch.nn.modules.conv._ConvNd))]
    if layers:
        layers[-1].register_forward_pre_hook(lambda _, args: tuple(arg.detach() for arg in args))
    return module


@kind("gradient-cut", "the subnet computes the same but passes no gradient on", "L2.gradient")
def _gradient(stack: ExitStack, done: list[int]) -> None:
    _outputs(stack, done, _detached)


@kind("class-lost", "a traced graph where the model's own class was possible", "L2.same-class")
def _class_lost(stack: ExitStack, done: list[int]) -> None:
    def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
        for found in candidates(model, choice):
            if found.kind == GRAPH:
                yield found
            else:
                done.append(1)

    _extracting(stack, faulty)


# -- a wrong choice of slices that shows for some selections only ----------------------------------------


def _rotated(choice: pc.Selection) -> pc.Selection | None:
    """As many groups of each axis, but the next ones. None where that is no other selection of the same shapes."""
    groups, removed = choice.groups, set(choice.removed)
    axes = groups.axis_of[1:]
    other: list[int] = []
    for axis in np.unique(axes):
        members = np.flatnonzero(axes == axis) + 1
        gone = np.array([number in removed for number in members])
        other += members[np.roll(gone, 1)].tolist()
    if set(other) == removed:
        return None
    try:
        found = groups.select(other)
    except SelectionError:
        return None
    return found if all(found.shape(i) == choice.shape(i) for i in groups.state) else None


def _for_some(wrong: Callable[[pc.Selection], bool], *modules: str) -> Faulty:
    """An extraction that takes the next groups in place of the chosen ones, for selections where `wrong` holds."""

    def place(stack: ExitStack, done: list[int]) -> None:
        def faulty(model: torch.nn.Module, choice: pc.Selection) -> Iterator[Candidate]:
            other = _rotated(choice) if choice.removed and wrong(choice) else None
            done.extend([1] if other is not None else [])
            yield from candidates(model, choice if other is None else other)

        _extracting(stack, faulty, *modules)

    return place


def _share(choice: pc.Selection) -> float:
    return len(choice) / max(choice.groups.count, 1)


kind("wrong-groups", "the next groups in place of the chosen ones", "L2.random-50")(_for_some(lambda _: True))
kind("wrong-when-few", "the same, only where few groups leave", "L2.random-10")(_for_some(lambda c: _share(c) < 0.2))
kind("wrong-when-most", "the same, only where most groups leave", "L2.random-90")(_for_some(lambda c: _share(c) > 0.65))
kind("wrong-when-all", "the same, only where all leave but what must stay", "L2.extreme")(
    _for_some(lambda c: len(c) == len(c.groups.sample(1.0, 0)))
)
kind("wrong-when-alone", "the same, only where one kind of group leaves alone", "L2.kinds")(
    _for_some(lambda c: len({c.groups.kinds[number] for number in c.removed}) == 1)
)
kind("wrong-when-pruned", "the same, only where the model was pruned before", "L2.compose")(
    _for_some(lambda _: True, "level2")
)


# -- the partition ---------------------------------------------------------------------------------------


def _partitioning(stack: ExitStack, faulty: Callable[..., pc.Groups], *modules: str) -> None:
    for module in modules:
        stack.enter_context(patch(f"conformance.checks.{module}.partition", faulty))


@kind("empty-group", "a group without slices", "L1.disjoint")
def _empty(stack: ExitStack, done: list[int]) -> None:
    def faulty(graph: pc.Graph) -> pc.Groups:
        groups = pc.partition(graph)
        done.append(1)
        return dataclasses.replace(
            groups,
            count=groups.count + 1,
            modes=(*groups.modes, groups.modes[-1]),
            kinds=(*groups.kinds, groups.kinds[-1]),
        )

    _partitioning(stack, faulty, "subject", "level1")


def _one_label_lost(groups: pc.Groups, number: int) -> pc.Groups:
    """One position of a parameter that is in no group any more, and not held back either."""
    places = [
        (index, dim)
        for index, lines in groups.state.items()
        for dim, labels in enumerate(lines)
        if labels.any() and groups.graph.values[index].kind == "parameter"
    ]
    index, dim = places[number % len(places)]
    lines = [labels.copy() for labels in groups.dims[index]]
    lines[dim][np.flatnonzero(lines[dim])[0]] = 0
    return dataclasses.replace(groups, dims={**groups.dims, index: lines})


@kind("position-lost", "a position in no group, and held back by nothing", "L1.accounted")
def _lost(stack: ExitStack, done: list[int]) -> None:
    def faulty(graph: pc.Graph) -> pc.Groups:
        done.append(1)
        return _one_label_lost(pc.partition(graph), 0)

    _partitioning(stack, faulty, "subject", "level1")


@kind("restless-partition", "the groups differ from call to call", "L1.groups")
def _restless(stack: ExitStack, done: list[int]) -> None:
    def faulty(graph: pc.Graph) -> pc.Groups:
        done.append(1)
        return _one_label_lost(pc.partition(graph), len(done))

    _partitioning(stack, faulty, "subject", "level1")


@contextmanager
def placed(name: str) -> Iterator[list[int]]:
    """The fault of that name in place, for use outside the checks."""
    done: list[int] = []
    with ExitStack() as stack:
        CHECK_KINDS[name].place(stack, done)
        yield done
