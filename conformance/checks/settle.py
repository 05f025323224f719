"""What running a check comes to, and what the checks of one subject come to together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from conformance.checks.registry import Check, CheckFailed, CheckSkipped, CheckUnsupported, S
from conformance.errors import ConformanceError, sentence
from conformance.report.schema import CheckResult, Outcome


def settle(item: Check[S], subject: S, repeat: Callable[[], str], theirs: str | None) -> CheckResult:
    """One check's result; whatever it raises becomes an outcome.

    repeat gives the command that shows the same again. theirs: None where an exception is a fault of ours;
    else the check runs somebody's code, its exceptions are failures, and their messages begin so.
    """
    start = time.perf_counter()
    outcome, message, exercised, details = Outcome.PASS, "", 0, dict[str, Any]()
    try:
        finding = item.function(subject)
        message, exercised, details = finding.message, finding.exercised, finding.details
        if exercised == 0:
            outcome, message = Outcome.FAIL, "the check exercised nothing"
    except CheckFailed as failure:
        outcome, message, details = Outcome.FAIL, str(failure), {**failure.details, "repeat": repeat()}
    except CheckSkipped as reason:
        outcome, message = Outcome.SKIPPED, str(reason)
    except CheckUnsupported as failure:
        outcome, message, details = Outcome.UNSUPPORTED, str(failure), failure.details
    except ConformanceError as error:
        outcome, message, details = Outcome.FAIL, str(error), {"repeat": repeat()}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - every exception becomes an outcome
        outcome = Outcome.ERROR if theirs is None else Outcome.FAIL
        message, details = f"{theirs or ''}{sentence(error)}", {"repeat": repeat()}
    return CheckResult(
        id=item.id, title=item.title, level=item.level, severity=item.severity, spec=item.spec, outcome=outcome,
        message=message, exercised=exercised, seconds=time.perf_counter() - start, details=details,
    )  # fmt: skip


def skipped(item: Check[Any], reason: str) -> CheckResult:
    """The result of a check that was not run."""
    return CheckResult(
        id=item.id, title=item.title, level=item.level, severity=item.severity, spec=item.spec,
        outcome=Outcome.SKIPPED, message=reason,
    )  # fmt: skip


def worst(results: Sequence[CheckResult]) -> tuple[Outcome, str]:
    """The worst outcome of the MUSTs, and its reason."""
    must = [result for result in results if result.severity == "MUST"]
    for outcome in (Outcome.ERROR, Outcome.FAIL, Outcome.UNSUPPORTED):
        for result in must:
            if result.outcome is outcome:
                return outcome, f"{result.id}: {result.message}"
    return (Outcome.PASS, "") if must else (Outcome.ERROR, "no check ran")
