"""Check one model in a process of its own, under a time and a memory limit.

The parent starts a Python with its own search path, hands it the request as one JSON line on standard
input and reads JSON lines back: progress, then one result. Nothing is pickled. What the user's code
prints goes to a file, whose last line helps to explain a crash. Standard input stays open: when the
parent dies, however it dies, the child sees its end and stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

import psutil

from conformance.diagnosis.finding import CUT_OFF
from conformance.errors import ConformanceError, UsageError
from conformance.report.schema import CheckResult, MethodFacts, ModelReport, Outcome

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done and how many there are."""

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from conformance.isolate import child; child()"
_POLL_SECONDS = 0.05
_MEMORY_SECONDS = 0.25
_FAREWELL_SECONDS = 2.0
_GIB = 1024**3

KILLED = "the process ended by signal 9"
"""How the reason begins when something outside, mostly the system for want of memory, killed a child."""


class Cancelled(ConformanceError):  # noqa: N818 - not a failure
    """The run was called off while the child was at work; the child is gone."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to check, and how. input_shape leaves the batch out; threads is torch's (0: its default).

    only holds patterns of the checks of levels 2 and 3 to run, remove names groups that these look at.
    Of a model of more than `exact_below` million parameters the structure alone is checked; None: whatever its size.
    With `method` the contract of that method on the model is checked, at the base budget `budget` (KIND=SHARE).
    """

    spec: str
    level: int = 2
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    input_shape: tuple[int, ...] | None = None
    threads: int = 0
    only: tuple[str, ...] = ("*",)
    remove: tuple[str, ...] = ()
    exact_below: float | None = None
    method: str = ""
    budget: str = ""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Wall-clock seconds, and GiB of resident memory of the child and its children; None: no limit."""

    seconds: float | None = None
    gib: float | None = None


def check_here(
    request: Request, progress: Progress | None = None, settled: Callable[[ModelReport], None] | None = None
) -> ModelReport:
    """Load and check the model in this process. Raises UsageError when it cannot be loaded.

    settled(report) is called with a verdict that stands while its failures are still being diagnosed.
    """
    import torch

    from conformance.spec_loader import load

    if request.threads:
        torch.set_num_threads(request.threads)
    backend = load(request.spec, request.input_shape)  # first: what is wrong with the SPEC comes at once
    if request.method:
        from conformance.method.budget import Budget
        from conformance.method.contract.runner import check_method

        budget = Budget.parse(request.budget) if request.budget else None
        return check_method(
            request.method, backend, seed=request.seed, budget=budget, progress=progress, only=request.only
        )
    from conformance.checks.runner import check

    if request.exact_below is not None:
        from conformance.checks.structure import structure_only

        report = structure_only(backend, request.exact_below, seed=request.seed)
        if report is not None:
            return report
    return check(
        backend,
        level=request.level,
        seed=request.seed,
        device=request.device,
        dtype=request.dtype,
        progress=progress,
        only=request.only,
        remove=request.remove,
        settled=settled,
    )


def check_isolated(
    request: Request,
    limits: Limits,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    on_trace: Callable[[str], None] | None = None,
) -> ModelReport:
    """Load and check the model in a child process.

    A child over a limit is killed and the report's outcome is ERROR with the reason, as it is when the
    child dies or meets an internal error; on_trace then gets the child's traceback or last output. A verdict
    that was there by then stands, and its diagnoses say why they were cut off.
    Raises UsageError when the model cannot be loaded and Cancelled once `cancel` is set.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = _start(request, output)
        try:
            message = _watch(process, request, limits, progress or _no_progress, cancel)
            if "ended" not in message:
                with contextlib.suppress(subprocess.TimeoutExpired):  # the result counts, not the farewell
                    process.wait(timeout=_FAREWELL_SECONDS)
        finally:
            _kill(process)
        printed = _tail(output)
    seconds = time.monotonic() - started
    if message.get("settled") is not None:
        return _cut_off(ModelReport.model_validate(message["settled"]), message["ended"])
    if "report" in message:
        return ModelReport.model_validate(message["report"])
    if "usage" in message:
        raise UsageError(message["usage"])
    reason = message.get("ended", "")
    if reason.startswith("the process ended") and printed:
        reason += f"; its last line: {printed.splitlines()[-1][:300]}"
    if on_trace is not None:
        on_trace(message.get("trace", printed))
    return failed(request, reason, seconds)


def failed(request: Request, reason: str, seconds: float = 0.0) -> ModelReport:
    """The report of a model that could not be checked to the end."""
    return ModelReport(
        spec=request.spec,
        outcome=Outcome.ERROR,
        reason=reason,
        level=request.level,
        seed=request.seed,
        seconds=seconds,
        method=MethodFacts(name=request.method, budget=request.budget) if request.method else None,
    )


