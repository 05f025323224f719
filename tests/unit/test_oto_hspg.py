"""HSPG's published settings: a penalty that falls, epsilon and upper group sparsity by kind of layer."""

from __future__ import annotations

import tomllib
from pathlib import Path

import oto_nets as on
import pytest
import torch
from torch import nn

import conformance as pc
from conformance.errors import UsageError
from conformance.method import Budget, Cost, Limits, Options, Recipe, run, units
from conformance.method.config import config
from conformance.method.registry import method, parse_options
from reference_impls.oto import HSPG, OTO, Quota, Rows
from reference_impls.oto.kinds import by_kind, read_by_kind, read_shares

ROOT = Path(__file__).resolve().parents[2]
X = torch.zeros(2, 3, 4, 4)


def net(seed=0):
    """Ten channels, and twenty neurons behind them."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4)
    )  # fmt: skip


def made(model, budget="groups=0.9", lr=0.1, **options):
    groups = pc.partition(pc.trace(model, X))
    quota = Quota(groups, Budget.parse(budget), Limits(), Cost(groups))
    return HSPG(torch.optim.SGD(model.parameters(), lr=lr), Rows(units(model, groups)), quota, **options)


def inwards(model, share):
    """Gradients that take every parameter this share of the way to zero, at an lr of 0.1."""
    for parameter in model.parameters():
        parameter.grad = 10 * share * parameter.detach().clone()


def gone(model):
    """How many channels and neurons are zero."""
    return tuple(int((layer.weight.flatten(1).norm(dim=1) == 0).sum()) for layer in (model[0], model[3]))


def test_the_penalty_falls_to_a_tenth_and_then_to_nothing():
    optimizer = made(net(), start_step=100, penalty=1e-3, penalty_milestones=(2, 4, 6))
    seen = []
    for _ in range(8):
        seen.append(optimizer.present_penalty)
        inwards(net(), 0)
        optimizer.step()
    assert seen == [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 0, 0]
    assert made(net(), start_step=0, penalty=1e-7).present_penalty == 1e-7  # nothing has fallen


def test_steps_have_the_present_penalty():
    models = [net(), net(), net()]
    penalties = [
        {"penalty": 0.1, "penalty_milestones": (1,)},
        {"penalty": 0.1},
        {"penalty": 0.01},
    ]
    optimizers = [made(model, start_step=9, **options) for model, options in zip(models, penalties, strict=True)]
    for model, optimizer in zip(models[:2], optimizers[:2], strict=True):
        on.give_gradients(model, 0)
        optimizer.step()
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    models[2].load_state_dict(models[0].state_dict())
    for model, optimizer in zip(models[::2], optimizers[::2], strict=True):
        on.give_gradients(model, 1)
        optimizer.step()
    assert torch.equal(models[0][0].weight, models[2][0].weight)


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        ({"conv": 0, "linear": 0.99}, (0, 18)),
        ({"channel": 0.99, "neuron": 0}, (9, 0)),
        ({"linear": 0.99, "neuron": 0.0}, (0, 0)),
        ({"conv": 0.99}, (9, 0)),
        (0.99, None),
        (0.0, (0, 0)),
    ],
)
def test_epsilon_by_kind_of_layer(epsilon, expected):
    """A twentieth of the way to zero is outside the half-space of 0.99 and inside that of 0."""
    model = net()
    optimizer = made(model, "groups=0.6", start_step=0, penalty=0.0, epsilon=epsilon)
    inwards(model, 0.05)
    optimizer.step()
    found = gone(model)
    if expected is None:
        assert sum(found) == 18
        assert min(found) > 0
    else:
        assert found == expected


def test_no_more_of_a_layer_leaves_than_its_upper_group_sparsity():
    chosen = set()
    for seed in range(5):
        model = net()
        upper = {"linear": 0.33, "conv": 0.5}
        options = {"penalty": 0.0, "epsilon": 0.9, "upper_group_sparsity": upper, "seed": seed}
        optimizer = made(model, start_step=0, **options)
        for _ in range(3):  # what is full stays so
            inwards(model, 0.2)
            optimizer.step()
            assert gone(model) == (5, 6)
        chosen.add(tuple(optimizer.zero_groups.tolist()))
    assert len(chosen) > 1


def test_room_that_is_left_is_filled():
    model = net()
    optimizer = made(model, start_step=0, penalty=0.0, epsilon=0.9, upper_group_sparsity=0.5)
    inwards(model, 0)
    model[0].weight.grad[:3] = 10 * 0.2 * model[0].weight.detach()[:3]
    model[0].bias.grad[:3] = 10 * 0.2 * model[0].bias.detach()[:3]
    optimizer.step()
    assert gone(model) == (3, 0)
    inwards(model, 0.2)
    optimizer.step()
    assert gone(model) == (5, 10)


def test_completion_keeps_to_it_and_says_what_it_cannot_reach():
    model = net()
    options = {"start_step": 0, "penalty": 0.0, "complete": (1, 4)}
    optimizer = made(model, "groups=0.5", upper_group_sparsity={"linear": 0.3}, **options)
    on.train(model, optimizer, 6, scale=1e-6)
    assert len(optimizer.zero_groups) == 15
    assert gone(model) == (9, 6)
    with pytest.raises(UsageError, match="cannot be reached"):
        made(model, "groups=0.6", upper_group_sparsity={"linear": 0.3}, **options)
    made(model, "groups=0.6", upper_group_sparsity={"linear": 0.3}, start_step=0)  # no target to be met


def test_epsilon_adapts_for_chosen_kinds_up_to_their_upper_group_sparsity():
    model = net()
    options = {"penalty": 0.0, "adapt_every": 2, "adapt_kinds": ("linear",), "upper_group_sparsity": {"linear": 0.25}}
    optimizer = made(model, start_step=0, epsilon={"conv": 0.2}, **options)
    seen = []
    for _ in range(12):
        inwards(model, 0.4)
        optimizer.step()
        seen.append((*gone(model), *(round(float(optimizer.epsilons[kind]), 6) for kind in (2, 3))))
    assert {conv for _, _, conv, _ in seen} == {0.2}
    assert [linear for *_, linear in seen[1:11:2]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert seen[11 - 2][:2] == (0, 0)  # 0.4 of the way to zero is beyond 0.6, not 0.5
    for _ in range(4):
        inwards(model, 0.5 + 0.2)
        optimizer.step()
    assert gone(model)[1] == 5
    assert float(optimizer.epsilons[3]) == 0.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epsilon": {"convs": 0.5}}, "did you mean conv"),
        ({"epsilon": {"conv": 1.0}}, "below 1"),
        ({"epsilon": {"conv": -0.5, "linear": 0.5}}, "at least 0"),
        ({"upper_group_sparsity": {"conv": 1.5}}, "between 0 and 1"),
        ({"adapt_kinds": ("layer",)}, "no kind of layer or group named 'layer'"),
        ({"penalty_milestones": (-1,)}, "at least 0"),
    ],
)
def test_what_cannot_be(options, reason):
    with pytest.raises(UsageError, match=reason):
        made(net(), start_step=0, **options)


def test_a_saved_state_goes_on_with_the_epsilons_by_kind():
    options = {"start_step": 0, "epsilon": {"linear": 0.9}, "penalty": 0.0}
    one, other = made(net(), **options), made(net(), start_step=0)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.epsilons, one.epsilons)


# -- as a method, and by the front door -------------------------------------------------------------------


def test_words_of_a_line_and_of_a_file():
    words = ["epsilon=conv=0,linear=0.99", "penalty_milestones=35/120, 40/120,0.375", "adapt_kinds=linear"]
    options = parse_options("hspg", [*words, "upper_group_sparsity=linear=0.9", "adapt=0"])
    assert method("hspg", **options).epsilon == "conv=0,linear=0.99"
    tables = {"model": "m", "method": "hspg", "budget": "groups=0.5", "options": options}
    assert method("hspg", **config(tables).options) == method("hspg", **options)
    assert method("hspg", **parse_options("hspg", ["epsilon=0.5"])).epsilon == 0.5
    assert read_by_kind("epsilon", "conv=0,linear=0.99") == {"conv": 0.0, "linear": 0.99}
    assert by_kind({"linear": 0.5, "head": 0.25}, 0.0).tolist() == [0.25, 0.5, 0, 0.5, 0, 0]
    assert [round(share * 1200) for share in read_shares("x", "35/120,0.375")] == [350, 450]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epsilon": "conv=much"}, "epsilon is a number, or numbers by kind"),
        ({"epsilon": "cov=0.5"}, "did you mean conv"),
        ({"penalty_milestones": "soon"}, "penalty_milestones are shares"),
        ({"penalty_milestones": "3/2"}, "between 0 and 1"),
        ({"upper_group_sparsity": "neuro=0.5"}, "did you mean neuron"),
        ({"adapt_kinds": "conv,linea"}, "did you mean linear"),
    ],
)
def test_wrong_words_are_said_at_once(options, reason):
    with pytest.raises(UsageError, match=reason):
        method("hspg", **options)


class Task:
    """Random pictures."""

    name, shape, classes, metric, digest = "random", (3, 4, 4), 4, "accuracy", "1"

    def __init__(self):
        self.x, self.y = torch.randn(64, 3, 4, 4), torch.arange(64) % 4

    def count(self, split):
        return 64

    def batches(self, split, size, *, seed=None, epoch=0):
        from conformance.method import Batch

        for part in torch.split(torch.arange(64), size):
            yield Batch((self.x[part],), {}, self.y[part])

    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target)

    def evaluate(self, model, split="test", size=256):
        return {"accuracy": 0.5}


def test_the_method_takes_a_released_setting(monkeypatch):
    """VGG-16 on CIFAR-10 with the penalty's schedule of the runs on ImageNet."""
    seen = {}
    original = HSPG.__init__

    def note(self, *parts, **options):
        seen.update(options)
        original(self, *parts, **options)

    monkeypatch.setattr(HSPG, "__init__", note)
    options = {"start": 0.25, "penalty": 1e-3, "epsilon": "conv=0,linear=0.99", "adapt": 0, "complete": False}
    options |= {"penalty_milestones": "35/120,40/120,45/120", "upper_group_sparsity": 1.0}
    recipe = Recipe(epochs=60, batch=32, lr=0.1, momentum=0.0)
    task = Task()
    budget = Budget.parse("groups=0.5")
    result = run(method("hspg", **options), net(), X, budget=budget, task=task, recipe=recipe, options=Options())
    assert result.verdict.equal
    assert seen["start_step"] == 30
    assert seen["penalty_milestones"] == [35, 40, 45]
    assert seen["epsilon"] == {"conv": 0.0, "linear": 0.99}
    assert seen["complete"] is None


def test_the_setting_in_the_documents_is_sound():
    text = (ROOT / "docs" / "oto.md").read_text(encoding="utf-8")
    block = text.split("```toml\n")[1].split("```")[0]
    tables = config({"model": "small:vgg11", **tomllib.loads(block)})
    made = method(tables.method, **tables.options)
    assert (made.epsilon, made.start, made.complete) == ("conv=0,linear=0.99", 0.25, False)
    assert tables.recipe.milestones == (0.25, 0.5, 0.75)


def test_the_front_door_takes_them():
    model = net()
    optimizer = OTO(model, X).hspg(
        lr=0.1, target_group_sparsity=0.6, start_pruning_step=0, lmbda=0.0, lmbda_milestones=(3,),
        epsilon={"linear": 0.99}, upper_group_sparsity={"linear": 0.5}, adapt_every=9, adapt_kinds=("linear",),
    )  # fmt: skip
    inwards(model, 0.05)
    optimizer.step()
    assert gone(model) == (0, 10)
    assert optimizer.penalty_milestones == (3,)
