"""`conformance check`: is every subnet of these models exact?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from conformance.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    JobsOption,
    LevelOption,
    MemoryOption,
    OnlyOption,
    RemoveOption,
    ReportOption,
    SeedOption,
    Settings,
    ShapeOption,
    TimeoutOption,
    TracebackOption,
    parse_device,
    parse_shape,
    positive,
)
from conformance.cli.run import Finished, run_all, threads_for
from conformance.errors import UsageError
from conformance.isolate import Limits, Request
from conformance.report.build import build_report, summary_table
from conformance.report.environment import environment
from conformance.report.files import make_folder, write_report
from conformance.report.terminal import STYLES, Screen, show_model, show_model_briefly


def check(
    ctx: typer.Context,
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC", help="prefix:name, package.module:callable or path/file.py:callable."),
    ],
    input_shape: ShapeOption = None,
    level: LevelOption = 2,
    only: OnlyOption = None,
    remove: RemoveOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    report: ReportOption = None,
    timeout: TimeoutOption = None,
    memory: MemoryOption = None,
    jobs: JobsOption = 1,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process",
            help="Check in this process: no limits, one at a time, a debugger can be attached.",
        ),
    ] = False,
    traceback: TracebackOption = False,
) -> None:
    """Check that every pruned subnet of the models computes what the full model computes.

    A SPEC other than prefix:name runs the code in it, with your rights: give only code you trust. Each
    model runs in a process of its own. One model is shown in full, several in brief (--report has all).
    Ends with 0 when every model conforms, 1 when one does not, 2 for a wrong SPEC or option, 3 when a
    model ran into a limit, crashed or met an internal error.
    """
    from conformance.spec_loader import locate

    settings = Settings.of(ctx)
    limits = Limits(positive(timeout, "--timeout"), positive(memory, "--memory"))
    if in_process and (limits != Limits() or jobs > 1):
        raise UsageError("--in-process has no process to limit: leave out --timeout, --memory and --jobs")
    shape, place = parse_shape(input_shape), parse_device(device)
    for spec in specs:  # the cheap mistakes are found before any long work
        locate(spec)
    if report is not None:
        make_folder(report)
    threads = threads_for(jobs)
    requests = [
        Request(spec, level, seed, place, dtype.value, shape, threads, tuple(only or ["*"]), tuple(remove or []))
        for spec in dict.fromkeys(specs)
    ]
    screen = Screen()

    def show(finished: Finished) -> None:
        _show(screen, finished, briefly=len(requests) > 1, with_trace=settings.traceback)

    results = run_all(requests, limits, screen, show, jobs=jobs, in_process=in_process)
    models = [finished.report for finished in results]
    built = build_report(models, command=settings.command, environment=environment(place, threads))
    if len(models) > 1:
        screen.line()
        screen.table(summary_table(models), indent=0)
    unusable = sum(bool(finished.usage) for finished in results)
    if report is not None and unusable < len(results):
        paths = write_report(report, built)
        screen.line(f"wrote {' and '.join(str(path) for path in paths)}")
    raise typer.Exit(2 if unusable else built.exit_code)


def _show(screen: Screen, finished: Finished, *, briefly: bool, with_trace: bool) -> None:
    if finished.usage:
        print(f"error: {finished.usage}", file=sys.stderr, flush=True)
        return
    (show_model_briefly if briefly else show_model)(screen, finished.report)
    if finished.trace and with_trace:
        print(finished.trace, file=sys.stderr, flush=True)
    elif finished.trace:
        screen.line("  --traceback shows more", STYLES[finished.report.outcome])
    screen.line()
