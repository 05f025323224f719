"""A method under contract: one small model, a synthetic task, and every run made once.

Each run gets a copy of the method as it was given: what a method keeps in itself does not reach the next run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from conformance.checks import subject as model_subject
from conformance.errors import UsageError
from conformance.method.budget import Budget, Cost, Kind
from conformance.method.contract.registry import CheckFailed, CheckSkipped, CheckUnsupported
from conformance.method.contract.snapshot import Snapshot
from conformance.method.contract.synthetic import Synthetic, synthetic
from conformance.method.host import Options, Plan, Result, plan, run
from conformance.method.ladder import Limits, ladder
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed, Decision, Driver, Facts, Method
from conformance.method.recipe import Recipe
from conformance.method.task import Task
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection

RECIPE = Recipe(epochs=3, batch=8, lr=0.02, momentum=0.9, weight_decay=1e-4)
"""How training methods train under contract: 18 steps, more for one that says it needs them."""

SHARE = 0.3
"""What the base budget removes, of the first kind that the method takes; less where the model allows little."""

_REACH = (1.0, 0.98, 0.9, 0.75, 0.5, 0.25)
"""Shares of what a ranking by number could remove that are tried for the largest budget a method reaches."""

Progress = Callable[[str, int, int], None]


@dataclass
class Subject:
    """One method on one model. named is what it was asked for by, '' for an instance at hand.

    marks are the points (phase, step) at which the base run told how far it was, but for the ends of phases.
    """

    given: Method
    base: model_subject.Subject
    seed: int
    named: str = ""
    wanted: Budget | None = None
    recipe: Recipe = RECIPE
    before: Snapshot = field(init=False)
    marks: list[tuple[str, int]] = field(default_factory=list)
    _plans: dict[Any, Plan] = field(default_factory=dict)
    _results: dict[Any, Result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = Snapshot.of(self.base.model, self.base.inputs())

    @property
    def facts(self) -> Facts:
        """What the method declares."""
        return self.given.facts

    @property
    def trains(self) -> bool:
        """Whether the host trains with this method."""
        return self.facts.driver in (Driver.TRAIN, Driver.ROUNDS)

    @property
    def masks(self) -> bool:
        """Whether the method decides about single weights."""
        return self.facts.granularity == "weight"

    def method(self) -> Method:
        """A copy of the method as it was given."""
        return copy.deepcopy(self.given)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of budget that a computation can decide."""
        return tuple(kind for kind in self.facts.budgets if kind != "latency")

    @cached_property
    def budget(self) -> Budget:
        """The base budget."""
        return self.wanted or self.modest((*self.kinds, *self.facts.budgets)[0])

    def modest(self, kind: Kind, share: float = SHARE) -> Budget:
        """A budget that this model allows any method: `share`, or half of all that could leave where that is less."""
        if not self.facts.removes:
            return Budget(kind, 0.0)
        if self.masks or kind == "latency":
            return Budget(kind, share)
        return Budget(kind, min(share, self.most(kind, Limits()) / 2))

    def most(self, kind: Kind, limits: Limits) -> float:
        """The share that a ranking by number could remove at the most."""
        steps = ladder(self.groups, torch.arange(self.groups.count + 1), limits=limits)
        return Cost(self.groups).removed(kind, steps.selection(steps.steps))

    @cached_property
    def task(self) -> Synthetic:
        """The synthetic task."""
        return self.task_of(self.base.model, None)

    def task_of(self, model: torch.nn.Module, dtype: torch.dtype | None) -> Synthetic:
        """A synthetic task for the model, or its copy of another dtype. Raises CheckUnsupported where none can be."""
        try:
            return synthetic(model, self.base.backend.inputs, self.seed, dtype=dtype)
        except UsageError as error:
            raise CheckUnsupported(str(error)) from error

    @property
    def needed(self) -> Synthetic | None:
        """The task, for methods that need data."""
        return None if self.facts.data is DataNeed.NONE else self.task

    def must_remove(self) -> None:
        """Raise CheckSkipped for a control, of which nothing ever leaves."""
        if not self.facts.removes:
            raise CheckSkipped("it declares itself a control: nothing leaves")

    def lengthen(self, steps: int) -> None:
        """Train for at least so many steps from now on, unless a recipe was asked for."""
        if self.recipe is RECIPE:
            per_epoch = self.task.count("train") // RECIPE.batch
            self.recipe = replace(RECIPE, epochs=-(-steps // per_epoch))

    # -- runs ----------------------------------------------------------------------------------

    def plan(
        self,
        budget: Budget | None = None,
        *,
        limits: Limits | None = None,
        seed: int | None = None,
        recipe: Recipe | None = None,
        again: int = 0,
    ) -> Plan:
        """The run up to its decision; the same arguments give the same plan, `again` numbers repetitions."""
        key = (budget or self.budget, limits or Limits(), self.seed if seed is None else seed, recipe, again)
        if key not in self._plans:
            self._plans[key] = self.planned(self.method(), key[0], limits=key[1], seed=key[2], recipe=recipe)
        return self._plans[key]

    def planned(
        self,
        method: Method,
        budget: Budget,
        *,
        limits: Limits | None = None,
        seed: int | None = None,
        recipe: Recipe | None = None,
        task: Task | None = None,
    ) -> Plan:
        """A plan of any method on this model."""
        args, kwargs = self.base.inputs()
        return plan(
            method,
            self.base.model,
            args,
            kwargs,
            budget=budget,
            task=task or self.needed,
            recipe=recipe or self.recipe,
            limits=limits,
            options=Options(seed=self.seed if seed is None else seed, measure=False),
        )

    def result(self, budget: Budget | None = None, *, recipe: Recipe | None = None, again: int = 0) -> Result:
        """The whole run; the same arguments give the same result."""
        key = (budget or self.budget, recipe, again)
        if key not in self._results:
            told = self.marks if key == (self.budget, None, 0) else []
            self._results[key] = self.ran(
                self.method(),
                key[0],
                recipe=recipe,
                progress=lambda phase, step, total: told.append((phase, step)) if step < total or not total else None,
            )
        return self._results[key]

    def ran(
        self,
        method: Method,
        budget: Budget | None = None,
        *,
        recipe: Recipe | None = None,
        task: Task | None = None,
        options: Options | None = None,
        progress: Progress = lambda what, done, total: None,  # noqa: ARG005
    ) -> Result:
        """A whole run of the method that is not kept."""
        args, kwargs = self.base.inputs()
        return run(
            method,
            self.base.model,
            args,
            kwargs,
            budget=budget or self.budget,
            task=task or self.needed,
            recipe=recipe or self.recipe,
            options=options or Options(seed=self.seed, measure=False),
            progress=progress,
        )

    def largest(self, limits: Limits, share: float = 1.0) -> Plan:
        """The plan at (a share of) the largest budget that the limits allow and the method reaches.

        Raises CheckFailed when it reaches none of the budgets tried.
        """
        most = self.most(self.budget.kind, limits)
        if most <= 0:
            raise CheckSkipped(f"nothing of this model may leave under {limits}")
        told = ""
        for part in _REACH:
            try:
                return self.plan(Budget(self.budget.kind, share * part * most), limits=limits)
            except UsageError as error:  # a ranking, or the method's own rules, may allow less
                told = str(error)
        raise CheckFailed(f"no budget up to {most:.4f} of the {self.budget.kind} could be met under {limits}: {told}")

    # -- what checks ask -----------------------------------------------------------------------

    @property
    def groups(self) -> Groups:
        """The partition every run of this model has."""
        return self.base.groups

    def selection(self, found: Plan | Result) -> Selection:
        """The groups that leave. Raises CheckSkipped for methods that mask weights."""
        if isinstance(found.decision, Masks):
            raise CheckSkipped("the method masks single weights: no group leaves")
        return found.decision


def amount(decision: Decision, kind: Kind, cost: Cost) -> float:
    """The share that a decision removes: of the budget's kind, for masks of the masked parameters' weights."""
    if isinstance(decision, Masks):
        return 1 - decision.density
    return cost.removed(kind, decision)


def same_decision(one: Decision, other: Decision) -> bool:
    """Whether two decisions say the same, bit for bit."""
    if isinstance(one, Masks) or isinstance(other, Masks):
        if not (isinstance(one, Masks) and isinstance(other, Masks)) or set(one.kept) != set(other.kept):
            return False
        return all(torch.equal(mask, other.kept[name]) for name, mask in one.kept.items())
    return one.groups.fingerprint == other.groups.fingerprint and tuple(one.removed) == tuple(other.removed)


def first_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> str:
    """The first entry of two states that is not the same bit for bit; '' where all are."""
    for name in {**one, **other}:
        if name not in one or name not in other:
            return f"{name} is only in one of them"
        if model_subject.digest(one[name]) != model_subject.digest(other[name]):
            return name
    return ""
