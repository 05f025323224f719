"""Runs jobs as processes of this machine, several at once."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from reports.bench.child import Child, context
from reports.bench.job import Job
from reports.bench.worker import JOB, LOG, ROW

Said = Callable[[Job, str, int, int], None]


@dataclass(frozen=True)
class Done:
    """A job whose process ended; error is empty where it left a row."""

    job: Job
    error: str


class Local:
    """Up to `workers` processes; each has an equal share of the cores as torch threads."""

    def __init__(self, workers: int = 1, timeout: float | None = None) -> None:
        self.workers, self.timeout = workers, timeout
        self._context = context()

    def run(
        self, jobs: list[Job], folder_of: Callable[[Job], Path], said: Said, *, measure: bool = False
    ) -> Iterator[Done]:
        """Run all jobs and give each back as it ends. Closing the iterator ends the processes."""
        ended = threading.Event()
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: set[Future[Done]] = set()
            todo = iter(jobs)
            try:
                while True:
                    while len(waiting) < self.workers and (job := next(todo, None)) is not None:
                        waiting.add(pool.submit(self._one, job, folder_of(job), said, measure, ended))
                    if not waiting:
                        return
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for one in finished:
                        yield one.result()
            finally:
                ended.set()

    def _one(self, job: Job, folder: Path, said: Said, measure: bool, ended: threading.Event) -> Done:
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        child = Child(self._context, folder, measure=measure, threads=threads)
        late = False
        with contextlib.suppress(EOFError):
            while not (ended.is_set() or late):
                heard = child.hear()
                if heard is not None:
                    said(job, *heard)
                late = self.timeout is not None and child.seconds > self.timeout
            child.kill()
        code = child.close()
        if ended.is_set() and code != 0:
            return Done(job, "called off")
        if late and code != 0:
            return Done(job, f"timed out after {self.timeout:g} s")
        if code != 0:
            return Done(job, reason(folder / LOG, code))
        return Done(job, "" if (folder / ROW).exists() else "the process ended without a row")


def reason(log: Path, code: int) -> str:
    """The last line of what the process said, which of a Python error is the error."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"the process ended by signal {-code}"
    return lines[-1].strip() if lines else f"the process ended with exit code {code}"


def prepare_folder(folder: Path, job: Job, weights: Path | None) -> None:
    """Make a job's folder and write job.json, with the weights the method begins with."""
    import dataclasses

    from conformance.report.files import write_together

    config = dataclasses.replace(job.config, weights=None if weights is None else str(weights))
    said = dataclasses.replace(job, config=config).to_dict()
    write_together(folder, {JOB: json.dumps(said, indent=1, sort_keys=True, default=list) + "\n"})
