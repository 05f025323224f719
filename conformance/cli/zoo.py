"""`conformance zoo`: check every model of whole sets, resumable, and write what came out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from conformance.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    FilterOption,
    JobsOption,
    LevelOption,
    MemoryOption,
    OnlyOption,
    SeedOption,
    Settings,
    TimeoutOption,
    TracebackOption,
    parse_device,
    positive,
)
from conformance.cli.page import SetResult, exit_code, page, totals_table
from conformance.cli.rows import Key, Rows
from conformance.cli.run import Finished, run_all, threads_for
from conformance.cli.sets import sets
from conformance.isolate import Limits, Request
from conformance.report.build import VERDICTS, kinds
from conformance.report.files import make_folder, write_together
from conformance.report.schema import ModelReport, Outcome
from conformance.report.terminal import STYLES, Screen

DEFAULT_OUTPUT = Path("conformance-zoo")
DEFAULT_TIMEOUT = 900.0


def zoo(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME", help="A set to check; may be repeated. All without."),
    ] = None,
    whole: Annotated[
        list[str] | None,
        typer.Option("--all", metavar="PREFIX", help="Check all of a collection, such as timm; may be repeated."),
    ] = None,
    exact_below: Annotated[
        float | None,
        typer.Option(
            metavar="MILLION",
            help="Of larger models only the groups are found, without weights: unsupported, with that reason.",
        ),
    ] = None,
    pattern: FilterOption = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Skip models already finished, or start over.")
    ] = True,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="When resuming, check again what ended in an error.")
    ] = False,
    level: LevelOption = 2,
    only: OnlyOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    jobs: JobsOption = 2,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    memory: MemoryOption = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where rows.jsonl and zoo.md go.", file_okay=False)
    ] = DEFAULT_OUTPUT,
    traceback: TracebackOption = False,
) -> None:
    """Check every model of the sets, one process a model, and write a page of results.

    Each finished model is one line of DIR/rows.jsonl at once; a sweep that was broken off goes on where it
    stopped, as long as versions, level, checks, seed, device, dtype and limit are the same. DIR/zoo.md shows all of it.
    """
    settings = Settings.of(ctx)
    limits = Limits(positive(timeout, "--timeout"), positive(memory, "--memory"))
    place = parse_device(device)
    limit = positive(exact_below, "--exact-below")
    wanted = sets(names or [], pattern, whole or [])
    chosen = tuple(only or ["*"])
    make_folder(output)
    rows = Rows(output / "rows.jsonl", Key.now(level, seed, place, dtype.value, chosen, limit))
    if resume:
        rows.load()
    else:
        rows.clear()
    specs = list(dict.fromkeys(spec for members in wanted.values() for spec in members))
    waiting = [spec for spec in specs if _must_run(rows.get(spec), retry_errors=retry_errors)]
    screen = Screen()
    if len(waiting) < len(specs):
        screen.line(f"{len(specs) - len(waiting)} of {len(specs)} models are finished already", "dim")
    width = max(len(spec) for spec in specs)

    def finish(finished: Finished) -> None:
        rows.add(finished.report)
        _show_row(screen, finished.report, width)
        if finished.trace and settings.traceback:
            print(finished.trace, file=sys.stderr, flush=True)

    threads = threads_for(jobs)
    requests = [
        Request(spec, level, seed, place, dtype.value, threads=threads, only=chosen, exact_below=limit)
        for spec in waiting
    ]
    try:
        run_all(requests, limits, screen, finish, jobs=jobs)
    finally:  # also after Ctrl-C: the page always shows what is finished
        results = [SetResult.of(name, members, rows) for name, members in wanted.items()]
        text = page(results, rows, settings.command, {"threads": str(threads or "torch's default")})
        write_together(output, {"zoo.md": text})
    screen.line()
    screen.table(totals_table(results), indent=0)
    screen.line(f"wrote {output / 'zoo.md'}")
    raise typer.Exit(exit_code(results))


def _must_run(known: ModelReport | None, *, retry_errors: bool) -> bool:
    return known is None or (retry_errors and known.outcome is Outcome.ERROR)


def _show_row(screen: Screen, report: ModelReport, width: int) -> None:
    verdict = VERDICTS[report.outcome]
    told = report.reason or kinds(report)
    screen.line(f"{report.spec:<{width}}  {verdict:<16}  {report.seconds:7.1f} s  {told}", STYLES[report.outcome])
