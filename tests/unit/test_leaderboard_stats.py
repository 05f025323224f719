"""The statistics of boards against brute force: every resample, every way to cut a list, every pair of points."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.leaderboard.stats import EXACT_UP_TO, MIN_SEEDS, better, bootstrap, paired, pareto, places, spread

figures = st.integers(-40, 40).map(lambda number: number / 8)


def brute_interval(values, confidence):
    """All n**n draws as fractions: the lowest and highest mean that the tails do not cut off."""
    exact = [Fraction(value) for value in values]
    means = sorted(sum(draw) / len(exact) for draw in itertools.product(exact, repeat=len(exact)))
    tail = Fraction(1 - Fraction(str(confidence))) / 2
    low = next(mean for number, mean in enumerate(means, 1) if Fraction(number, len(means)) >= tail)
    high = next(mean for number, mean in enumerate(reversed(means), 1) if Fraction(number, len(means)) >= tail)
    return float(low), float(high)


@given(st.lists(figures, min_size=1, max_size=5), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_interval_is_that_of_all_draws(values, confidence):
    found = bootstrap(values, confidence)
    low, high = brute_interval(values, confidence)
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-12)


@given(st.lists(figures, min_size=1, max_size=EXACT_UP_TO + 3))
def test_the_interval_of_the_opposite_is_the_opposite_interval(values):
    found, opposite = bootstrap(values), bootstrap([-value for value in values])
    if len(values) <= EXACT_UP_TO:
        assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    else:
        assert (opposite.low, opposite.high) == pytest.approx((-found.high, -found.low), abs=0.5)
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12


def test_drawn_resamples_agree_with_all_of_them(monkeypatch):
    values = [0.91, 0.93, 0.90, 0.95, 0.92, 0.97, 0.89]
    exact = bootstrap(values)
    from reports.leaderboard import stats

    monkeypatch.setattr(stats, "EXACT_UP_TO", 3)
    stats._resamples.cache_clear()
    drawn = bootstrap(values)
    assert len(stats._resamples(len(values))[0]) == stats.DRAWS
    stats._resamples.cache_clear()
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.002)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        bootstrap(values)


def test_three_seeds_say_what_their_signs_say():
    assert bootstrap([0.1, 0.2, 0.0001]).excludes_zero
    assert not bootstrap([0.1, 0.2, 0.0]).excludes_zero
    assert not bootstrap([0.1, 0.2, -0.0001]).excludes_zero
    assert bootstrap([-0.1, -0.2, -0.3]).excludes_zero


def test_the_same_seed_is_compared_with_the_same_seed():
    # Seeds differ by far more than methods do: only pairs show the difference.
    first = {0: 0.5, 1: 0.7, 2: 0.9}
    second = {seed: value - 0.01 for seed, value in first.items()}
    found = paired(first, second)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    shifted = {(seed + 1) % 3: value for seed, value in second.items()}
    assert not paired(first, shifted).excludes_zero


def test_too_few_common_seeds_say_nothing():
    assert MIN_SEEDS == 3
    assert paired({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0}) is None
    assert paired({0: 1.0, 1: 1.0, 2: 1.0}, {1: 0.0, 2: 0.0, 3: 0.0}) is None
    assert not better([{0: 1.0}, {0: 0.0}]).any()


@st.composite
def tables(draw):
    """Values of some methods over some seeds, a few missing."""
    count = draw(st.integers(1, 5))
    return [draw(st.dictionaries(st.integers(0, 4), figures, min_size=1, max_size=5)) for _ in range(count)]


@given(tables())
def test_a_method_is_ranked_below_another_only_where_they_are_told_apart(values):
    above = better(values)
    means = [spread(list(one.values()))[0] for one in values]
    found = places(means, above)
    for i, j in itertools.permutations(range(len(values)), 2):
        if found[i].rank < found[j].rank:
            assert above[i, j]
            assert means[i] >= means[j]
    assert [place.rank for place in found] == brute_ranks(means, above)
    for index, place in enumerate(found):
        assert place.low == 1 + sum(above[:, index])
        assert place.high == len(values) - sum(above[index, :])
        assert place.rank <= place.low <= place.high
        assert place.shared == sum(other.rank == place.rank for other in found)


def brute_ranks(means, above):
    """Of all ways to cut the sorted list into parts that are told apart, the one with the most parts."""
    count = len(means)
    order = sorted(range(count), key=lambda index: -means[index])
    best = []
    for size in range(count):
        for cuts in itertools.combinations(range(1, count), size):
            if all(above[i, j] for cut in cuts for i in order[:cut] for j in order[cut:]):
                best = cuts
    ranks = {
        index: 1 + max((cut for cut in best if cut <= position), default=0) for position, index in enumerate(order)
    }
    return [ranks[index] for index in range(count)]


def test_a_chain_of_neighbours_shares_a_rank():
    above = np.zeros((3, 3), dtype=bool)
    above[0, 2] = True
    found = places([3.0, 2.0, 1.0], above)
    assert [(place.rank, place.low, place.high) for place in found] == [(1, 1, 2), (1, 1, 3), (1, 2, 3)]


def test_a_rank_begins_only_where_all_above_are_told_apart_from_all_below():
    # The first has the best mean and the widest spread: only the second is surely better than the third.
    above = np.zeros((3, 3), dtype=bool)
    above[1, 2] = True
    found = places([3.0, 2.0, 1.0], above)
    assert [(place.rank, place.low, place.high) for place in found] == [(1, 1, 3), (1, 1, 2), (1, 2, 3)]


def test_equal_methods_share_everything():
    same = {0: 0.5, 1: 0.6, 2: 0.7}
    found = places([0.6, 0.6], better([same, same]))
    assert [(place.rank, place.shared, place.low, place.high) for place in found] == [(1, 2, 1, 2)] * 2


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nothing_dominates(points):
    dominated = [any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points) for cost, value in points]
    assert pareto(points) == [not one for one in dominated]


@given(st.lists(figures, min_size=2, max_size=9))
def test_mean_and_deviation_are_numpys(values):
    assert spread(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_one_value_has_no_deviation():
    assert spread([0.3]) == (0.3, None)
    with pytest.raises(ValueError, match="no value"):
        spread([])
