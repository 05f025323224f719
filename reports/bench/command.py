"""`conformance bench`: run a suite, keep its rows, track them in MLflow."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conformance.cli.options import TracebackOption, positive
from conformance.errors import UsageError
from conformance.report.terminal import Screen

if TYPE_CHECKING:
    from reports.bench.job import Job
    from reports.bench.runner import Executor
    from reports.rows import Row
    from reports.tracking import Tracking


class Where(StrEnum):
    """Who runs the jobs."""

    local = "local"
    ray = "ray"


def bench(
    suite: Annotated[str, typer.Option(metavar="NAME|FILE", help="smoke, reproduction, cpu, gpu, or a YAML file.")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where rows and runs go; bench/NAME when left out.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes at once (local), or cores a job asks for (ray).")
    ] = 1,
    executor: Annotated[Where, typer.Option(help="Processes of this machine, or a Ray cluster.")] = Where.local,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The Ray cluster: auto or HOST:PORT; a local one without.")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs a job asks of the Ray cluster.")] = 0,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Wall-clock limit a job.")] = None,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time finished subnets, one after the other, at the end.")
    ] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed jobs again.")] = False,
    mlflow: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Tracking server or database; DIR/mlflow.db when left out, none for none."),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the best proved subnet under NAME, with the alias winner."),
    ] = None,
    traceback: TracebackOption = False,
) -> None:
    """Run models x methods x budgets x seeds; whatever interrupts it, the same command goes on.

    DIR gets rows.jsonl, a line a finished or failed job, and jobs/KEY with everything of each. Finished jobs are not
    repeated, broken-off ones resume. Ends with 0 when every job finished and every subnet is proved, 1 when one failed
    or is not proved, 2 for a suite or option that is wrong.
    """
    from reports.bench.job import jobs as jobs_of
    from reports.bench.runner import Told, run_suite
    from reports.bench.suite import read_suite

    positive(timeout, "--timeout")
    plan = read_suite(suite)
    folder = output or Path("bench") / plan.name
    todo = jobs_of(plan)
    screen = Screen()
    screen.line(f"{plan.name}: {len(todo)} jobs, rows in {folder / 'rows.jsonl'}")
    folder.mkdir(parents=True, exist_ok=True)
    tracking = _tracking(mlflow, plan.name, folder)
    started = time.monotonic()
    count = [0]

    def row_came(row: Row) -> None:
        count[0] += 1
        screen.line(_line(row, time.monotonic() - started), "" if row.conforming else "red")
        if tracking is not None:
            tracking.log(row, folder / "jobs" / row.key)

    def said(job: Job, what: str, done: int, total: int) -> None:
        if what.startswith("could not be timed"):
            screen.line(f"{job.title}: {what}", "yellow")

    finished = False
    if tracking is not None:
        from reports.bench.place import commit

        tracking.begin({"commit": commit(), "jobs": str(len(todo))})
    try:
        rows = run_suite(
            todo, folder, _executor(executor, address, jobs, gpus, timeout), Told(said, row_came),
            retry=retry_failed, timing=_executor(Where.local, None, 1, 0, timeout) if timing else None,
        )  # fmt: skip
        finished = True
    finally:
        if tracking is not None:
            tracking.end(finished=finished)
    failed = [row for row in rows if row.status != "OK"]
    wrong = [row for row in rows if row.status == "OK" and not row.conforming]
    screen.line(f"{len(rows)} of {len(todo)} rows, {len(failed)} failed, {len(wrong)} not proved; {count[0]} new")
    if register is not None:
        _register(tracking, rows, register, screen)
    raise typer.Exit(1 if failed or wrong or len(rows) < len(todo) else 0)


def _line(row: Row, seconds: float) -> str:
    value = "" if row.value is None else f" {row.metric} {row.value:.4f}"
    said = row.error or f"{row.verdict}{value}"
    speed = "".join(f", x{item.ratio:.2f} at batch {item.batch}" for item in row.latency)
    return f"{seconds:7.0f} s  {row.model} {row.method} {row.budget} seed {row.seed}: {said}{speed}"


def _executor(where: Where, address: str | None, jobs: int, gpus: float, timeout: float | None) -> Executor:
    if where is Where.ray:
        from reports.bench.cluster import Cluster

        return Cluster(address, cpus=jobs, gpus=gpus, timeout=timeout)
    if address is not None:
        raise UsageError("--address is for --executor ray")
    from reports.bench.local import Local

    return Local(min(jobs, os.cpu_count() or 1), timeout)


def _tracking(uri: str | None, suite: str, folder: Path) -> Tracking | None:
    if uri == "none":
        return None
    try:
        from reports.tracking import Tracking

        if uri is None:
            return Tracking(f"sqlite:///{(folder / 'mlflow.db').resolve()}", suite, folder / "mlflow-artifacts")
        return Tracking(uri, suite)
    except ImportError as error:
        raise UsageError(
            "MLflow is not installed (pip install pruning-conformance[bench]); or give --mlflow none"
        ) from error


def _register(tracking: Tracking | None, rows: list[Row], name: str, screen: Screen) -> None:
    """The proved subnet with the highest figure; of equals the one with the fewest multiply-adds."""
    if tracking is None:
        raise UsageError("--register needs MLflow")
    able = [row for row in rows if row.conforming and row.budget and row.value is not None]
    if not able:
        raise UsageError("there is no proved subnet to register")
    best = max(able, key=lambda row: (row.value, -(row.macs or (0, 0))[1]))
    version = tracking.register(best, name)
    screen.line(f"registered {best.model} by {best.method} at {best.budget} as {name} version {version}, alias winner")
