"""A budget out of reach is refused before anything is trained, and none that some order of leaving could meet."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_nets import NETS
from test_method_ladder import COSTS, GROUPS, fitting, limits, scored, seeds

from conformance.errors import UsageError
from conformance.method import Budget, Limits, Options, Recipe, ladder, method, run
from conformance.method.ladder import SCOPES
from conformance.method.reach import check_reach
from tests.unit.toy import Fade, Rounds, ToyTask, convnet, images

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
        (named("early-bird"), "groups=0.99"),
        (named("bn-scale-l1"), "groups=0.99"),
        (named("group-lasso"), "groups=0.99"),
        (named("structured-ticket"), "groups=0.99"),
        (named("lottery-ticket"), "weights=0.99999"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_budget_out_of_reach_ends_before_data_is_touched(made, budget, tmp_path):
    recipe = Recipe(epochs=1, batch=32, dense_epochs=1)
    options = Options(folder=tmp_path, every=0.0, measure=True)
    with pytest.raises(UsageError, match=r"cannot be reached: this model and these limits allow 0 to 0\.\d+"):
        run(made, convnet(), images(), budget=Budget.parse(budget), task=Untouched(), recipe=recipe, options=options)
    assert not list(tmp_path.iterdir())
    less = Budget(Budget.parse(budget).kind, 0.25)
    done = run(made, convnet(), images(), budget=less, task=ToyTask(), recipe=recipe, options=options)
    assert done.holds


def test_protected_weights_count():
    made, held = named("magnitude"), Limits(protect=0.5)
    with pytest.raises(UsageError, match=r"weights=0.6 cannot be reached: .* allow 0 to 0\.5000"):
        run(made, convnet(), images(), budget=Budget("weights", 0.6), limits=held)
    assert run(made, convnet(), images(), budget=Budget("weights", 0.5), limits=held).holds
