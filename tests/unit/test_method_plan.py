"""What the host adds to a method: a plan without the rest of the run, and masks that outlast fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from conformance.errors import UsageError
from conformance.method import Budget, DataNeed, Driver, Facts, Masks, Method, Options, Recipe, plan, run
from conformance.method.contract.synthetic import synthetic
from reference_impls.baselines.l1 import L1
from reference_impls.baselines.random import Random

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@dataclass(frozen=True)
class Halved(Method):
    """Masks the smaller half of each weight matrix."""

    facts: ClassVar[Facts] = Facts(
        name="halved", summary="half of every matrix", driver=Driver.POST, data=DataNeed.NONE, paper="none",
        granularity="weight", exactness="masked", budgets=("weights",),
    )  # fmt: skip

    def decide(self, run):
        return Masks({name: w.abs() > w.abs().median() for name, w in run.model.named_parameters() if w.ndim == 2})


def test_a_plan_is_what_a_run_decides_and_leaves_the_weights():
    model, budget = net(), Budget("groups", 0.5)
    state = torch.get_rng_state()
    found, whole = plan(L1(), model, X, budget=budget), run(L1(), model, X, budget=budget)
    assert found.decision.removed == whole.decision.removed
    assert len(found.decision) == 4
    assert all(torch.equal(a, b) for a, b in zip(found.run.model.parameters(), model.parameters(), strict=True))
    assert found.run.scores is not None
    assert found.run.scores.shape == (9,)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_plan_refuses_what_a_run_refuses():
    with pytest.raises(UsageError, match="takes budgets in weights"):
        plan(Halved(), net(), X, budget=Budget("macs", 0.5))


def test_random_declares_that_it_draws():
    plans = [
        plan(Random(), net(), X, budget=Budget("groups", 0.5), options=Options(seed=seed)).decision.removed
        for seed in (0, 0, 1)
    ]
    assert Random.facts.random
    assert plans[0] == plans[1] != plans[2]


def test_fine_tuning_keeps_masked_weights_at_zero():
    model = net()
    task = synthetic(model, lambda batch, generator: ((torch.randn(batch, 4, generator=generator),), {}), 0)
    recipe = Recipe(batch=8, lr=0.1, finetune_epochs=2, finetune_lr=0.1)
    found = run(Halved(), model, X, budget=Budget("weights", 0.5), task=task, recipe=recipe)
    assert isinstance(found.decision, Masks)
    assert 0 < found.decision.density < 1
    assert found.decision.holds(found.subnet)
    assert not torch.equal(found.subnet[0].weight, found.model[0].weight)  # it did train
