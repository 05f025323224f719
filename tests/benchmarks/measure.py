"""How the benchmarks measure: two sides in turn, the least time of each; and how they are written down.

Times are processor seconds of this process (one thread): what else the machine does counts little
that way. A round runs every side once, so that a slow phase meets all sides alike.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from conformance.backend import Backend, collections
from conformance.report.environment import environment

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class Clock:
    """Least seconds by name, over all rounds: processor time, on a GPU wall-clock time until it is done."""

    device: str = "cpu"
    least: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, function: Callable[[], Any]) -> Any:
        """Run the function on the clock and return its result."""
        start = self.now()
        result = function()
        seconds = self.now() - start
        self.least[name] = min(seconds, self.least.get(name, seconds))
        return result

    def now(self) -> float:
        """Seconds since some moment."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def __getitem__(self, name: str) -> float:
        return self.least[name]


def race(benchmark: Any, ours: Callable[[Clock], Any], theirs: Callable[[Clock], Any], rounds: int) -> Clock:
    """Both sides `rounds` times in turn, after one round that does not count. A side times its own parts.

    Neither side pays for collecting what the other left. The benchmark's own record is of our side.
    """
    ours(Clock())
    theirs(Clock())
    clock = Clock()

    def turn() -> None:
        gc.collect()
        theirs(clock)
        gc.collect()

    benchmark.pedantic(ours, args=(clock,), setup=turn, rounds=rounds)
    return clock


def backend_of(spec: str, shape: tuple[int, ...] | None = None) -> Backend:
    prefix, _, name = spec.partition(":")
    return collections()[prefix].get(name, shape)


def called(spec: str, shape: tuple[int, ...] | None) -> str:
    """A model at an input size, in a table."""
    return spec.partition(":")[2] + (f", {shape[-1]} px" if shape else "")


def built(backend: Backend) -> torch.nn.Module:
    """The model with its random weights, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backend.build().eval()


def inputs_of(backend: Backend, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return backend.inputs(batch, torch.Generator().manual_seed(0))


def seconds(value: float) -> str:
    """Two digits that count."""
    if value < 0.01:
        return f"{value * 1000:.2f} ms"
    return f"{value:.3f} s" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def against(ratio: float, goal: float) -> str:
    """A ratio with its goal, and whether it is met."""
    return f"{ratio:.3g} (goal {goal:g}{'' if ratio <= goal else ', missed'})"


def machine() -> str:
    """What the figures depend on."""
    found = environment()
    names = ("torch", "torchvision", "transformers", "torch-pruning", "torch-kirigami")
    versions = ", ".join(f"{name} {found[name]}" for name in names if name in found)
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{found['processors']} processors, {torch.get_num_threads()} thread, "
        f"{torch.backends.cpu.get_cpu_capability()}, Python {found['python'].split()[0]}, {versions}."
    )


def markdown(rows: list[dict[str, str]]) -> str:
    """A table with the columns of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(page: str, text: str) -> str:
    """The page with the text between the two marks, at its end when it has none."""
    before, begin, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
