"""A job in a process that starts with its libraries imported: forked from a server that has done nothing else."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from reports.bench.worker import LOG, work

_IMPORTED = ["conformance.cli.app", "reports.bench.child", "reports.bench.measure", "torch._dynamo"]
"""Seconds of a processor for each job otherwise. None of them starts threads or touches a device."""

_LOOK = 0.2
"""Seconds between two looks at whether a job is called off or out of time."""


def context() -> BaseContext:
    """Where processes come from: a server that forks them, on Linux; elsewhere new interpreters."""
    if sys.platform != "linux":
        return mp.get_context("spawn")
    server = mp.get_context("forkserver")
    server.set_forkserver_preload(_IMPORTED)
    return server


class Child:
    """One job's process. It ends when the process that made it does."""

    def __init__(self, made_by: Any, folder: Path, *, measure: bool, threads: int) -> None:
        """Start it; what it writes goes to worker.log."""
        self.said, telling = made_by.Pipe(duplex=False)
        watching, self._alive = made_by.Pipe(duplex=False)  # its end says that we are gone
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        given = folder, measure, threads, environment, telling, watching
        self._process = made_by.Process(target=_run, args=given)
        self._process.start()
        telling.close()
        watching.close()
        self._started = monotonic()

    def hear(self) -> tuple[str, int, int] | None:
        """The progress it tells within a moment, if any. Raises EOFError when it has ended."""
        if self.said in wait([self.said, self._process.sentinel], _LOOK):
            heard: tuple[str, int, int] = self.said.recv()
            return heard
        if self._process.exitcode is not None:
            raise EOFError
        return None

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return monotonic() - self._started

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> int:
        """Its exit code, negative for a signal; waits for its end."""
        self._process.join()
        code: int = self._process.exitcode
        self.said.close()
        self._alive.close()
        self._process.close()
        return code


def _run(
    folder: Path,
    measure: bool,
    threads: int,
    environment: dict[str, str],
    telling: Connection,
    watching: Connection,
) -> None:
    """In the process: everything as if it had been started anew with this environment."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, args=(watching,), daemon=True).start()
    work(folder, measure, lambda *what: telling.send(what))


def _end_with_parent(watching: Connection) -> None:
    """Nobody sends anything: an end means that the runner is gone."""
    try:
        watching.recv_bytes()
    finally:
        os._exit(1)
