"""What a method must leave alone: data above its level, the test split, and everything of the caller's."""

from __future__ import annotations

import copy

from conformance.method.contract.registry import CheckFailed, Finding, check
from conformance.method.contract.snapshot import Snapshot
from conformance.method.contract.subject import Subject, first_difference, same_decision
from conformance.method.host import Plan
from conformance.method.protocol import DataNeed


@check("M.data")
def data(subject: Subject) -> Finding:
    """It reads no data, no labels and no training split beyond the level it declares, and never the test split.

    That D1 reads no labels is shown twice: nobody looked at a target, and with other targets all is the same.
    """
    facts = subject.facts
    subject.result()  # of a method that needs no data made without a task
    if facts.data is DataNeed.NONE:
        subject.ran(subject.method(), task=subject.task)
    seen = subject.task.seen  # by all runs up to here
    told = sorted(seen.asked) + [f"labels by {name}" for name in sorted(seen.labels)]
    if facts.data is DataNeed.NONE and told:
        raise CheckFailed(f"it declares D0 (no data) and read some: {', '.join(told)}", read=told)
    if "test" in seen.splits:
        raise CheckFailed("it asked for the test split, which no method may see", read=told)
    scored = {what for what in seen.asked if what == "loss" or what.startswith("evaluate")}
    if facts.data is DataNeed.UNLABELLED and (seen.labels or scored):
        raise CheckFailed(f"it declares D1 (unlabelled batches) and read labels: {', '.join(told)}", read=told)
    if facts.data is not DataNeed.NONE and not told:
        raise CheckFailed(f"it declares {facts.data.value} ({facts.data.words}) and read nothing")
    if facts.data is DataNeed.UNLABELLED and (other := _other_with_other_labels(subject)):
        raise CheckFailed(f"it declares D1 (unlabelled batches), and with other labels {other}: it reads them")
    return Finding(1 + len(told), details={"read": told})


def _other_with_other_labels(subject: Subject) -> str:
    """What is not the same in a run with every label changed; '' when all is, and when two equal runs differ too.

    There are ways out of a tensor that nobody is told of, but no way to read a label and come to the same.
    """
    first = subject.plan()
    changed = _difference(first, subject.planned(subject.method(), subject.budget, task=subject.task.relabelled()))
    return "" if changed and _difference(first, subject.plan(again=1)) else changed


def _difference(one: Plan, other: Plan) -> str:
    if not same_decision(one.decision, other.decision):
        return "it decides otherwise"
    mine, theirs = (
        {**found.run.model.state_dict(), **({} if found.run.scores is None else {"(scores)": found.run.scores})}
        for found in (one, other)
    )
    name = first_difference(mine, theirs)
    return f"it comes to other {name}" if name else ""


@check("M.untouched")
def untouched(subject: Subject) -> Finding:
    """The caller's model, its class and modes, all random generators and settings are after all runs as before."""
    # A shallow copy: what the method holds of the outside is the outside's.
    subject.ran(copy.copy(subject.given))
    now = Snapshot.of(subject.base.model, subject.base.inputs())
    if changed := subject.before.changed(now):
        raise CheckFailed(f"runs with this method change {changed}")
    return Finding(len(now.seen))
