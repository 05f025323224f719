"""From a failing check of level 2 to where it fails and on how few groups. The outcome is never touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from conformance.checks.registry import Check, CheckFailed, CheckUnsupported
from conformance.checks.subject import Subject
from conformance.diagnosis.finding import Diagnosis, Smallest
from conformance.diagnosis.locate import Comparison, NotLocated, locate
from conformance.diagnosis.shrink import Items, Limits, shrink
from conformance.errors import sentence
from conformance.partition.selection import Selection
from conformance.partition.words import to_words

Tell = Callable[[Diagnosis, str], None]
"""Called with what is known so far and, in a few words, what is being done."""

SECONDS = 60.0
"""What the diagnoses of one model may take together; a trial that has begun is finished."""


@dataclass(frozen=True)
class Failure:
    """How a check failed. Two failures are the same when their kinds are."""

    kind: str
    comparison: Comparison | None = None


def failure_of(item: Check[Subject], subject: Subject) -> Failure | None:
    """Run a check; None unless it fails or raises."""
    try:
        item.function(subject)
    except CheckFailed as failure:
        return Failure(failure.kind or str(failure).partition(":")[0], failure.comparison)
    except CheckUnsupported:
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - how it fails is what is asked
        return Failure(f"raised {type(error).__name__}")
    return None


def diagnose(subject: Subject, item: Check[Subject], seconds: float, tell: Tell) -> Diagnosis:
    """Where a failing check fails, and the fewest of its groups on which it still does so in the same way.

    The first diverging module is that of the smallest selection: one command shows both. What cannot be
    found is said in `problem`; nothing is raised, nothing of the subject or the random generator changes.
    """
    found = Diagnosis(subject.seed)
    with torch.random.fork_rng(devices=[]):
        try:
            return _diagnose(subject, item, seconds, tell)
        except Exception as error:  # noqa: BLE001 - the verdict stands, whatever becomes of its diagnosis
            return replace(found, problem=f"the diagnosis failed: {sentence(error)}")


def _diagnose(subject: Subject, item: Check[Subject], seconds: float, tell: Tell) -> Diagnosis:
    tell(Diagnosis(subject.seed), "where it fails")
    found, kind, choice = _first_look(subject, item)
    if not choice.removed:
        return found

    def chosen(items: Items) -> Selection:
        return choice.groups.select(list(items))

    def fails(items: Items) -> bool:
        other = failure_of(item, subject.with_given(chosen(items)))
        return other is not None and other.kind == kind

    def smallest(items: Items, trials: int, *, minimal: bool = False) -> Smallest:
        left = chosen(items)
        return Smallest(len(left), len(choice), left.slices(), to_words(left), minimal, trials)

    def improved(items: Items, trials: int) -> None:
        what = f"smallest selection: {len(items)} of {len(choice)} groups after {trials} trials"
        tell(replace(found, smallest=smallest(items, trials)), what)

    tell(found, f"smallest selection: {len(choice)} groups")
    if not fails(choice.removed):
        return replace(found, problem=_and(found.problem, "the failure depends on more than the removed groups"))
    shrunk = shrink(choice.removed, fails, Limits(seconds=seconds), improved)
    least = smallest(shrunk.items, shrunk.trials, minimal=shrunk.minimal)
    tell(replace(found, smallest=least), "where the smallest selection fails")
    again = failure_of(item, subject.with_given(chosen(shrunk.items)))
    return replace(found if again is None else _located(subject.seed, again), smallest=least)


def _first_look(subject: Subject, item: Check[Subject]) -> tuple[Diagnosis, str, Selection]:
    """Where it fails, the kind of the failure, and the selection the check took (none when it is over at that)."""
    twin = subject.with_given(subject.given)
    nothing = subject.groups.select([])
    failure = failure_of(item, twin)
    if failure is None:
        return Diagnosis(subject.seed, problem="the check does not fail when it runs again"), "", nothing
    return _located(subject.seed, failure), failure.kind, nothing if twin.chosen is None else twin.chosen


def _located(seed: int, failure: Failure) -> Diagnosis:
    if failure.comparison is None:
        return Diagnosis(seed, problem="there are no two models to compare module by module")
    try:
        return Diagnosis(seed, locate(failure.comparison))
    except NotLocated as reason:
        return Diagnosis(seed, problem=f"the first diverging module cannot be named: {reason}")
    except Exception as error:  # noqa: BLE001 - the smallest selection may still be found
        return Diagnosis(seed, problem=f"the first diverging module cannot be named: {sentence(error)}")


def _and(one: str, other: str) -> str:
    return f"{one}; {other}" if one else other
