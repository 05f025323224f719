"""Run many checks, some at once, each isolated, with progress; the same for `check` and `zoo`."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from conformance.errors import UsageError
from conformance.isolate import KILLED, Limits, Request, check_here, check_isolated, failed
from conformance.report.schema import ModelReport
from conformance.report.terminal import Board, Screen


@dataclass(frozen=True)
class Finished:
    """One model's end. usage says why it could not be loaded (its report's outcome is ERROR then);
    trace is the traceback or last output of a model that ended in an internal error or a crash.
    """

    request: Request
    report: ModelReport
    usage: str = ""
    trace: str = ""


def threads_for(jobs: int) -> int:
    """Torch threads of each of `jobs` processes that share the machine; 0 leaves the choice to torch."""
    if jobs == 1 or os.environ.get("OMP_NUM_THREADS"):
        return 0
    return max(1, (os.cpu_count() or 1) // jobs)


def run_all(
    requests: Sequence[Request],
    limits: Limits,
    screen: Screen,
    done: Callable[[Finished], None],
    *,
    jobs: int = 1,
    in_process: bool = False,
) -> list[Finished]:
    """Check every model; `done` gets each as it ends, the list is in the order asked for.

    One model's end never ends the others; what the system killed beside others, as it does when memory
    runs out, gets a second try alone. On Ctrl-C, or when `done` raises, all children are killed.
    """
    cancel = threading.Event()
    results: dict[int, Finished] = {}
    with screen.board(len(requests)) as board, ThreadPoolExecutor(1 if in_process else jobs) as pool:
        if in_process:
            for index, request in enumerate(requests):
                results[index] = _here(request, board)
                done(results[index])
            return list(results.values())
        futures = {pool.submit(_isolated, r, limits, board, cancel): i for i, r in enumerate(requests)}
        try:
            starved = []
            for future in as_completed(futures):
                found = future.result()
                if jobs > 1 and found.report.reason.startswith(KILLED):
                    starved.append((futures[future], found.request))
                    continue
                results[futures[future]] = found
                done(found)
            for index, request in starved:
                results[index] = pool.submit(_isolated, request, limits, board, cancel).result()
                done(results[index])
        except BaseException:
            cancel.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [results[index] for index in range(len(requests))]


def _title(request: Request) -> str:
    return f"{request.method} on {request.spec}" if request.method else request.spec


def _isolated(request: Request, limits: Limits, board: Board, cancel: threading.Event) -> Finished:
    traces: list[str] = []
    with board.model(_title(request)) as tracker:
        try:
            report = check_isolated(request, limits, tracker, cancel, traces.append)
        except UsageError as error:
            return Finished(request, failed(request, str(error)), usage=str(error))
    return Finished(request, report, trace="\n".join(traces))


def _here(request: Request, board: Board) -> Finished:
    started = time.monotonic()
    with board.model(_title(request)) as tracker:
        try:
            return Finished(request, check_here(request, tracker))
        except UsageError as error:
            return Finished(request, failed(request, str(error)), usage=str(error))
        except Exception as error:  # noqa: BLE001 - one model's internal error must not hide the others
            reason = f"internal error: {type(error).__name__}: {error}".splitlines()[0]
            report = failed(request, reason, time.monotonic() - started)
            return Finished(request, report, trace=traceback.format_exc())
