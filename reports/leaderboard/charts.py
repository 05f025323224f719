"""Lines of figures over steps as the numbers an SVG needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 38
_MOST_POINTS = 240


@dataclass(frozen=True)
class Tick:
    """One mark of an axis: where in the picture, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One line in a picture of width x height; path is an SVG path, coordinates have one digit."""

    title: str
    path: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    first: str
    last: str
    steps: int
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def chart(title: str, line: Sequence[tuple[int, float]]) -> Chart | None:
    """A chart of (step, value); None without a finite value. Long lines become means of neighbours."""
    found = thinned([(step, value) for step, value in line if math.isfinite(value)])
    if not found:
        return None
    steps, values = [float(step) for step, _ in found], [value for _, value in found]
    low, high = _room(values)
    first, last = min(steps), max(*steps, min(steps) + 1)

    def x(step: float) -> float:
        return round(_LEFT + (step - first) / (last - first) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    places = [f"{x(step)} {y(value)}" for step, value in zip(steps, values, strict=True)]
    return Chart(
        title=title,
        # A single point is drawn as a short stroke.
        path="M" + "L".join(places) + ("h2" if len(places) == 1 else ""),
        across=tuple(Tick(x(at), f"{at:g}") for at in ticks(first, last, 4)),
        up=tuple(Tick(y(at), f"{at:g}") for at in ticks(low, high, 4)),
        first=f"{values[0]:.4g}",
        last=f"{values[-1]:.4g}",
        steps=int(last - first) + (len(places) > 1),
    )


def thinned(line: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most _MOST_POINTS points: neighbours become one at the last one's step with their mean."""
    width = max(1, math.ceil(len(line) / _MOST_POINTS))
    parts = [line[start : start + width] for start in range(0, len(line), width)]
    return [(part[-1][0], math.fsum(value for _, value in part) / len(part)) for part in parts]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most `most` + 1 of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10, 20) if times * power >= rough * (1 - 1e-9))
    start = math.ceil(low / step - 1e-9)
    count = math.floor((high - start * step) / step + 1e-9) + 1
    return [float(f"{(start + number) * step:.10g}") for number in range(count)]


def _room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        room = max(abs(low) * 0.1, 1e-6)
        return low - room, high + room
    return low - 0.04 * (high - low), high + 0.04 * (high - low)