def _cut_off(report: ModelReport, reason: str) -> ModelReport:
    """A report whose diagnoses are not finished, with the reason in them."""

    def explained(check: CheckResult) -> CheckResult:
        if check.diagnosis is None or check.diagnosis.problem != CUT_OFF:
            return check
        found = dataclasses.replace(check.diagnosis, problem=f"{CUT_OFF}: {reason}")
        return check.model_copy(update={"diagnosis": found})

    return report.model_copy(update={"checks": [explained(check) for check in report.checks]})


def _no_progress(_what: str, _done: int, _total: int) -> None:
    """Stands in when nobody watches."""


def _start(request: Request, output: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if request.threads:
        environment["OMP_NUM_THREADS"] = str(request.threads)
    process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
        [sys.executable, "-c", _CHILD, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        env=environment,
        start_new_session=os.name == "posix",  # Ctrl-C reaches the parent only, which then ends the child
    )
    if process.stdin is None:
        raise ConformanceError("the child process has no standard input")
    with contextlib.suppress(BrokenPipeError):  # it died at once: waiting for it tells why
        process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
        process.stdin.flush()
    return process


def _watch(
    process: subprocess.Popen[bytes],
    request: Request,
    limits: Limits,
    progress: Progress,
    cancel: threading.Event | None,
) -> dict[str, Any]:
    """Pass progress on until there is a result or a reason to end; {"ended": reason} for the latter."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
    next_look = time.monotonic()
    settled = None
    while True:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"{request.spec} was called off")
        if deadline is not None and time.monotonic() > deadline:
            return {"ended": f"timed out after {limits.seconds:g} s", "settled": settled}
        if limits.gib is not None and time.monotonic() >= next_look:
            next_look = time.monotonic() + _MEMORY_SECONDS
            if _resident(process.pid) > limits.gib * _GIB:
                return {"ended": f"out of memory: used over {limits.gib:g} GiB", "settled": settled}
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return {"ended": _how_it_ended(process), "settled": settled}
        message: dict[str, Any] = json.loads(line)
        if "settled" in message:
            settled = message["settled"]
            continue
        if "ended" in message:
            return {**message, "settled": settled}
        if "progress" not in message:
            return message
        what, done, total = message["progress"]
        progress(what, done, total)


def _read_lines(process: subprocess.Popen[bytes], lines: queue.Queue[bytes | None]) -> None:
    """Feed the child's lines to the queue, and None after the last."""
    if process.stdout is not None:
        with contextlib.suppress(ValueError):  # closed by _kill while waiting
            for line in process.stdout:
                lines.put(line)
    lines.put(None)


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """Why a child that closed its output without a result is gone."""
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "the process closed its output and gave no result"
    if code >= 0:
        return f"the process ended with exit code {code} and gave no result"
    names = {number.value: number.name for number in signal.Signals}
    hint = ", which the system also sends when memory runs out" if -code == getattr(signal, "SIGKILL", 9) else ""
    return f"the process ended by signal {-code} ({names.get(-code, 'unknown')}{hint})"


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> int:
    """Bytes of resident memory of the process and its children."""
    total = 0
    for member in _family(pid):
        with contextlib.suppress(psutil.Error):  # gone between the two calls
            total += member.memory_info().rss
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and its children, at whatever stage they are, and close the pipes."""
    if process.poll() is None:
        for member in _family(process.pid):
            with contextlib.suppress(psutil.Error):
                member.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _tail(output: IO[bytes], size: int = 20_000) -> str:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - size))
    return output.read().decode(errors="replace").strip()


def child() -> None:
    """The child's side: read the request, check, write the result. Started by check_isolated only."""
    results, requests = os.fdopen(os.dup(1), "w", encoding="utf-8"), os.dup(0)
    os.dup2(2, 1)  # what the model's code prints must not end up among the results
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    fields = json.loads(_read_line(requests))
    shape, only, remove = fields.pop("input_shape"), tuple(fields.pop("only")), tuple(fields.pop("remove"))
    request = Request(**fields, only=only, remove=remove, input_shape=tuple(shape) if shape is not None else None)
    threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        results.write(json.dumps(message) + "\n")
        results.flush()

    def progress(what: str, done: int, total: int) -> None:
        send({"progress": [what, done, total]})

    def settled(report: ModelReport) -> None:
        send({"settled": report.model_dump(mode="json")})

    try:
        send({"report": check_here(request, progress, settled).model_dump(mode="json")})
    except UsageError as error:
        send({"usage": str(error)})
    except Exception as error:  # noqa: BLE001 - the parent reports it as an internal error
        reason = f"internal error: {type(error).__name__}: {error}".splitlines()[0]
        send({"ended": reason, "trace": traceback.format_exc()})


def _read_line(descriptor: int) -> bytes:
    """One line, read unbuffered: a buffered reader that a thread waits on breaks Python's shutdown."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line


def _end_with_parent(requests: int) -> None:
    """The parent never writes again: the end of the stream means that it is gone."""
    os.read(requests, 1)
    os._exit(1)
