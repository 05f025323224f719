"""Runs jobs on a Ray cluster: the same worker processes, on whichever node has room, their files brought back."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.errors import UsageError
from reports.bench.job import Job
from reports.bench.local import Done, Said, reason
from reports.bench.worker import JOB, LOG, ROW

_WEIGHTS = "base.safetensors"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster. address is what `ray.init` takes: `auto`, `HOST:PORT`, `ray://HOST:PORT`, None for one of its own.

    cpus (and gpus) are what a job asks for. A job whose node or process dies is tried again, from its beginning,
    `retries` times. Nodes need this project installed and the data where the tasks look; files go both ways through
    Ray, so no file system has to be shared.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3
    timeout: float | None = None

    def run(
        self, jobs: list[Job], folder_of: Callable[[Job], Path], said: Said, *, measure: bool = False
    ) -> Iterator[Done]:
        """Run all jobs and give each back as it ends. Closing the iterator calls the rest off."""
        if not jobs:
            return
        import ray

        _connect(ray, self.address)
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries)(_on_node)
        waiting = {}
        for job in jobs:
            said(job, "queued", 0, 0)
            files = _packed(folder_of(job), with_results=measure)
            waiting[remote.remote(files, measure, max(1, int(self.cpus)), self.timeout)] = job
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(ready[0])
                yield _taken(ray, ready[0], job, folder_of(job))
        finally:
            for left in waiting:
                ray.cancel(left, force=True)


def _connect(ray: Any, address: str | None) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"the Ray cluster at {address} cannot be reached: {str(error).splitlines()[0]}") from error


def _packed(folder: Path, *, with_results: bool) -> dict[str, bytes]:
    """A job's files as a node needs them, the weights it begins with among them."""
    said = json.loads((folder / JOB).read_text(encoding="utf-8"))
    files: dict[str, bytes] = {}
    weights = said["config"]["weights"]
    if weights is not None and not with_results:
        files[_WEIGHTS] = Path(weights).read_bytes()
        said["config"]["weights"] = _WEIGHTS
    files[JOB] = json.dumps(said).encode()
    if with_results:
        files |= {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != JOB}
    return files


def _on_node(files: dict[str, bytes], measure: bool, threads: int, timeout: float | None) -> dict[str, bytes] | str:
    """On a node: run the worker in a folder of its own. Its files, or why there are none."""
    import os

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        said = json.loads(files[JOB])
        if said["config"]["weights"] == _WEIGHTS:
            said["config"]["weights"] = str(folder / _WEIGHTS)
            (folder / JOB).write_text(json.dumps(said), encoding="utf-8")
        words = [sys.executable, "-m", "reports.bench.worker", str(folder), *(["--measure"] if measure else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        log = folder / LOG
        with log.open("wb") as errors, subprocess.Popen(  # noqa: S603
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        ) as process:  # fmt: skip
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                return f"timed out after {timeout:g} s"
        if code != 0:
            return reason(log, code)
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (_WEIGHTS, JOB)}


def _taken(ray: Any, ready: Any, job: Job, folder: Path) -> Done:
    """Bring a job's files into its folder, the row last."""
    from conformance.report.files import write_together

    try:
        found = ray.get(ready)
    except ray.exceptions.RayError as error:
        return Done(job, f"the cluster lost it: {str(error).strip().splitlines()[0]}")
    if isinstance(found, str):
        return Done(job, found)
    if ROW not in found:
        return Done(job, "the process ended without a row")

    ordered = sorted(found.items(), key=lambda item: item[0] == ROW)
    write_together(folder, {name: _writer(data) for name, data in ordered})
    return Done(job, "")


def _writer(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write
