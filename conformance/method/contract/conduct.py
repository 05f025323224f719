"""What a method must leave alone: data above its level, the test split, and everything of the caller's."""

from __future__ import annotations

import copy

from conformance.method.contract.registry import CheckFailed, Finding, check
from conformance.method.contract.snapshot import Snapshot
from conformance.method.contract.subject import Subject
from conformance.method.protocol import DataNeed


@check("M.data")
def data(subject: Subject) -> Finding:
    """It reads no data, no labels and no training split beyond the level it declares, and never the test split."""
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
    return Finding(1 + len(told), details={"read": told})


@check("M.untouched")
def untouched(subject: Subject) -> Finding:
    """The caller's model, its class and modes, all random generators and settings are after all runs as before."""
    # A shallow copy: what the method holds of the outside is the outside's.
    subject.ran(copy.copy(subject.given))
    now = Snapshot.of(subject.base.model, subject.base.inputs())
    if changed := subject.before.changed(now):
        raise CheckFailed(f"runs with this method change {changed}")
    return Finding(len(now.seen))
