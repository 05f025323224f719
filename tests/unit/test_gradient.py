"""The gradient oracle: equal for subnets, different for what only looks the same going forward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.backend import collections
from conformance.equivalence import gradient
from conformance.errors import UsageError

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Batch norm in training mode, dropout of every kind, a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)
        self.mix, self.last = nn.Conv2d(10, 10, 1), nn.LayerNorm(10)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(10, 4)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        y = y + nn.functional.dropout2d(self.mix(y), 0.3, self.training)
        return self.head(self.drop(self.last(y.mean((2, 3)))))


@pytest.fixture
def pair():
    net = pc.randomised(Net().eval())
    groups = pc.partition(pc.trace(net, X))
    choice = groups.sample(0.5, seed=1)
    return choice, pc.zero(net, choice), pc.extract(net, choice)


def verdict(pair, subnet=None, **options):
    choice, full, own = pair
    return pc.equivalent(full, subnet or own, X, oracle="gradient", choice=choice, **options)


def test_a_subnet_trains_as_the_zeroed_model(pair):
    found = verdict(pair)
    assert found.equal, found.reason
    assert found.details == {"mode": "training", "steps": 3}
    kept = sum(parameter.numel() for parameter in pair[2].parameters())
    assert found.compared >= 2 * kept - 10  # gradients, and parameters after the steps


def test_nothing_of_the_callers_changes(pair):
    held = [copy.deepcopy(module.state_dict()) for module in pair[1:]]
    random = torch.get_rng_state()
    verdict(pair)
    assert torch.equal(random, torch.get_rng_state())
    for module, state in zip(pair[1:], held, strict=True):
        assert not module.training
        assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


class TestFaults:
    """The first two compute the same in evaluation mode: only training tells them apart."""

    def test_a_gradient_that_is_cut_off(self, pair):
        wrong = copy.deepcopy(pair[2])
        wrong.mix.register_forward_hook(lambda module, args, out: out.detach() + 0 * out)
        pc.assert_equivalent(pair[1], wrong, X)
        found = verdict(pair, wrong)
        assert not found.equal
        assert found.reason.startswith("gradient of ")

    def test_a_norm_that_forgets_to_train(self, pair):
        wrong = copy.deepcopy(pair[2])
        wrong.norm.train = lambda mode=True: wrong.norm
        pc.assert_equivalent(pair[1], wrong, X)
        assert not verdict(pair, wrong).equal

    def test_one_weight_moved(self, pair):
        wrong = copy.deepcopy(pair[2])
        wrong.head.weight.data[0, 0] += 1e-3
        assert not verdict(pair, wrong).equal

    def test_a_parameter_that_is_frozen_for_good(self, pair):
        wrong = copy.deepcopy(pair[2])
        weight = wrong.mix.weight.detach()
        del wrong.mix.weight
        wrong.mix.register_buffer("weight", weight)
        found = verdict(pair, wrong)
        assert found.reason.startswith("gradient of mix.weight is missing")


def test_slices_that_are_not_put_back_to_zero_are_another_training(pair, monkeypatch):
    """The removed slices of the full model would learn: the reference must be the masked training."""
    monkeypatch.setattr(gradient, "zero_", lambda model, choice: None)
    assert not verdict(pair).equal


def test_a_graph_is_compared_in_evaluation_mode():
    class Literal(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)).reshape(-1, 2, 6).reshape(-1, 12))

    net, x = pc.randomised(Literal().eval()), torch.randn(4, 8)
    choice = pc.partition(pc.trace(net, x)).sample(0.5)
    subnet = pc.extract(net, choice)
    found = pc.equivalent(pc.zero(net, choice), subnet, x, oracle="gradient", choice=choice)
    assert found.equal, found.reason
    assert found.details["mode"] == ("evaluation" if pc.kind_of(subnet) == "graph" else "training")


def test_it_needs_the_selection(pair):
    with pytest.raises(UsageError, match="needs the selection"):
        pc.equivalent(pair[1], pair[2], X, oracle="gradient")


@pytest.mark.parametrize("name", collections()["handmade"].names())
def test_every_handmade_net(name):
    backend = collections()["handmade"].get(name)
    torch.manual_seed(0)
    net = pc.randomised(backend.build().eval())
    args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
    choice = pc.partition(pc.trace(net, args, kwargs)).sample(0.5)
    found = pc.equivalent(pc.zero(net, choice), pc.extract(net, choice), args, kwargs, oracle="gradient", choice=choice)
    assert found.equal, found.reason
