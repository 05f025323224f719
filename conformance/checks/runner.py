"""Run the checks of one model and assemble its report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from conformance.backend import Backend
from conformance.checks.activity import describe_silent, silent_groups
from conformance.checks.registry import Check, CheckFailed, CheckUnsupported, checks
from conformance.checks.subject import Subject, prepare
from conformance.checks.table import group_rows, held_rows
from conformance.cost import parameter_count, predicted_flops, predicted_parameters
from conformance.errors import ConformanceError, SelectionError, UsageError
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.groups import Groups
from conformance.report.schema import CheckResult, ModelReport, Outcome

Progress = Callable[[str, int, int], None]


def check(
    backend: Backend,
    *,
    level: int = 2,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    progress: Progress | None = None,
    only: tuple[str, ...] = ("*",),
) -> ModelReport:
    """Every check up to `level` on one model. A bad model gives a report, not an exception.

    progress(title, done, total) is called before each check. `only` restricts levels 2 and 3 to checks
    whose ids match one of these patterns (the levels below are what they stand on, and always run). Raises
    UsageError for a bad level or patterns that match nothing.
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
        reason = f"the model could not be built: {_sentence(error)}"
        return ModelReport(
            spec=backend.name, outcome=Outcome.ERROR, reason=reason, level=level, seed=seed,
            seconds=time.perf_counter() - start,
        )  # fmt: skip
    subject.command = _command(backend, level, seed, device, dtype, only)
    results: list[CheckResult] = []
    for number, item in enumerate(todo):
        if progress:
            progress(item.title, number, len(todo))
        blocked = _blocker(results, item)
        results.append(_skipped(item, blocked) if blocked else _run(item, subject))
    outcome, reason = _outcome(results)
    return _report(subject, level, results, outcome, reason, time.perf_counter() - start)


def _command(backend: Backend, level: int, seed: int, device: str, dtype: str | None, only: tuple[str, ...]) -> str:
    """What a person types to see the same again."""
    words = ["conformance", "check", backend.name, "--level", str(level), "--seed", str(seed)]
    if backend.input_shape is not None:
        words += ["--input-shape", ",".join(map(str, backend.input_shape))]
    if device != "cpu":
        words += ["--device", device]
    if dtype not in (None, "float32"):
        words += ["--dtype", str(dtype)]
    for pattern in only if only != ("*",) else ():
        words += ["--only", pattern]
    return shlex.join(words)


_NEEDED_AT_ONCE = ("L0.forward", "L1.groups", "L2.identity")
"""Checks without which the rest of their own level has nothing to look at."""


def _blocker(results: list[CheckResult], item: Check) -> str:
    """A failed MUST of a lower level makes the higher ones meaningless."""
    for result in results:
        if result.level < item.level and result.severity == "MUST" and result.outcome is not Outcome.PASS:
            return result.id
        if result.id in _NEEDED_AT_ONCE and result.outcome is not Outcome.PASS:
            return result.id
    return ""


def _skipped(item: Check, blocker: str) -> CheckResult:
    return CheckResult(
        id=item.id, title=item.title, level=item.level, severity=item.severity, spec=item.spec,
        outcome=Outcome.SKIPPED, message=f"not run because {blocker} did not pass",
    )  # fmt: skip


def _run(item: Check, subject: Subject) -> CheckResult:
    start = time.perf_counter()
    outcome, message, exercised, details = Outcome.PASS, "", 0, {}
    try:
        finding = item.function(subject)
        message, exercised, details = finding.message, finding.exercised, finding.details
        if exercised == 0:
            outcome, message = Outcome.FAIL, "the check exercised nothing"
    except CheckFailed as failure:
        outcome, message, details = Outcome.FAIL, str(failure), {**failure.details, "repeat": subject.command}
    except CheckUnsupported as failure:
        outcome, message, details = Outcome.UNSUPPORTED, str(failure), failure.details
    except ConformanceError as error:
        outcome, message, details = Outcome.FAIL, str(error), {"repeat": subject.command}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - every exception becomes an outcome
        # L0 runs the user's forward: what it raises is the model's. Later, it is ours.
        outcome = Outcome.FAIL if item.level == 0 else Outcome.ERROR
        prefix = "the forward pass raised " if item.level == 0 else ""
        message, details = f"{prefix}{_sentence(error)}", {"repeat": subject.command}
    return CheckResult(
        id=item.id, title=item.title, level=item.level, severity=item.severity, spec=item.spec, outcome=outcome,
        message=message, exercised=exercised, seconds=time.perf_counter() - start, details=details,
    )  # fmt: skip


def _outcome(results: list[CheckResult]) -> tuple[Outcome, str]:
    """The worst of the MUSTs, and its reason."""
    must = [result for result in results if result.severity == "MUST"]
    for worst in (Outcome.ERROR, Outcome.FAIL, Outcome.UNSUPPORTED):
        for result in must:
            if result.outcome is worst:
                return worst, f"{result.id}: {result.message}"
    return (Outcome.PASS, "") if must else (Outcome.ERROR, "no check ran")


def _report(
    subject: Subject, level: int, results: list[CheckResult], outcome: Outcome, reason: str, seconds: float
) -> ModelReport:
    facts: dict[str, Any] = {"parameters": parameter_count(subject.model), "subnets": dict(subject.kinds)}
    # Facts stand on the partition: only where its check came to an end can they be had.
    known = {Outcome.PASS, Outcome.UNSUPPORTED}
    if any(result.id == "L1.groups" and result.outcome in known for result in results):
        facts |= _facts(subject.groups)
        if outcome is Outcome.PASS:
            facts["unverified"] = _unverified(subject.groups)
    return ModelReport(
        spec=subject.backend.name, outcome=outcome, reason=reason, level=level, seed=subject.seed, seconds=seconds,
        checks=results, **facts,
    )  # fmt: skip


def _unverified(groups: Groups) -> list[str]:
    try:
        return describe_silent(groups, silent_groups(groups))
    except Exception as error:  # noqa: BLE001 - information beside a verdict that stands
        return [f"which groups never fire could not be measured: {_sentence(error)}"]


def _facts(groups: Groups) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for kind in groups.kinds[1:]:
        kinds[kind] = kinds.get(kind, 0) + 1
    smallest = groups.sample(1.0, 0) if groups.count else groups.select([])
    total = predicted_parameters(groups)
    return {
        "flops": predicted_flops(groups),
        "trace_device": groups.graph.device,
        "kinds": kinds,
        "removable_parameters": 1 - predicted_parameters(groups, smallest) / total if total else 0.0,
        "groups": group_rows(groups),
        "held_back": held_rows(groups),
    }


def describe_groups(backend: Backend, *, seed: int = 0) -> ModelReport:
    """The group table of a model, without running checks."""
    start = time.perf_counter()
    subject = prepare(backend, seed, "cpu", None)
    groups = partition(trace(subject.model, *subject.inputs()))
    return ModelReport(
        spec=backend.name, outcome=Outcome.PASS, level=0, seed=seed,
        reason="" if groups.count else "no group was found: nothing can be pruned",
        seconds=time.perf_counter() - start, parameters=parameter_count(subject.model), **_facts(groups),
    )  # fmt: skip


def explain(backend: Backend, *, parameter: str, dim: int | None = None, seed: int = 0) -> str:
    """Why slices of a parameter can or cannot go. Raises UsageError with near parameter names."""
    subject = prepare(backend, seed, "cpu", None)
    groups = partition(trace(subject.model, *subject.inputs()))
    try:
        return groups.explain(parameter, dim)
    except SelectionError as error:
        raise UsageError(str(error)) from error


def _sentence(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"
