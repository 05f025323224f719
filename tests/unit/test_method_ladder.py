"""The ladder and the budget against slow searches that follow the documented words, group by group."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_nets import NETS, X, built

import conformance as pc
from conformance.cost import predicted_parameters
from conformance.errors import UsageError
from conformance.method import Budget, Cost, Limits, ladder
from conformance.method.budget import solve
from conformance.method.ladder import SCOPES, removable

GROUPS = {name: pc.partition(pc.trace(built(name), X)) for name in NETS}
COSTS = {name: Cost(groups) for name, groups in GROUPS.items()}

nets = st.sampled_from(sorted(NETS))
scopes = st.sampled_from(SCOPES)
limits = st.builds(
    Limits,
    round_to=st.integers(1, 4),
    min_keep=st.integers(1, 4),
    protect=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
    ignore=st.sampled_from([(), ("*.bias",), ("fc*",), ("*2.weight",)]),
)
seeds = st.integers(0, 2**16)


def scored(groups: pc.Groups, seed: int) -> np.ndarray:
    """Scores with ties, and a few groups that must stay."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, groups.count + 1).astype(float)
    scores[rng.random(groups.count + 1) < 0.05] = np.inf
    return scores


def fitting(groups: pc.Groups, held: Limits) -> Limits:
    """Without the patterns that match nothing of this net."""
    kept = []
    for pattern in held.ignore:
        try:
            removable(groups, (pattern,))
        except UsageError:
            continue
        kept.append(pattern)
    return Limits(held.round_to, held.min_keep, held.protect, tuple(kept))


def axes(groups: pc.Groups) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for group in range(1, groups.count + 1):
        found.setdefault(int(groups.axis_of[group]), []).append(group)
    return found


def batches(groups: pc.Groups, scores: np.ndarray, held: Limits) -> list[list[int]]:
    """Per axis, lowest first: what leaves together so that every count is one the limits allow."""
    free = removable(groups, held.ignore)
    found = []
    for members in axes(groups).values():
        leaving = sorted((g for g in members if free[g] and scores[g] < np.inf), key=lambda g: (scores[g], g))
        least = max(held.min_keep, math.ceil(held.protect * len(members) - 1e-9), held.round_to)
        counts = [
            count
            for count in range(1, len(leaving) + 1)
            if (len(members) - count) % held.round_to == 0 and len(members) - count >= least
        ]
        start = 0
        for count in counts:
            found.append(leaving[start:count])
            start = count
    return found


@given(nets, scopes, limits, seeds)
def test_every_rung_keeps_the_limits(net, scope, held, seed):
    groups = GROUPS[net]
    held = fitting(groups, held)
    scores = scored(groups, seed)
    steps = ladder(groups, scores, scope=scope, limits=held)
    free = removable(groups, held.ignore)
    before: set[int] = set()
    for step in range(steps.steps + 1):
        now = set(steps.removed(step).tolist())
        assert before <= now
        assert (before < now) == (step > 0), "every rung removes something more"
        steps.selection(step)  # refuses what empties a dimension
        assert all(free[group] and scores[group] < np.inf for group in now)
        for members in axes(groups).values():
            gone = [group for group in members if group in now]
            kept = len(members) - len(gone)
            if gone:
                assert kept % held.round_to == 0
                assert kept >= held.min_keep
                assert kept >= held.protect * len(members) - 1e-9
            staying = [g for g in members if g not in now and free[g] and scores[g] < np.inf]
            assert all((scores[a], a) < (scores[b], b) for a in gone for b in staying), "an axis leaves in its order"
        before = now


@given(nets, scopes, limits, seeds)
def test_the_last_rung_removes_all_that_the_limits_allow(net, scope, held, seed):
    groups = GROUPS[net]
    held = fitting(groups, held)
    scores = scored(groups, seed)
    steps = ladder(groups, scores, scope=scope, limits=held)
    expected = {group for batch in batches(groups, scores, held) for group in batch}
    assert not groups.emptied(np.array(sorted(expected), dtype=np.int64)).size
    assert set(steps.removed(steps.steps).tolist()) == expected


