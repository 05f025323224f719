"""Run the checks of one model and assemble its report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from conformance.backend import Backend
from conformance.checks.activity import describe_silent, silent_groups
from conformance.checks.diagnose import SECONDS, diagnose
from conformance.checks.registry import Check, checks
from conformance.checks.settle import settle, skipped, worst
from conformance.checks.subject import Subject, prepare
from conformance.checks.table import group_rows, held_rows
from conformance.cost import parameter_count, predicted_flops, predicted_parameters
from conformance.diagnosis.finding import CUT_OFF, Diagnosis
from conformance.errors import SelectionError, UsageError, sentence
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection
from conformance.partition.words import from_words, to_words
from conformance.report.schema import CheckResult, ModelReport, Outcome

Progress = Callable[[str, int, int], None]
Settled = Callable[[ModelReport], None]
GIVEN = "a given module"
"""The source of a backend that is a module at hand."""


def check(
    backend: Backend,
    *,
    level: int = 2,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    progress: Progress | None = None,
    only: tuple[str, ...] = ("*",),
    remove: tuple[str, ...] = (),
    settled: Settled | None = None,
) -> ModelReport:
    """Every check up to `level` on one model. A bad model gives a report, not an exception.

    progress(title, done, total) is called before each check. `only` restricts levels 2 and 3 to checks whose
    ids match one of these patterns (the levels below are what they stand on, and always run). `remove` names
    groups, as NAME:DIMENSION:POSITIONS, that these look at in place of the selections they would draw.

    Failing checks of level 2 are diagnosed after all checks have run. settled(report) is called before that
    and at each step of it, with all that is known by then: should the process be ended, the verdict is there.

    Raises UsageError for a bad level, patterns that match nothing, and groups that the model does not have.
    """
    if not 0 <= level <= 3:
        raise UsageError(f"levels go from 0 to 3, not {level}")
    todo = [item for item in checks() if item.level <= level]
    todo = [item for item in todo if item.level < 2 or any(fnmatch(item.id, pattern) for pattern in only)]
    for pattern in only:
        if not any(2 <= item.level <= max(level, 2) and fnmatch(item.id, pattern) for item in checks()):
            raise UsageError(f"no check of level {'2' if level <= 2 else '2 or 3'} matches {pattern!r}")
    start = time.perf_counter()
    try:
        subject = prepare(backend, seed, device, dtype)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the builder is the user's code
        reason = f"the model could not be built: {sentence(error)}"
        return ModelReport(
            spec=backend.name, outcome=Outcome.ERROR, reason=reason, level=level, seed=seed,
            seconds=time.perf_counter() - start,
        )  # fmt: skip
    subject.command = _command(backend, level, seed, device, dtype)
    results: list[CheckResult] = []
    for number, item in enumerate(todo):
        if progress:
            progress(item.title, number, len(todo))
        blocked = _blocker(results, item)
        if item.level >= 2 and not blocked and remove:
            subject.given, subject.words = _named(remove, subject.groups), remove
        results.append(_skipped(item, blocked) if blocked else run_check(item, subject))

    facts = _facts_of(subject, results)

    def report() -> ModelReport:
        seconds = time.perf_counter() - start
        outcome, reason = worst(results)
        return ModelReport(
            spec=backend.name, outcome=outcome, reason=reason, level=level, seed=seed, seconds=seconds, checks=results,
            **facts,
        )  # fmt: skip

    def tell(what: str) -> None:
        if settled:
            settled(report())
        if progress:
            progress(what, len(todo), len(todo))

    _diagnose(subject, todo, results, tell)
    return report()


def _named(remove: tuple[str, ...], groups: Groups) -> Selection:
    try:
        return from_words(remove, groups)
    except SelectionError as error:
        raise UsageError(str(error)) from error


def _diagnose(
    subject: Subject, todo: list[Check[Subject]], results: list[CheckResult], tell: Callable[[str], None]
) -> None:
    """Put diagnoses into the failing results of level 2, first as not made; their outcomes stay as they are."""
    failing = [
        number
        for number, result in enumerate(results)
        if result.level == 2 and result.outcome in (Outcome.FAIL, Outcome.ERROR)
    ]
    subject._pairs.clear()  # each holds two copies of the model
    for number in failing:
        results[number] = _with(results[number], Diagnosis(subject.seed, problem=CUT_OFF), subject)
    end = time.monotonic() + SECONDS
    for number in failing:
        if time.monotonic() >= end:
            late = Diagnosis(subject.seed, problem=f"the {SECONDS:g} s for diagnoses were spent on other checks")
            results[number] = _with(results[number], late, subject)
            continue

        def so_far(found: Diagnosis, what: str, number: int = number) -> None:
            results[number] = _with(results[number], replace(found, problem=CUT_OFF), subject)
            tell(f"diagnosis of {results[number].id}: {what}")

        found = diagnose(subject, todo[number], end - time.monotonic(), so_far)
        results[number] = _with(results[number], found, subject)


_MOST_GROUPS_TO_TYPE = 16


def _with(result: CheckResult, found: Diagnosis, subject: Subject) -> CheckResult:
    """The result with its diagnosis, and a command that repeats the smallest selection."""
    repeat = _repeat(subject, result)
    if found.smallest is not None and 0 < found.smallest.groups <= _MOST_GROUPS_TO_TYPE:
        repeat = _repeat(subject, result, found.smallest.words)
    return result.model_copy(update={"diagnosis": found, "details": {**result.details, "repeat": repeat}})


def _repeat(subject: Subject, item: Check[Subject] | CheckResult, words: tuple[str, ...] = ()) -> str:
    """What a person types to see this check's outcome again."""
    if item.level < 2:
        return subject.command
    words = words or (() if subject.given is None else to_words(subject.given))
    if subject.backend.source == GIVEN:
        removed = f", remove={words!r}" if words else ""
        return f"{subject.command.removesuffix(')')}, only={(item.id,)!r}{removed})"
    options = ["--only", item.id, *(part for word in words for part in ("--remove", word))]
    return f"{subject.command} {shlex.join(options)}"


