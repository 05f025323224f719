"""Make a report from models' reports, and the tables that every rendering of it shows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.report.environment import tool_version
from conformance.report.schema import CheckResult, MethodFacts, ModelReport, Outcome, Report

VERDICTS = {
    Outcome.PASS: "conforms",
    Outcome.FAIL: "does not conform",
    Outcome.UNSUPPORTED: "unsupported",
    Outcome.SKIPPED: "skipped",
    Outcome.ERROR: "error",
}
# What a counterexample may carry, in the order a reader wants it; anything else follows by name.
_DETAIL_NAMES = {
    "selection": "removed",
    "selection_size": "groups removed",
    "first_diverging_module": "first diverging module",
    "max_abs": "largest difference",
    "repeat": "repeat with",
}
_LONGEST_LIST = 12


@dataclass(frozen=True)
class Table:
    """A table as text: right names the columns whose numbers are aligned to the right."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()


def build_report(models: Sequence[ModelReport], *, command: Sequence[str], environment: dict[str, str]) -> Report:
    """One run's report, stamped with the present time (UTC, whole seconds)."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return Report(
        tool_version=tool_version(),
        created=now.isoformat(),
        command=list(command),
        environment=environment,
        models=list(models),
    )


def count(number: float) -> str:
    """11 689 512 -> `11.7 M`, for parameters and FLOPs."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}" if abs(number) < 999.5 * size else f"{number / size:.0f} {unit}"
    return f"{number:g}"


def kinds(model: ModelReport) -> str:
    """`channel 64, head 12`, most first; `none` without groups."""
    ordered = sorted(model.kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {size}" for kind, size in ordered if size) or "none"


def headline(model: ModelReport) -> str:
    """One sentence: the verdict and how the checks went."""
    tally = ", ".join(f"{number} {outcome}" for outcome, number in sorted(model.counts().items()))
    parts = [
        *([f"level {model.level}"] if model.method is None else []),
        f"seed {model.seed}",
        *([tally] if tally else []),
        f"{model.seconds:.1f} s",
    ]
    reason = f": {model.reason}" if model.reason else ""
    return f"{model.title} {VERDICTS[model.outcome]}{reason} ({', '.join(parts)})"


def overview(model: ModelReport) -> str:
    """One sentence about a model that was looked at, not checked."""
    groups = f"{sum(model.kinds.values())} groups in {len(model.groups)} axes" if model.groups else model.reason
    return f"{model.spec}: {groups} ({model.seconds:.1f} s)"


def facts(model: ModelReport) -> list[tuple[str, str]]:
    """Name and value of what is known of the model besides its checks; empty when it was never built."""
    if model.method is not None:
        return _method_facts(model.method)
    if not model.trace_device:  # nothing was measured of its groups
        return [("parameters", count(model.parameters))] if model.parameters else []
    found = [
        ("parameters", f"{count(model.parameters)}, {model.removable_parameters:.1%} of them removable"),
        ("FLOPs", f"{count(model.flops)}, {model.removable_flops:.1%} of them removable"),
        ("groups", kinds(model)),
    ]
    if model.subnets:
        found.append(("subnets", ", ".join(f"{kind} {n}" for kind, n in sorted(model.subnets.items()))))
    return [*found, ("traced on", model.trace_device)]


def _method_facts(method: MethodFacts) -> list[tuple[str, str]]:
    options = ", ".join(f"{name}={value}" for name, value in method.options.items())
    found = [
        ("method", method.summary),
        ("driver, data", f"{method.driver}, {method.data}" if method.driver else ""),
        ("removes", f"{method.granularity}s, {method.exactness}" if method.granularity else ""),
        ("requires", method.requires),
        ("paper", method.paper),
        ("options", options),
        ("budget", method.budget),
    ]
    return [(name, value) for name, value in found if value]


def group_table(model: ModelReport) -> Table:
    """All removable axes, the one that saves most parameters first."""
    rows = sorted(model.groups, key=lambda row: (-row.parameters, row.axis))
    return Table(
        ("axis", "kind", "groups", "zero", "parameters", "FLOPs"),
        tuple((r.axis, r.kind, str(r.size), r.mode, count(r.parameters), count(r.flops)) for r in rows),
        frozenset({2, 4, 5}),
    )


def held_back_table(model: ModelReport) -> Table:
    """Why slices cannot be removed, the reason that holds most parameters first."""
    rows = sorted(model.held_back, key=lambda row: (-row.parameters, row.reason))
    return Table(
        ("held back because", "slices", "parameters", "for example"),
        tuple((r.reason, str(r.slices), count(r.parameters), ", ".join(r.examples[:3])) for r in rows),
        frozenset({1, 2}),
    )


def check_table(model: ModelReport) -> Table:
    """All checks in the order they ran."""
    return Table(
        ("check", "level", "outcome", "compared", "seconds", "what it checks"),
        tuple(
            (
                c.id,
                c.severity if model.method else f"{c.level} {c.severity}",
                c.outcome.value,
                str(c.exercised),
                f"{c.seconds:.1f}",
                c.title,
            )
            for c in model.checks
        ),
        frozenset({3, 4}),
    )


def summary_table(models: Iterable[ModelReport]) -> Table:
    """One row a model, or a method on a model."""
    models = list(models)
    if models and all(model.method is not None for model in models):
        return _method_summary(models)
    return Table(
        ("model", "verdict", "parameters", "removable", "of FLOPs", "groups", "seconds", "reason"),
        tuple(
            (
                model.title,
                VERDICTS[model.outcome],
                count(model.parameters) if model.parameters else "",
                f"{model.removable_parameters:.1%}" if model.trace_device else "",
                f"{model.removable_flops:.1%}" if model.trace_device else "",
                kinds(model) if model.trace_device else "",
                f"{model.seconds:.1f}",
                model.reason,
            )
            for model in models
        ),
        frozenset({2, 3, 4, 6}),
    )


def _method_summary(reports: Sequence[ModelReport]) -> Table:
    rows = [
        (
            report.title,
            VERDICTS[report.outcome],
            ", ".join(f"{number} {outcome}" for outcome, number in sorted(report.counts().items())),
            f"{report.seconds:.1f}",
            report.reason,
        )
        for report in reports
    ]
    return Table(("method and model", "verdict", "checks", "seconds", "reason"), tuple(rows), frozenset({3}))


def unhappy(model: ModelReport) -> list[CheckResult]:
    """The checks a reader must see in full: all that neither passed nor were skipped."""
    return [check for check in model.checks if check.outcome not in (Outcome.PASS, Outcome.SKIPPED)]


def detail_lines(check: CheckResult) -> list[tuple[str, str]]:
    """Name and value of each detail of a check, the counterexample's and its diagnosis first."""
    known = [key for key in _DETAIL_NAMES if key in check.details]
    rest = sorted(key for key in check.details if key not in _DETAIL_NAMES)
    diagnosis = check.diagnosis.lines() if check.diagnosis is not None else []
    names = [(_DETAIL_NAMES.get(key, key.replace("_", " ")), check.details[key]) for key in (*known, *rest)]
    lines = [(name, _value(value)) for name, value in names if value is not None]
    at = next((at for at, (name, _) in enumerate(lines) if name == _DETAIL_NAMES["repeat"]), len(lines))
    return [*lines[:at], *diagnosis, *lines[at:]]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        more = f", and {len(value) - _LONGEST_LIST} more" if len(value) > _LONGEST_LIST else ""
        return ", ".join(_value(inner) for inner in value[:_LONGEST_LIST]) + more
    return str(value)
