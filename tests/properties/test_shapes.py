"""Nets whose sizes are drawn: every selection is exact, on the traced batch and on another."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, Net
from hypothesis import assume, given, note
from hypothesis import strategies as st

import conformance as pc
from conformance.strategies import selections
from conformance.subnet.tape_module import GraphSubnet


def built(net: Net) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pc.randomised(net.build().eval(), 0)


def for_another_batch(model: torch.nn.Module, choice: pc.Selection, x: torch.Tensor) -> torch.nn.Module:
    """The graph subnet of the same selection, traced on these inputs."""
    groups = pc.partition(pc.trace(model, x))
    return GraphSubnet(groups.graph, pc.Selection.from_json(choice.to_json(), groups))


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_every_selection_is_exact(family, data):
    net = data.draw(FAMILIES[family], label="net")
    model, x = built(net), net.inputs_of(2)
    groups = pc.partition(pc.trace(model, x))
    assume(groups.count)
    choice = data.draw(selections(groups), label="choice")
    full, subnet = pc.zero(model, choice), pc.extract(model, choice)
    note(f"a {pc.kind_of(subnet)} subnet without {choice.slices()}")
    pc.assert_equivalent(full, subnet, x, seed=5)
    other = net.inputs_of(3)
    if pc.kind_of(subnet) == "graph":
        subnet = for_another_batch(model, choice, other)
    pc.assert_equivalent(full, subnet, other, seed=6)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_the_number_of_parameters_is_the_predicted_one(family, data):
    """A single group takes with it what `removed_parameters` says, and its subnet has no more than the rest."""
    net = data.draw(FAMILIES[family], label="net")
    model = built(net)
    groups = pc.partition(pc.trace(model, net.inputs_of(2)))
    assume(groups.count)
    number = data.draw(st.integers(1, groups.count), label="group")
    subnet = pc.extract(model, groups.select([number]))
    left = sum(p.numel() for p in subnet.parameters())
    assert sum(p.numel() for p in model.parameters()) - left == groups.removed_parameters[number] > 0
