"""The statistics of a board: spread over seeds, paired bootstrap, shared ranks, Pareto fronts. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

MIN_SEEDS = 3
"""With fewer seeds nothing is ranked."""
CONFIDENCE = 0.95
EXACT_UP_TO = 8
"""Up to so many seeds every resample is looked at (6435 different ones of 8); beyond it, DRAWS are drawn."""
DRAWS = 20_000


@dataclass(frozen=True)
class Interval:
    """A mean with the interval that a bootstrap gives it."""

    low: float
    mean: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference this interval is of is there."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Place:
    """rank is shared by methods that cannot be told apart, `shared` of them; low and high are the ranks possible.

    low is 1 + the number of methods that are surely better, high the number of all less those surely worse.
    """

    rank: int
    shared: int
    low: int
    high: int


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the latter with one value. Raises ValueError for no value."""
    if not values:
        raise ValueError("no value has no mean")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def bootstrap(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The percentile interval of the mean when `values` are drawn anew with replacement.

    low is the smallest resampled mean that at least a share (1 - confidence) / 2 of the resamples do not exceed,
    high its mirror image. Raises ValueError for no value and for one that is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError("a bootstrap needs finite values")
    counts, weights = _resamples(len(values))
    means = counts @ np.asarray(values, dtype=np.float64) / len(values)
    order = np.argsort(means, kind="stable")
    means, weights = means[order], weights[order]
    tail = (1 - confidence) / 2 * float(weights.sum())
    low = means[int(np.argmax(np.cumsum(weights) >= tail))]
    high = means[::-1][int(np.argmax(np.cumsum(weights[::-1]) >= tail))]
    return Interval(float(low), spread(values)[0], float(high))


@cache
def _resamples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each of `count` values is drawn in each resample, and how many of the equally likely draws it is."""
    if count > EXACT_UP_TO:
        drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=DRAWS)
        return drawn.astype(np.float64), np.ones(DRAWS)
    draws = itertools.combinations_with_replacement(range(count), count)
    counts = np.stack([np.bincount(chosen, minlength=count) for chosen in draws])
    ways = [math.factorial(count) // math.prod(math.factorial(int(times)) for times in row) for row in counts]
    return counts.astype(np.float64), np.asarray(ways, dtype=np.float64)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """The interval of first - second, the same seed compared with the same seed; None with fewer than MIN_SEEDS."""
    common = sorted(first.keys() & second.keys())
    if len(common) < MIN_SEEDS:
        return None
    return bootstrap([first[seed] - second[seed] for seed in common])


def better(values: Sequence[Mapping[int, float]]) -> np.ndarray:
    """Entry (i, j) says whether i is surely above j: the interval of their paired difference lies above 0."""
    count = len(values)
    above = np.zeros((count, count), dtype=bool)
    for i, j in itertools.combinations(range(count), 2):
        difference = paired(values[i], values[j])
        if difference is not None and difference.excludes_zero:
            above[i, j], above[j, i] = difference.low > 0, difference.high < 0
    return above


def places(means: Sequence[float], above: np.ndarray) -> list[Place]:
    """The places of methods with these means, higher being better; `above` is what `better` says of them.

    Sorted by mean, the list is cut wherever all methods before the cut are surely above all after it; what lies
    between two cuts shares the rank of its first. So a method is ranked below another only where the two are told
    apart, also along chains in which only neighbours are alike.
    """
    count = len(means)
    order = sorted(range(count), key=lambda index: -means[index])
    ranks = {}
    first = 0
    for position, index in enumerate(order):
        if above[np.ix_(order[:position], order[position:])].all():
            first = position
        ranks[index] = first + 1
    sizes = Counter(ranks.values())
    return [
        Place(rank, sizes[rank], 1 + int(above[:, index].sum()), count - int(above[index, :].sum()))
        for index, rank in sorted(ranks.items())
    ]


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, value) no other point dominates: none costs as little and is as good, one of both truly so."""
    best: dict[float, float] = {}
    for cost, value in points:
        best[cost] = max(value, best.get(cost, -math.inf))
    front = {}
    reached = -math.inf
    for cost in sorted(best):
        if best[cost] > reached:
            front[cost] = reached = best[cost]
    return [front.get(cost) == value for cost, value in points]
