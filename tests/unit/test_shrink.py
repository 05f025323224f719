"""Delta debugging: what is left fails, nothing of it can be spared, and limits are kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.diagnosis.shrink import Limits, shrink

SMALL = st.lists(st.integers(0, 7), unique=True, min_size=1, max_size=8).map(sorted)


@given(SMALL, st.data())
def test_one_culprit_of_any_size_is_found(items, data):
    culprit = set(data.draw(st.lists(st.sampled_from(items), unique=True)))
    found = shrink(items, lambda part: culprit <= set(part))
    assert set(found.items) == culprit
    assert found.minimal


@given(SMALL, st.data())
def test_every_item_of_what_is_left_is_needed(items, data):
    """Any set of failing parts, by brute force: not only those that grow with their items."""
    parts = [part for size in range(len(items) + 1) for part in itertools.combinations(items, size)]
    failing = {*data.draw(st.lists(st.sampled_from(parts), max_size=40)), tuple(items)}
    found = shrink(items, failing.__contains__)
    assert found.items in failing
    assert found.minimal
    if len(found.items) > 1 or () in failing:
        for left_out in found.items:
            assert tuple(item for item in found.items if item != left_out) not in failing
    assert shrink(items, failing.__contains__) == found, "it is the same every time"


def test_few_trials_for_one_of_many():
    found = shrink(range(1000), lambda part: 617 in part)
    assert found.items == (617,)
    assert found.trials < 30


def test_trials_are_counted_and_limited():
    tried = []

    def fails(part):
        tried.append(part)
        return {3, 90} <= set(part)

    found = shrink(range(100), fails, Limits(trials=10))
    assert (found.trials, len(tried), found.minimal) == (10, 10, False)
    assert {3, 90} <= set(found.items)
    assert len(set(tried)) == len(tried), "nothing is tried twice"


def test_no_trial_begins_when_the_time_is_over():
    found = shrink(range(5), lambda part: pytest.fail("a trial"), Limits(seconds=0))
    assert (found.items, found.minimal, found.trials) == ((0, 1, 2, 3, 4), False, 0)


def test_each_step_is_told():
    steps = []
    shrink(range(16), lambda part: 5 in part, improved=lambda rest, trials: steps.append((rest, trials)))
    assert [len(rest) for rest, _ in steps] == [8, 4, 2, 1]
    assert [trials for _, trials in steps] == sorted({trials for _, trials in steps})
