"""ThiNet and LASSO channel pruning: moments against the layers themselves, orders against slow searches."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from method_nets import NETS, X, built, made, pruned

import conformance as pc
from reference_impls.baselines.channel_lasso import ChannelLasso, lasso, lasso_order
from reference_impls.baselines.features import Consumer, watch
from reference_impls.baselines.moments import axis_grams, moments, patches
from reference_impls.baselines.thinet import ThiNet, greedy

SMALL = {"batches": 1, "size": 8}
ALL = 10**6


def given(run, readers) -> dict[str, torch.Tensor]:
    """What each reader is given for the method's batches."""
    seen = {}
    batches = run.data.unlabelled(1, 8)
    watch(run, batches, readers, lambda reader, x: seen.__setitem__(reader.slices.name, x))
    return seen


@pytest.mark.parametrize("net", NETS)
def test_patches_are_what_the_layer_reads(net):
    """At all positions, weight times patches is the layer's output without its bias."""
    run = made(ThiNet(**SMALL), built(net))
    found = moments(run, run.data.unlabelled(1, 8), ALL)
    seen = given(run, [item.reader for item in found])
    for item in found:
        x = seen[item.reader.slices.name]
        read = patches(item.reader, x, ALL, torch.Generator()).double()
        made_of = torch.einsum("gon,sgn->sgo", item.weight, read).flatten(1)
        module = copy.deepcopy(item.reader.module).double()
        if module.bias is not None:
            module.bias.data.zero_()
        linear = isinstance(module, torch.nn.Linear)
        output = module((x.movedim(1, -1) if linear else x).double())
        output = output.reshape(-1, output.shape[-1]) if linear else output.movedim(1, -1).flatten(0, -2)
        assert torch.allclose(made_of, output.detach(), atol=1e-9)
        second = torch.einsum("sgi,sgj->gij", read, read) / read.shape[0]
        assert torch.allclose(item.inputs, second)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Conv1d(4, 3, 3, stride=2, padding=1),
        torch.nn.Conv2d(4, 6, (3, 2), dilation=2, padding="same", padding_mode="reflect", groups=2),
        torch.nn.Conv3d(4, 3, 2, padding=(1, 0, 1)),
    ],
)
def test_patches_of_every_kind_of_convolution(module):
    size = module.weight.ndim - 2
    x = torch.randn(3, 4, *[6] * size)
    slices = type("S", (), {"groups": np.zeros(module.weight.shape[1]), "name": "w", "dim": 1})
    read = patches(Consumer(slices, module), x, ALL, torch.Generator())
    weight = module.weight.reshape(module.groups, -1, read.shape[2])
    output = (module(x) - module.bias.reshape(-1, *[1] * size)).movedim(1, -1).flatten(0, -2)
    assert torch.allclose(torch.einsum("gon,sgn->sgo", weight, read).flatten(1), output, atol=1e-5)
    some = patches(Consumer(slices, module), x, 2, torch.Generator().manual_seed(0))
    assert some.shape == (6, *read.shape[1:])
    for row in some:
        assert any(torch.equal(row, other) for other in read)


@pytest.mark.parametrize("net", NETS)
def test_inner_products_are_those_of_the_channels_contributions(net):
    """With only one group's input left, a reader's output is that group's contribution."""
    run = made(ThiNet(**SMALL), built(net))
    found = moments(run, run.data.unlabelled(1, 8), ALL)
    seen = given(run, [item.reader for item in found])
    expected: dict[int, np.ndarray] = {}
    lines = axis_grams(run, found)
    for axis, (numbers, _) in lines.items():
        total = np.zeros((numbers.size, numbers.size))
        for item in found:
            x = seen[item.reader.slices.name]
            channel = item.reader.slices.groups[np.arange(x.shape[1]) % item.reader.size]
            read = [
                torch.einsum(
                    "gon,sgn->sgo",
                    item.weight,
                    patches(
                        item.reader,
                        x * torch.from_numpy(channel == group).reshape(1, -1, *[1] * (x.ndim - 2)),
                        ALL,
                        torch.Generator(),
                    ).double(),
                )
                for group in numbers
            ]
            # A channel group of a convolution has an output of its own, where contributions do not meet.
            for a, b in itertools.product(range(numbers.size), repeat=2):
                total[a, b] += float((read[a] * read[b]).sum()) / read[a].shape[0]
        expected[axis] = total
    assert expected
    for axis, (_, gram) in lines.items():
        assert np.allclose(gram.numpy(), expected[axis], atol=1e-8)