def _command(backend: Backend, level: int, seed: int, device: str, dtype: str | None) -> str:
    """What a person types to see the same again; a call in Python for a model that has no SPEC."""
    if backend.source == GIVEN:
        return f"pc.check_model(model, args, level={level}, seed={seed})"
    words = ["conformance", "check", backend.name, "--level", str(level), "--seed", str(seed)]
    if backend.input_shape is not None:
        words += ["--input-shape", ",".join(map(str, backend.input_shape))]
    if device != "cpu":
        words += ["--device", device]
    if dtype not in (None, "float32"):
        words += ["--dtype", str(dtype)]
    return shlex.join(words)


_NEEDED_AT_ONCE = ("L0.forward", "L1.groups", "L2.identity")
"""Checks without which the rest of their own level has nothing to look at."""


def _blocker(results: list[CheckResult], item: Check[Subject]) -> str:
    """A failed MUST of a lower level makes the higher ones meaningless."""
    for result in results:
        if result.level < item.level and result.severity == "MUST" and result.outcome is not Outcome.PASS:
            return result.id
        if result.id in _NEEDED_AT_ONCE and result.outcome is not Outcome.PASS:
            return result.id
    return ""


def _skipped(item: Check[Subject], blocker: str) -> CheckResult:
    return skipped(item, f"not run because {blocker} did not pass")


def run_check(item: Check[Subject], subject: Subject) -> CheckResult:
    """One check's result; whatever it raises becomes an outcome."""
    # L0 runs the user's forward: what it raises is the model's. Later, it is ours.
    theirs = "the forward pass raised " if item.level == 0 else None
    return settle(item, subject, lambda: _repeat(subject, item), theirs)


def _facts_of(subject: Subject, results: list[CheckResult]) -> dict[str, Any]:
    """What is known of the model besides its checks."""
    facts: dict[str, Any] = {"parameters": parameter_count(subject.model), "subnets": dict(subject.kinds)}
    # These stand on the partition: only where its check came to an end can they be had.
    known = {Outcome.PASS, Outcome.UNSUPPORTED}
    if any(result.id == "L1.groups" and result.outcome in known for result in results):
        facts |= group_facts(subject.groups)
        if worst(results)[0] is Outcome.PASS:
            facts["unverified"] = _unverified(subject.groups)
    return facts


def _unverified(groups: Groups) -> list[str]:
    try:
        return describe_silent(groups, silent_groups(groups))
    except Exception as error:  # noqa: BLE001 - information beside a verdict that stands
        return [f"which groups never fire could not be measured: {sentence(error)}"]


def group_facts(groups: Groups) -> dict[str, Any]:
    """What a report tells of a partition, by the names of its fields."""
    kinds: dict[str, int] = {}
    for kind in groups.kinds[1:]:
        kinds[kind] = kinds.get(kind, 0) + 1
    smallest = groups.sample(1.0, 0) if groups.count else groups.select([])
    total, flops = predicted_parameters(groups), predicted_flops(groups)
    return {
        "flops": flops,
        "removable_flops": 1 - predicted_flops(groups, smallest) / flops if flops else 0.0,
        "trace_device": groups.graph.device,
        "kinds": kinds,
        "removable_parameters": 1 - predicted_parameters(groups, smallest) / total if total else 0.0,
        "groups": group_rows(groups),
        "held_back": held_rows(groups),
    }


def describe_groups(backend: Backend, *, seed: int = 0, carry: str = "auto") -> ModelReport:
    """The group table of a model, without running checks."""
    start = time.perf_counter()
    subject = prepare(backend, seed, "cpu", None)
    groups = partition(trace(subject.model, *subject.inputs()), carry=carry)
    return ModelReport(
        spec=backend.name, outcome=Outcome.PASS, level=0, seed=seed,
        reason="" if groups.count else "no group was found: nothing can be pruned",
        seconds=time.perf_counter() - start, parameters=parameter_count(subject.model), **group_facts(groups),
    )  # fmt: skip


def explain(backend: Backend, *, parameter: str, dim: int | None = None, seed: int = 0, carry: str = "auto") -> str:
    """Why slices of a parameter can or cannot go. Raises UsageError with near parameter names."""
    subject = prepare(backend, seed, "cpu", None)
    groups = partition(trace(subject.model, *subject.inputs()), carry=carry)
    try:
        return groups.explain(parameter, dim)
    except SelectionError as error:
        raise UsageError(str(error)) from error
