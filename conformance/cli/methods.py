"""`conformance methods` and `conformance method-check`: which methods there are, and whether they keep the contract."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from conformance.cli.options import (
    FilterOption,
    JobsOption,
    MemoryOption,
    SeedOption,
    Settings,
    TimeoutOption,
    TracebackOption,
    positive,
)
from conformance.cli.rows import Key, Rows
from conformance.cli.run import Finished, run_all, threads_for
from conformance.errors import UsageError
from conformance.isolate import Limits, Request
from conformance.report.build import VERDICTS, Table, build_report, summary_table
from conformance.report.environment import environment
from conformance.report.files import make_folder, write_between, write_report
from conformance.report.markdown import table as markdown_table
from conformance.report.schema import ModelReport, Outcome
from conformance.report.terminal import Screen, show_model, show_model_briefly

MARKS = ("<!-- contract: begin -->", "<!-- contract: end -->")
"""Between these marks `--table` writes."""


def methods(
    pattern: FilterOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that methods declare, as JSON.")] = False,
    traceback: TracebackOption = False,
) -> None:
    """List the pruning methods that are installed, with what each declares of itself."""
    found = _described(pattern)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    Screen().table(_listed(found), indent=0)


def _described(pattern: str | None) -> list[dict[str, Any]]:
    """The facts and options of every method; of one that cannot be loaded its name and the reason."""
    from conformance.method.contract.runner import described
    from conformance.method.registry import method
    from conformance.method.registry import methods as registered

    rows: list[dict[str, Any]] = []
    for name in registered():
        if pattern is not None and not fnmatch.fnmatchcase(name, pattern):
            continue
        try:
            rows.append(described(method(name)).model_dump(exclude={"budget"}))
        except UsageError as error:
            rows.append({"name": name, "problem": str(error)})
    return rows


def _listed(rows: Sequence[dict[str, Any]]) -> Table:
    names = ("name", "driver", "data", "requires", "granularity", "exactness", "summary", "paper")
    return Table(
        ("method", "driver", "data", "requires", "removes", "result", "what leaves", "paper"),
        tuple(
            (row["name"], "", "", "", "", "", row["problem"], "") if "problem" in row else tuple(row[n] for n in names)
            for row in rows
        ),
    )


def method_check(
    ctx: typer.Context,
    backends: Annotated[
        list[str], typer.Option("--backend", metavar="SPEC", help="A small model to check on; may be repeated.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]...", help="A name, package.module:Class or path/file.py:Class; all without."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="KIND=SHARE", help="The base budget; 0.3 of the first kind a method takes without."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GLOB", help="Only checks whose id matches, e.g. 'M.z*'; may be repeated."),
    ] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = 1,
    timeout: TimeoutOption = None,
    memory: MemoryOption = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where rows.jsonl, report.json and report.md go.", file_okay=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Skip what DIR has already. The methods' code must be the same.")
    ] = False,
    allow_unsuited: Annotated[
        bool,
        typer.Option(
            "--allow-unsuited",
            help="A model without what a method declares to require does not count, if the method conforms on another.",
        ),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the table of methods into this Markdown file, between its marks."),
    ] = None,
    traceback: TracebackOption = False,
) -> None:
    """Check that pruning methods keep the method contract, on each of the models.

    A METHOD other than a name, and a SPEC other than prefix:name, run the code in them. Every method runs on every
    model in a process of its own. Ends with 0 when all keep the contract, 1 when one does not, 2 for a wrong name or
    option, 3 when one ran into a limit, crashed or met an internal error.
    """
    settings = Settings.of(ctx)
    limits = Limits(positive(timeout, "--timeout"), positive(memory, "--memory"))
    chosen, patterns = _wanted(names, backends, budget), tuple(only or ["*"])
    if resume and output is None:
        raise UsageError("--resume needs the --output of the run that was broken off")
    rows = None if output is None else _rows(output, seed, patterns, budget, resume=resume)
    threads = threads_for(jobs)
    requests = [
        Request(spec, 0, seed, threads=threads, only=patterns, method=name, budget=budget or "")
        for name, spec in chosen
    ]
    done = {request: rows.get(f"{request.method} on {request.spec}") if rows else None for request in requests}
    waiting = [request for request in requests if done[request] is None]
    screen = Screen()

    def show(finished: Finished) -> None:
        done[finished.request] = finished.report
        if finished.usage:
            print(f"error: {finished.usage}", file=sys.stderr, flush=True)
            return
        if rows is not None:
            rows.add(finished.report)
        (show_model_briefly if len(requests) > 1 else show_model)(screen, finished.report)
        if finished.trace and settings.traceback:
            print(finished.trace, file=sys.stderr, flush=True)

    results = run_all(waiting, limits, screen, show, jobs=jobs)
    reports = [found for found in done.values() if found is not None]
    built = build_report(reports, command=settings.command, environment=environment("cpu", threads))
    apart = _passed_over(reports) if allow_unsuited else {}
    counted = built.model_copy(update={"models": [report for report in reports if report.title not in apart]})
    if len(reports) > 1:
        screen.line()
        screen.table(summary_table(reports), indent=0)
        for title, requires in apart.items():
            screen.line(f"not counted: {title}, which lacks {requires}")
    unusable = any(finished.usage for finished in results)
    if output is not None and not unusable:
        screen.line(f"wrote {' and '.join(str(path) for path in write_report(output, built))}")
    if table is not None and not unusable:
        write_between(table, MARKS, markdown_table(contract_table(reports)))
        screen.line(f"wrote {table}")
    raise typer.Exit(2 if unusable else counted.exit_code)


def _passed_over(reports: Sequence[ModelReport]) -> dict[str, str]:
    """Titles of methods on models without what they declare to require, and what that is.

    Not where a method conforms on none of the models: nothing of it was checked then.
    """
    conforms = {report.method.name for report in reports if report.method and report.outcome is Outcome.PASS}
    return {
        report.title: _lacks(report)
        for report in reports
        if _lacks(report) and report.method and report.method.name in conforms
    }


def _lacks(report: ModelReport) -> str:
    """What the method requires and the model does not have; '' where it has."""
    return next((str(check.details.get("requires", "")) for check in report.checks if check.id == "M.runs"), "")


def _wanted(names: list[str] | None, backends: list[str], budget: str | None) -> list[tuple[str, str]]:
    """Every method with every model. The cheap mistakes are found here, before any long work."""
    from conformance.method.budget import Budget
    from conformance.method.registry import method_class
    from conformance.method.registry import methods as registered
    from conformance.spec_loader import locate

    for name in names or ():
        if ":" in name:
            locate(name)
        else:
            method_class(name)
    for spec in backends:
        locate(spec)
    if budget is not None:
        Budget.parse(budget)
    wanted = list(dict.fromkeys(names or registered()))
    return [(name, spec) for name in wanted for spec in dict.fromkeys(backends)]


def _rows(output: Path, seed: int, patterns: tuple[str, ...], budget: str | None, *, resume: bool) -> Rows:
    make_folder(output)
    rows = Rows(output / "rows.jsonl", Key.now(0, seed, "cpu", "float32", patterns, budget=budget or ""))
    if resume:
        rows.load()
    else:
        rows.clear()
    return rows


def contract_table(reports: Sequence[ModelReport]) -> Table:
    """One row a method: what it declares, and how it did on each model."""
    specs = list(dict.fromkeys(report.spec for report in reports))
    rows: dict[str, dict[str, ModelReport]] = {}
    for report in reports:
        if report.method is not None:
            rows.setdefault(report.method.name, {})[report.spec] = report
    cells = []
    for name, found in rows.items():
        facts = next(iter(found.values())).method
        assert facts is not None
        told = (name, facts.driver, facts.data, facts.granularity, *(_cell(found.get(spec)) for spec in specs))
        cells.append((*told, facts.summary, facts.paper))
    headers = ("method", "driver", "data", "removes", *specs, "what leaves", "paper")
    return Table(headers, tuple(cells))


def _cell(report: ModelReport | None) -> str:
    """`conforms (14 pass, 4 skipped)`, else the verdict and the checks that did not pass."""
    if report is None:
        return ""
    if requires := _lacks(report):
        return f"{VERDICTS[report.outcome]}: requires {requires}"
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(report.counts().items()))
    bad = [check.id for check in report.checks if check.outcome not in (Outcome.PASS, Outcome.SKIPPED)]
    named = f": {', '.join(bad)}" if bad else ""
    return f"{VERDICTS[report.outcome]} ({counts}){named}"
