"""A budget out of reach is refused before anything is trained, and none that some order of leaving could meet."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_nets import NETS, X
from test_method_ladder import COSTS, GROUPS, fitting, limits, scored, seeds

from conformance.cost import predicted_flops, predicted_parameters
from conformance.errors import UsageError
from conformance.method import Budget, Ceiling, Cost, Limits, Options, Recipe, ladder, method, parse_budget, run
from conformance.method.budget import solve
from conformance.method.ladder import SCOPES
from conformance.method.reach import check_reach
from tests.unit.toy import Fade, Norm, Rounds, ToyTask, convnet, images

KINDS = ("groups", "params", "macs")


@given(
    net=st.sampled_from(sorted(NETS)), scope=st.sampled_from(SCOPES), held=limits, kind=st.sampled_from(KINDS),
    seed=seeds,
)  # fmt: skip
def test_nothing_that_a_ranking_reaches_is_refused(net, scope, held, kind, seed):
    groups, held = GROUPS[net], fitting(GROUPS[net], held)
    steps = ladder(groups, scored(groups, seed), scope=scope, limits=held)
    share = COSTS[net].removed(kind, steps.selection(steps.steps))
    check_reach(Budget(kind, share), groups, COSTS[net], held)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_met_where_the_groups_of_an_axis_are_alike(kind):
    """Both hold for such a net: what a ranking reaches is taken, and what is a little more is refused."""
    groups, cost = GROUPS["resnet"], COSTS["resnet"]
    for held in (Limits(), Limits(min_keep=3), Limits(round_to=4), Limits(protect=0.3)):
        steps = ladder(groups, np.arange(groups.count + 1), limits=held)
        most = cost.removed(kind, steps.selection(steps.steps))
        check_reach(Budget(kind, most), groups, cost, held)
        with pytest.raises(UsageError, match=f"cannot be reached: .* allow 0 to {most:.4f}"):
            check_reach(Budget(kind, most + 1e-4), groups, cost, held)


@dataclasses.dataclass(frozen=True)
class Untouched(ToyTask):
    """A task whose samples may not be asked for."""

    def batches(self, *_, **__):
        raise AssertionError("data was read")

    def evaluate(self, *_, **__):
        raise AssertionError("the model was measured")


def named(name: str, **options):
    return method(name, **options)


@pytest.mark.parametrize(
    ("made", "budget"),
    [
        (Fade(), "groups=0.99"),
        (Rounds(), "macs=0.99"),
        (Rounds(), "params=0.999"),
        (named("slimming"), "groups=0.99"),
        (named("early-bird", window=2), "groups=0.99"),
        (named("bn-scale-l1"), "groups=0.99"),
        (named("group-lasso"), "groups=0.99"),
        (named("structured-ticket"), "groups=0.99"),
        (named("lottery-ticket"), "weights=0.99999"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_budget_out_of_reach_ends_before_data_is_touched(made, budget, tmp_path):
    recipe = Recipe(epochs=3, batch=32, dense_epochs=1)
    options = Options(folder=tmp_path, every=0.0, measure=True)
    with pytest.raises(UsageError, match=r"cannot be reached: this model and these limits allow 0 to 0\.\d+"):
        run(made, convnet(), images(), budget=Budget.parse(budget), task=Untouched(), recipe=recipe, options=options)
    assert not list(tmp_path.iterdir())
    less = Budget(Budget.parse(budget).kind, 0.25)
    done = run(made, convnet(), images(), budget=less, task=ToyTask(), recipe=recipe, options=options)
    assert done.holds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", sorted(NETS))
def test_a_ceiling_is_kept_to_the_last_unit(net, kind):
    """At what a rung leaves that rung is enough; at one less it is not. Counted without `Cost.removed`."""
    groups, cost = GROUPS[net], COSTS[net]
    steps = ladder(groups, np.arange(groups.count + 1))
    counted = {
        "groups": lambda choice: groups.count - len(choice),
        "params": lambda choice: predicted_parameters(groups, choice),
        "macs": lambda choice: predicted_flops(groups, choice) / 2 / X.shape[0],
    }[kind]
    for step in range(1, steps.steps + 1, max(1, steps.steps // 7)):
        left = counted(steps.selection(step))
        assert left == int(left)
        reached = solve(steps, Ceiling(kind, int(left)).share(cost), cost)
        assert reached <= step
        assert counted(steps.selection(reached)) == left
        if step < steps.steps and left > 1:
            beyond = solve(steps, Ceiling(kind, int(left) - 1).share(cost), cost)
            assert counted(steps.selection(beyond)) < left


def test_a_ceiling_above_the_model_removes_nothing():
    assert Ceiling("params", 10**9).share(COSTS["resnet"]) == Budget("params", 0.0)


@pytest.mark.parametrize("driver", [Norm(), Fade(), Rounds()], ids=lambda made: made.name)
def test_every_driver_keeps_a_ceiling(driver):
    task = None if driver.name == "norm" else ToyTask()
    recipe = Recipe(epochs=1, batch=32)
    for text in ("params<=700", "macs<=2e4", "groups<=9"):
        result = run(driver, convnet(), images(), budget=parse_budget(text), task=task, recipe=recipe)
        cost, asked = Cost(result.decision.groups), Ceiling.parse(text)
        assert result.holds
        assert cost.size(asked.kind, result.decision) <= asked.left < cost.size(asked.kind)
        assert result.budget == asked.share(cost)
        assert result.removed[asked.kind] >= result.budget.remove - 1e-12
    assert (
        sum(p.numel() for p in run(Norm(), convnet(), images(), budget=Ceiling("params", 700)).subnet.parameters())
        <= 700
    )


def test_multiply_adds_are_of_one_sample():
    few, many = (run(Norm(), convnet(), images(batch), budget=Ceiling("macs", 20000)) for batch in (1, 6))
    assert few.budget == many.budget
    assert few.decision.removed == many.decision.removed


def test_a_ceiling_out_of_reach_is_refused_with_the_numbers():
    with pytest.raises(UsageError, match=r"groups<=1 cannot be reached: this model and these limits allow 2 to 20"):
        run(Fade(), convnet(), images(), budget=Ceiling("groups", 1), task=Untouched())
    result = run(Norm(), convnet(), images(), budget=Ceiling("groups", 2))
    assert len(result.decision) == 18


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("macs<=", "is no budget: KIND<=NUMBER"),
        ("macs<=x", "is no budget: KIND<=NUMBER"),
        ("macs<=0.5", "is no budget: KIND<=NUMBER"),
        ("macs<=inf", "is no budget: KIND<=NUMBER"),
        ("macs<=nan", "is no budget: KIND<=NUMBER"),
        ("macs<=0", "at least one of the macs is left"),
        ("params<=-3", "at least one of the params is left"),
        ("latency<=2", "a number of groups, params or macs, not of 'latency'"),
        ("weights<=2", "a number of groups, params or macs, not of 'weights'"),
        ("flops<=2", "a number of groups, params or macs, not of 'flops'"),
        ("macs<0.5", "is no budget: KIND=SHARE"),
    ],
)
def test_what_is_no_ceiling_is_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        parse_budget(text)


def test_a_ceiling_reads_as_it_is_written():
    for text in ("macs<=400000000", "params<=1000000", "groups<=3"):
        assert str(parse_budget(text)) == text
    assert parse_budget("macs<=4e8") == Ceiling("macs", 400_000_000)
    assert parse_budget("macs=0.5") == Budget("macs", 0.5)


def test_a_run_with_another_ceiling_is_another_run(tmp_path):
    recipe = Recipe(epochs=2, batch=32)

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError

    def go(left: int, **more):
        options = Options(folder=tmp_path, every=0.0)
        return run(Fade(), convnet(), images(), budget=Ceiling("params", left), task=ToyTask(), recipe=recipe,
                   options=options, **more)  # fmt: skip

    with pytest.raises(RuntimeError):
        go(700, progress=stop)
    with pytest.raises(UsageError, match="it has budget params<=700, this one budget params<=701"):
        go(701)
    assert go(700).holds


def test_protected_weights_count():
    made, held = named("magnitude"), Limits(protect=0.5)
    with pytest.raises(UsageError, match=r"weights=0.6 cannot be reached: .* allow 0 to 0\.5000"):
        run(made, convnet(), images(), budget=Budget("weights", 0.6), limits=held)
    assert run(made, convnet(), images(), budget=Budget("weights", 0.5), limits=held).holds
