"""What a sweep came to: totals a set, and the page zoo.md."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.cli.rows import Rows
from conformance.report.build import VERDICTS, Table, count, kinds
from conformance.report.environment import environment
from conformance.report.markdown import escape, fenced, table
from conformance.report.schema import ModelReport, Outcome

_COUNTED = (Outcome.PASS, Outcome.UNSUPPORTED, Outcome.FAIL, Outcome.ERROR)
_OPTIONS_OF_THE_RUN = ("--resume", "--fresh", "--retry-errors", "--traceback")


@dataclass(frozen=True)
class SetResult:
    """One set: all its SPECs in order, and the reports of those that are finished."""

    name: str
    specs: tuple[str, ...]
    reports: tuple[ModelReport, ...]

    @classmethod
    def of(cls, name: str, specs: Sequence[str], rows: Rows) -> SetResult:
        """The set as the rows have it."""
        return cls(name, tuple(specs), tuple(found for spec in specs if (found := rows.get(spec))))

    def number(self, outcome: Outcome) -> int:
        """How many finished models have this outcome."""
        return sum(report.outcome is outcome for report in self.reports)


def exit_code(results: Sequence[SetResult]) -> int:
    """As for one report: 3 with an error, 1 when not all conform or not all are finished, else 0."""
    outcomes = {report.outcome for result in results for report in result.reports}
    if Outcome.ERROR in outcomes:
        return 3
    unfinished = any(len(result.reports) < len(result.specs) for result in results)
    return 0 if outcomes == {Outcome.PASS} and not unfinished else 1


def totals_table(results: Sequence[SetResult]) -> Table:
    """One row a set: how many of its models came to what, and how many groups of each kind they have."""
    rows = []
    for result in results:
        groups: Counter[str] = Counter()
        for report in result.reports:
            groups.update(report.kinds)
        told = ", ".join(f"{kind} {size}" for kind, size in sorted(groups.items()) if size)
        rows.append(
            (
                result.name,
                f"{len(result.reports)} of {len(result.specs)}",
                *(str(result.number(outcome)) for outcome in _COUNTED),
                f"{sum(report.seconds for report in result.reports):.0f}",
                told or "none",
            )
        )
    headers = ("set", "finished", *(VERDICTS[outcome] for outcome in _COUNTED), "seconds", "groups")
    return Table(headers, tuple(rows), frozenset(range(1, 7)))


def reasons_table(results: Sequence[SetResult], outcome: Outcome) -> Table:
    """Why models came to this outcome, the commonest reason first."""
    by_reason: dict[str, list[str]] = {}
    for result in results:
        for report in result.reports:
            if report.outcome is outcome:
                by_reason.setdefault(report.reason or _failing(report) or "no reason given", []).append(report.spec)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = tuple((reason, str(len(specs)), ", ".join(specs)) for reason, specs in ordered)
    return Table(("reason", "models", "which"), rows, frozenset({1}))


def page(results: Sequence[SetResult], rows: Rows, command: Sequence[str], run: dict[str, str]) -> str:
    """zoo.md: totals, reasons, one row a model; in the order of the sets, whatever order they ended in."""
    parts = ["# Zoo sweep\n", table(totals_table(results))]
    for outcome in (Outcome.FAIL, Outcome.UNSUPPORTED, Outcome.ERROR):
        reasons = reasons_table(results, outcome)
        if reasons.rows:
            parts += [f"## Why: {VERDICTS[outcome]}\n", table(reasons)]
    for result in results:
        parts += [f"## {escape(result.name)}\n", table(_models(result))]
    parts += ["## How this was made\n", fenced(shlex.join(_repeatable(command)))]
    told = environment(rows.key.device) | run | {"level": str(rows.key.level), "seed": str(rows.key.seed)}
    told |= {"dtype": rows.key.dtype, "engine": _engines(rows, results)}
    parts.append(table(Table(("environment", ""), tuple(told.items()))))
    return "\n".join(parts)


def _models(result: SetResult) -> Table:
    rows = tuple(
        (
            report.spec,
            VERDICTS[report.outcome],
            count(report.parameters) if report.parameters else "",
            f"{report.removable_parameters:.1%}" if report.trace_device else "",
            f"{report.removable_flops:.1%}" if report.trace_device else "",
            kinds(report) if report.trace_device else "",
            f"{report.seconds:.1f}",
            report.reason or _failing(report),
        )
        for report in result.reports
    )
    headers = ("model", "verdict", "parameters", "removable", "of FLOPs", "groups", "seconds", "reason")
    return Table(headers, rows, frozenset({2, 3, 4, 6}))


def _failing(report: ModelReport) -> str:
    """The ids of the checks that failed, for a report without a reason of its own."""
    return ", ".join(check.id for check in report.checks if check.outcome is Outcome.FAIL)


def _engines(rows: Rows, results: Sequence[SetResult]) -> str:
    """The states of the engine's source behind the rows; more than one means a resumed sweep."""
    specs = list(dict.fromkeys(spec for result in results for spec in result.specs))
    return ", ".join(f"{engine} ({number} models)" for engine, number in rows.engines(specs).items()) or "none"


def _repeatable(command: Sequence[str]) -> list[str]:
    """The command without what belongs to one sitting only."""
    return [word for word in command if word not in _OPTIONS_OF_THE_RUN]
