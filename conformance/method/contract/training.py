"""What training with a method must be: resumable bit for bit, and plain where nothing is to leave."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from conformance.errors import UsageError
from conformance.method.budget import Budget
from conformance.method.contract.registry import CheckFailed, CheckSkipped, Finding, check
from conformance.method.contract.subject import Subject, first_difference, same_decision
from conformance.method.host import Options, Result
from conformance.method.protocol import DataNeed, Decision, Driver, Facts, Method
from conformance.method.run import Run

_INTERRUPTIONS = (0.1, 0.45, 0.8)
"""After which shares of a run it is broken off, one after the other."""

_OPTIMIZERS: tuple[Literal["sgd", "adamw"], ...] = ("sgd", "adamw")


class _BrokenOffError(Exception):
    """Stands for whatever ends a process."""


@check("M.resume")
def resume(subject: Subject) -> Finding:
    """A run that is broken off several times and goes on from its folder ends as an uninterrupted one, bit for bit."""
    if subject.facts.driver is Driver.POST:
        raise CheckSkipped("the host neither trains nor searches: nothing can be interrupted that is kept")
    whole = subject.result()
    marks = subject.marks
    stops = list(dict.fromkeys(marks[int(share * len(marks))] for share in _INTERRUPTIONS)) if marks else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stopped = [stop for stop in stops if _until(subject, folder, stop) is None]
        result = _until(subject, folder, None)
    assert result is not None
    where = ", ".join(f"{phase} {step}" for phase, step in stopped)
    if not same_decision(whole.decision, result.decision):
        raise CheckFailed(f"broken off at {where} and resumed, it decides differently")
    for what, one, other in (("model", whole.model, result.model), ("subnet", whole.subnet, result.subnet)):
        if different := first_difference(one.state_dict(), other.state_dict()):
            raise CheckFailed(f"broken off at {where} and resumed, it leaves another {what}: {different}")
    if whole.history != result.history:
        raise CheckFailed(f"broken off at {where} and resumed, its history is another one")
    return Finding(len(stopped), details={"broken_off_at": where})


def _until(subject: Subject, folder: Path, stop: tuple[str, int] | None) -> Result | None:
    """Start, or go on with, the run in the folder; None when it was broken off at `stop`."""

    def progress(phase: str, step: int, total: int) -> None:  # noqa: ARG001 - as hosts call it
        if (phase, step) == stop:
            raise _BrokenOffError

    options = Options(seed=subject.seed, folder=folder, every=0.0, measure=False)
    try:
        return subject.ran(subject.method(), options=options, progress=progress)
    except _BrokenOffError:
        return None


@dataclass(frozen=True)
class _Plain(Method):
    """Training without a method."""

    facts: ClassVar[Facts] = Facts(
        name="plain", summary="trains and removes nothing", driver=Driver.TRAIN, data=DataNeed.TRAINING, paper="none"
    )

    def decide(self, run: Run) -> Decision:
        """Nothing leaves."""
        return run.groups.select([])


@check("M.base-optimizer")
def base_optimizer(subject: Subject) -> Finding:
    """At a budget of 0 it trains as the base optimizer alone does, bit for bit."""
    if subject.facts.driver is not Driver.TRAIN:
        raise CheckSkipped("the host does not train it in one run")
    if subject.facts.penalises:
        raise CheckSkipped("it declares that training differs from the base optimizer's even where nothing leaves")
    looked, notes = 0, []
    for name in _OPTIMIZERS:
        recipe = replace(subject.recipe, optimizer=name)
        nothing = Budget(subject.budget.kind, 0.0)
        try:
            found = subject.plan(nothing, recipe=recipe)
        except UsageError as error:
            notes.append(f"{name}: {error}")
            continue
        plain = subject.planned(_Plain(), nothing, recipe=recipe, task=subject.task)
        if different := first_difference(plain.run.model.state_dict(), found.run.model.state_dict()):
            raise CheckFailed(f"at a budget of 0 training with {name} gives another {different} than {name} alone")
        looked += len(plain.run.model.state_dict())
    return Finding(looked, "; ".join(notes))
