"""Runs a suite to its end, whatever interrupts it: finished jobs are never repeated, broken-off ones resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conformance.method.outcome import MODEL
from conformance.report.files import make_folder
from reports.bench.job import Job
from reports.bench.local import Done, Said, prepare_folder
from reports.bench.worker import ROW, identity
from reports.rows import Row, append_row, read_rows

ROWS = "rows.jsonl"


class Executor(Protocol):
    """Who runs jobs: processes here, or a cluster."""

    def run(
        self, jobs: list[Job], folder_of: Callable[[Job], Path], said: Said, *, measure: bool = False
    ) -> Iterator[Done]:
        """Run all jobs, each in its prepared folder, and give each back as it ends."""
        ...


@dataclass(frozen=True)
class Told:
    """What a run tells as it goes: progress of a job, and rows as they come."""

    said: Said
    row: Callable[[Row], None]


def run_suite(
    jobs: list[Job],
    folder: Path,
    executor: Executor,
    told: Told,
    *,
    retry: bool = False,
    timing: Executor | None = None,
) -> list[Row]:
    """Run every job that has no row yet; the rows of all of them, failed ones included.

    Each job's files lie in folder/jobs/KEY, rows in folder/rows.jsonl. Dense trainings come first; methods whose
    dense model failed are failed. retry runs failed jobs again. What is finished is then timed with `timing`, one job
    at a time with nothing beside it; None leaves that out.
    """
    make_folder(folder)
    book = _Book(folder, told)
    wanted = {job.key for job in jobs}
    known = {key for key, row in book.rows.items() if row.status == "OK" or not retry}
    for part in ([job for job in jobs if job.dense], [job for job in jobs if not job.dense]):
        ready = []
        for job in part:
            if job.key in known or book.adopt(job):
                continue
            base = None if job.base is None else book.rows.get(job.base)
            if job.base is not None and (base is None or base.status != "OK"):
                book.fail(job, "the dense model it begins with could not be trained")
                continue
            weights = None if job.base is None else book.folder_of_key(job.base) / MODEL
            prepare_folder(book.folder_of(job), job, weights)
            ready.append(job)
        for done in executor.run(ready, book.folder_of, told.said):
            book.settle(done)
    if timing is not None:
        untimed = [job for job in jobs if not job.dense and book.untimed(job)]
        for done in timing.run(untimed, book.folder_of, told.said, measure=True):
            book.settle(done)
    return [row for key, row in book.rows.items() if key in wanted]


class _Book:
    """The rows so far, on the disk and here."""

    def __init__(self, folder: Path, told: Told) -> None:
        self.folder, self.told = folder, told
        path = folder / ROWS
        self.rows = {row.key: row for row in read_rows(path)} if path.exists() else {}
        _cut_torn_line(path)

    def folder_of_key(self, key: str) -> Path:
        return self.folder / "jobs" / key

    def folder_of(self, job: Job) -> Path:
        return self.folder_of_key(job.key)

    def adopt(self, job: Job) -> bool:
        """Take the row of a job that had ended when the runner was killed."""
        path = self.folder_of(job) / ROW
        if not path.exists():
            return False
        self._add(Row.model_validate_json(path.read_text(encoding="utf-8")))
        return True

    def settle(self, done: Done) -> None:
        if done.error == "called off":
            return
        if done.error and done.job.key not in self.rows:
            self.fail(done.job, done.error)
        elif done.error:  # a failed timing leaves the row as it is, and is tried again next time
            self.told.said(done.job, f"could not be timed: {done.error}", 0, 0)
        else:
            path = self.folder_of(done.job) / ROW
            self._add(Row.model_validate_json(path.read_text(encoding="utf-8")))

    def fail(self, job: Job, error: str) -> None:
        self._add(Row(**identity(job), status="FAILED", error=error))

    def untimed(self, job: Job) -> bool:
        row = self.rows.get(job.key)
        return row is not None and row.status == "OK" and row.granularity == "group" and not row.latency

    def _add(self, row: Row) -> None:
        self.rows[row.key] = row
        append_row(self.folder / ROWS, row)
        self.told.row(row)


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a kill cut off, so that the next row has a line of its own."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        try:
            json.loads(data[end:])
        except ValueError:
            with path.open("r+b") as file:
                file.truncate(end)
        else:
            with path.open("ab") as file:
                file.write(b"\n")
