"""Models with their groups in another order: the same function, and each group is where it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import conformance as pc
from conformance.checks.subject import prepare
from conformance.errors import SelectionError
from conformance.spec_loader import load
from conformance.subnet.permute import exchangeable, permute, permuted, reorder, sources

NETS = [
    "conv-bn-relu",
    "dense-block",
    "residual",
    "attention-separate",
    "grouped-conv",
    "flatten-linear",
    "lstm",
    "glu-chunk",
]


@pytest.mark.parametrize("name", NETS)
def test_another_order_is_the_same_function(name):
    subject = prepare(load(f"handmade:{name}"), 0, "cpu", None)
    sets = exchangeable(subject.groups)
    assert sets
    order = reorder(subject.groups, sets, seed=3)
    assert sorted(order) == list(range(subject.groups.count + 1))
    twin = permuted(subject.model, subject.groups, order)
    changed = [n for n, tensor in subject.model.state_dict().items() if not torch.equal(tensor, twin.state_dict()[n])]
    assert changed
    args, kwargs = subject.inputs()
    pc.assert_equivalent(subject.model, twin, args, kwargs)


def test_a_group_is_where_the_order_says():
    subject = prepare(load("handmade:conv-bn-relu"), 0, "cpu", None)
    groups = subject.groups
    order = reorder(groups, exchangeable(groups), seed=1)
    twin = permuted(subject.model, groups, order)
    args, kwargs = subject.inputs()
    for place in range(1, groups.count + 1, 4):
        gone, moved = groups.select([int(order[place])]), groups.select([place])
        pc.assert_equivalent(pc.extract(subject.model, gone), pc.extract(twin, moved), args, kwargs)


def test_sources_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups, each = int(rng.integers(2, 6)), int(rng.integers(1, 4))
        labels = rng.permutation(
            np.concatenate([np.repeat(np.arange(1, groups + 1), each), np.zeros(2, dtype=np.int64)])
        )
        order = np.concatenate([[0], rng.permutation(groups) + 1])
        found = sources(labels, order)
        for group in range(groups + 1):
            here, there = np.flatnonzero(labels == group), np.flatnonzero(labels == order[group])
            assert found[here].tolist() == there.tolist()


def test_no_set_stays_as_it_is():
    subject = prepare(load("handmade:mlp"), 0, "cpu", None)
    sets = exchangeable(subject.groups)
    for seed in range(30):
        order = reorder(subject.groups, sets, seed)
        assert all((order[members] != members).any() for members in sets)


def test_masks_move_as_weights_do():
    labels = np.array([1, 2, 0])
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    moved = permute(mask, [labels, np.zeros(2, dtype=np.int64)], np.array([0, 2, 1]))
    assert moved.tolist() == [[False, False], [True, False], [True, True]]


def test_another_model_is_refused():
    subject = prepare(load("handmade:mlp"), 0, "cpu", None)
    with pytest.raises(SelectionError):
        permuted(nn.Linear(3, 4), subject.groups, reorder(subject.groups, exchangeable(subject.groups)))