@given(nets, limits, seeds)
def test_the_global_scope_takes_batches_by_their_highest_score(net, held, seed):
    groups = GROUPS[net]
    held = fitting(groups, held)
    scores = scored(groups, seed)
    steps = ladder(groups, scores, scope="global", limits=held)
    order = sorted(batches(groups, scores, held), key=lambda batch: (scores[batch[-1]], batch[-1]))
    gone: set[int] = set()
    for step, batch in enumerate(order, 1):
        gone |= set(batch)
        assert set(steps.removed(step).tolist()) == gone
    assert steps.steps == len(order)


@given(nets, limits, seeds)
def test_the_local_scope_takes_the_same_share_of_every_axis(net, held, seed):
    groups = GROUPS[net]
    held = fitting(groups, held)
    scores = scored(groups, seed)
    steps = ladder(groups, scores, scope="local", limits=held)
    width = {group: len(members) for members in axes(groups).values() for group in members}
    reached: list[tuple[float, list[int]]] = []
    for members in axes(groups).values():
        inside = [batch for batch in batches(groups, scores, held) if batch[0] in members]
        for batch, total in zip(inside, itertools.accumulate(map(len, inside)), strict=True):
            reached.append((total / width[batch[0]], batch))
    shares = sorted({share for share, _ in reached})
    assert steps.steps == len(shares)
    for step, share in enumerate(shares, 1):
        expected = {group for other, batch in reached if other <= share for group in batch}
        assert set(steps.removed(step).tolist()) == expected


@given(nets, seeds)
def test_the_isomorphic_scope_takes_the_same_share_of_every_class(net, seed):
    groups = GROUPS[net]
    scores = np.random.default_rng(seed).random(groups.count + 1)
    steps = ladder(groups, scores, scope="isomorphic")
    classes: dict[tuple, list[int]] = {}
    for members in axes(groups).values():
        where = set()
        for index, lines in groups.state.items():
            for dim, labels in enumerate(lines):
                if np.isin(labels, members).any():
                    name = next(name for name, value in groups.graph.names.items() if value == index)
                    role = (index, dim) in groups.producer_dims
                    where.add((index, name.rpartition(".")[2], len(lines), dim, role))
        key = (groups.kinds[members[0]], *sorted(place[1:] for place in where))
        classes.setdefault(key, []).extend(members)
    leaving = set(steps.removed(steps.steps).tolist())
    for step in range(1, steps.steps + 1):
        now = set(steps.removed(step).tolist())
        share = [len(now & set(members)) / len(leaving & set(members)) for members in classes.values()]
        reached = max(share)
        for part, members in zip(share, classes.values(), strict=True):
            size = len(leaving & set(members))
            assert part == math.floor(reached * size + 1e-9) / size
            ordered = sorted(leaving & set(members), key=lambda group: scores[group])
            assert now & set(members) == set(ordered[: len(now & set(members))])


def test_equal_scores_leave_by_group_number():
    groups = GROUPS["resnet"]
    steps = ladder(groups, np.zeros(groups.count + 1))
    flags = np.flatnonzero(removable(groups))
    first = steps.removed(5)
    assert first.tolist() == flags[:5].tolist()