def test_greedy_takes_what_adds_least_to_what_is_lost():
    rng = np.random.default_rng(0)
    for size in (1, 2, 6):
        columns = rng.normal(size=(20, size))
        gram = columns.T @ columns
        left, lost, expected = list(range(size)), np.zeros(20), np.zeros(size)
        for place in range(1, size + 1):
            costs = [np.square(lost + columns[:, other]).sum() for other in left]
            chosen = left.pop(int(np.argmin(costs)))
            lost += columns[:, chosen]
            expected[chosen] = place
        assert greedy(gram).tolist() == expected.tolist()


def test_channels_that_contribute_nothing_share_a_place():
    """In which order they come must not depend on how channels are numbered."""
    columns = np.random.default_rng(0).normal(size=(20, 5))
    columns[:, [1, 3]] = 0
    place = greedy(columns.T @ columns)
    assert place[1] == place[3] == place.min()
    assert sorted(place[[0, 2, 4]]) == [3, 4, 5]
    order = np.array([4, 3, 0, 2, 1])
    assert (greedy((columns.T @ columns)[order][:, order]) == place[order]).all()


def test_lasso_meets_its_conditions():
    """At the minimum the gradient is the penalty where a coefficient is not zero, and below it elsewhere."""
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(40, 8))
    gram = columns.T @ columns
    target = gram.sum(1)
    top = np.abs(target).max()
    zero = 0
    for share in (0.9, 0.5, 0.1, 0.01):
        beta = lasso(gram, target, share * top, np.zeros(8), iterations=5000)
        slope = target - gram @ beta
        on = beta != 0
        zero += int((~on).sum())
        assert np.allclose(slope[on], share * top * np.sign(beta[on]), rtol=1e-3)
        assert (np.abs(slope[~on]) <= share * top * (1 + 1e-6)).all()
    assert zero


def test_the_lasso_order_is_by_strength_where_channels_do_not_meet():
    strength = np.array([3.0, 0.0, 1.0, 2.0, 0.5])
    score = lasso_order(np.diag(strength))
    assert np.argsort(score).tolist() == np.argsort(strength).tolist()
    assert score[1] == 0
    assert lasso_order(np.zeros((3, 3))).tolist() == [0, 0, 0]


def outputs(run, decision, method) -> float:
    """How far the readers' outputs are from the dense ones, summed, each given the dense model's inputs."""
    dense = moments(run, run.data.unlabelled(method.batches, method.size), method.positions)
    weights = run.state.get("refit", {})
    total = 0.0
    for item in dense:
        kept = torch.from_numpy(~decision.gone[item.reader.slices.groups]).repeat_interleave(item.kernel)
        new = weights.get(item.reader.slices.name)
        weight = item.weight if new is None else new.double().reshape(item.weight.shape)
        change = item.weight - weight * kept
        total += float(torch.einsum("gon,gnm,gom->", change, item.inputs, change))
    return total


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", [ThiNet, ChannelLasso])
def test_refitting_brings_outputs_nearer_and_stays_exact(net, kind):
    method = kind(refit=True, **SMALL)
    run = made(method, built(net))
    decision = method.decide(run)
    refitted = outputs(run, decision, method)
    assert run.state["refit"]
    run.state.clear()
    assert refitted < 0.999 * outputs(run, decision, method)
    found = pruned(method, built(net))
    dense = dict(built(net).named_parameters())
    changed = [
        name
        for name, parameter in found.model.named_parameters()
        if bool(((parameter != dense[name]) & (parameter != 0)).any())
    ]
    assert changed
    assert set(changed) <= {item.reader.slices.name for item in moments(run, run.data.unlabelled(1, 8), 1)}


def test_nothing_is_refitted_where_nothing_leaves():
    run = made(ChannelLasso(**SMALL), built("resnet"))
    assert run.method._refits(run, run.groups.select([])) == {}


def test_a_tied_weight_is_not_refitted():
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (
                torch.nn.Conv2d(3, 5, 3),
                torch.nn.Conv2d(5, 5, 1),
                torch.nn.Conv2d(5, 5, 1),
            )
            self.last.weight = self.second.weight
            self.fc = torch.nn.Linear(5, 4)

        def forward(self, x):
            return self.fc(self.last(self.second(self.first(x).relu()).relu()).relu().mean((2, 3)))

    torch.manual_seed(0)
    run = made(ChannelLasso(**SMALL), Tied())
    choice = run.groups.sample(0.5, seed=0)
    assert set(run.method._refits(run, choice)) <= {"fc.weight"}
    found = pruned(ChannelLasso(**SMALL), Tied(), budget="groups=0.3")
    assert pc.equivalent(found.model, found.subnet, (X,), oracle="field")