def test_a_dimension_of_several_axes_keeps_its_last_to_leave():
    class Joined(torch.nn.Module):
        """Two parameters joined along the only dimension that the head reads: each axis alone might go."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = torch.nn.Linear(3, 2), torch.nn.Linear(3, 3), torch.nn.Linear(5, 2)

        def forward(self, x):
            return self.head(torch.cat([self.a(x), self.b(x)], 1).relu())

    groups = pc.partition(pc.trace(Joined(), torch.randn(2, 3)))
    for seed in range(20):
        scores = np.random.default_rng(seed).random(groups.count + 1)
        steps = ladder(groups, scores)
        for step in range(steps.steps + 1):
            steps.selection(step)


def test_batches_of_equal_scores_leave_in_the_order_of_their_axis():
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    groups = pc.partition(pc.trace(net, torch.randn(2, 2)))
    # By score: 6 and 1, then 2 and 3. The first pair has the largest number, and still leaves first.
    steps = ladder(groups, np.array([0, 5, 5, 5, 9, 9, 1]), limits=Limits(round_to=2))
    assert steps.removed(1).tolist() == [1, 6]
    assert steps.removed(2).tolist() == [1, 2, 3, 6]


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "named", "sentence"),
    [
        ([0.0, 1.0], {}, "need"),
        (None, {"scope": "nearby"}, "no 'nearby'"),
        (math.nan, {}, "are not numbers"),
        (None, {"limits": Limits(ignore=("stem.9",))}, "matches 'stem.9'"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, named, sentence):
    groups = GROUPS["resnet"]
    line = np.ones(groups.count + 1)
    if isinstance(scores, list):
        line = np.array(scores)
    elif scores is not None:
        line[1] = scores
    with pytest.raises(UsageError, match=sentence):
        ladder(groups, line, **named)


@pytest.mark.parametrize("wrong", [{"round_to": 0}, {"min_keep": 0}, {"protect": 1.1}, {"protect": -0.1}])
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError):
        Limits(**wrong)


@pytest.mark.parametrize("text", ["macs", "macs=half", "flops=0.5", "macs=1", "macs=-0.1", "macs=nan"])
def test_budgets_that_cannot_be_are_refused(text):
    with pytest.raises(UsageError):
        Budget.parse(text)


def test_a_budget_reads_as_it_is_written():
    assert str(Budget.parse("macs=0.5")) == "macs=0.5"
    assert Budget.parse("params=0") == Budget("params", 0.0)


# -- budgets ------------------------------------------------------------------------------------------


@given(nets, scopes, limits, seeds, st.sampled_from(["groups", "params", "macs"]), st.floats(0.001, 0.95))
def test_the_budget_is_met_and_the_rung_below_misses_it(net, scope, held, seed, kind, share):
    groups, cost = GROUPS[net], COSTS[net]
    steps = ladder(groups, scored(groups, seed), scope=scope, limits=fitting(groups, held))
    reached = [cost.removed(kind, steps.selection(step)) for step in range(steps.steps + 1)]
    assert reached == sorted(reached)
    budget = Budget(kind, share)
    if reached[-1] < share - 1e-12:
        with pytest.raises(UsageError, match=f"0 to {reached[-1]:.4f}"):
            solve(steps, budget, cost)
        return
    step = solve(steps, budget, cost)
    assert step == next(number for number, value in enumerate(reached) if value >= share - 1e-12)


@given(nets, seeds)
def test_costs_are_those_of_the_subnet(net, seed):
    groups, cost = GROUPS[net], COSTS[net]
    choice = groups.sample(0.5, seed=seed)
    subnet = pc.extract(built(net), choice)
    own = Cost(pc.partition(pc.trace(subnet, X)))
    assert cost.params(choice) == sum(parameter.numel() for parameter in subnet.parameters())
    assert cost.params(choice) == predicted_parameters(groups, choice)
    assert cost.macs(choice) == own.macs()
    assert cost.removed("groups", choice) == len(choice) / int(removable(groups).sum())


def test_latency_is_measured_once_for_each_selection():
    groups = GROUPS["resnet"]
    asked: list[object] = []

    def latency(choice):
        asked.append(choice)
        return 1 - len(choice) / (2 * groups.count)

    cost = Cost(groups, latency)
    steps = ladder(groups, np.arange(groups.count + 1.0))
    step = solve(steps, Budget("latency", 0.2), cost)
    assert cost.removed("latency", steps.selection(step)) >= 0.2
    assert cost.removed("latency", steps.selection(step - 1)) < 0.2
    number = len(asked)
    assert cost.removed("latency", steps.selection(step)) >= 0.2
    assert len(asked) == number
    with pytest.raises(UsageError, match="latency"):
        Cost(groups).time(steps.selection(1))
