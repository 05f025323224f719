"""Selections of the handmade nets: exact, repeatable as text, joined in any order, true of the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import conformance as pc
from backends.handmade import collection
from conformance.backend import Backend, Inputs
from conformance.errors import SelectionError
from conformance.strategies import selections
from conformance.subnet.state import tensor_at
from conformance.subnet.tape_module import GraphSubnet

# There are about a hundred nets: a profile's number of examples is shared by them.
FEW = settings(max_examples=max(2, settings.default.max_examples // 4))
FEWER = settings(max_examples=max(2, settings.default.max_examples // 8))
each_net = pytest.mark.parametrize("name", collection.names())


@dataclass(frozen=True)
class Subject:
    backend: Backend
    model: torch.nn.Module
    groups: pc.Groups

    def inputs(self, batch: int = 2) -> Inputs:
        return self.backend.inputs(batch, torch.Generator().manual_seed(batch))


@cache
def subject(name: str) -> Subject:
    backend = collection.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = pc.randomised(backend.build().eval(), 0)
    groups = pc.partition(pc.trace(model, *backend.inputs(2, torch.Generator().manual_seed(2))))
    assert groups.count
    return Subject(backend, model, groups)


def exact(full: torch.nn.Module, subnet: torch.nn.Module, inputs: Inputs, seed: int) -> None:
    args, kwargs = inputs
    pc.assert_equivalent(full, subnet, args, kwargs, oracle="field", seed=seed)


@each_net
@given(data=st.data())
@FEW
def test_the_subnet_is_the_zeroed_model_and_has_the_tensors_the_selection_says(name, data):
    net = subject(name)
    choice = data.draw(selections(net.groups))
    full, subnet = pc.zero(net.model, choice), pc.extract(net.model, choice)
    exact(full, subnet, net.inputs(), seed=11)
    if not isinstance(subnet, GraphSubnet):
        exact(full, subnet, net.inputs(3), seed=12)
    agrees_with_tensors(net, choice, full, subnet)


def agrees_with_tensors(net: Subject, choice: pc.Selection, full: torch.nn.Module, subnet: torch.nn.Module) -> None:
    """`shape`, `kept` and `slices` say what the state of the zeroed model and of the subnet is."""
    slices = choice.slices()
    assert subnet.state_dict().keys() >= net.model.state_dict().keys()
    for name, index in net.groups.graph.names.items():
        whole, small = tensor_at(net.model, name), tensor_at(subnet, name)
        assert tuple(small.shape) == choice.shape(index)
        expected = whole
        for dim, size in enumerate(whole.shape):
            kept = choice.kept(index, dim).tolist()
            removed = slices.get(name, {}).get(dim, [])
            assert sorted(kept + removed) == list(range(size))
            assert kept
            expected = expected.index_select(dim, torch.tensor(kept))
        assert torch.equal(small, expected)
        changed = (tensor_at(full, name) != whole).nonzero()
        for place in changed.tolist():
            assert any(at in slices[name].get(dim, []) for dim, at in enumerate(place))


@each_net
@given(data=st.data())
@FEW
def test_a_selection_is_the_same_after_it_was_text(name, data):
    groups = subject(name).groups
    choice = data.draw(selections(groups))
    again = pc.Selection.from_json(choice.to_json(), groups)
    assert again.removed == choice.removed
    assert again.slices() == choice.slices()
    assert again.to_json() == choice.to_json()


@each_net
@given(data=st.data())
@FEW
def test_unions_are_those_of_sets(name, data):
    groups = subject(name).groups
    first, second = data.draw(selections(groups)), data.draw(selections(groups))
    numbers = first.union_numbers(second)
    assert set(numbers) == {*first.removed, *second.removed}
    assert second.union_numbers(first) == numbers
    assert first.union(first).removed == first.removed
    assert first.union(groups.select([])).removed == first.removed
    if groups.emptied(np.array(numbers, dtype=np.int64)).size:
        with pytest.raises(SelectionError, match="every position of a dimension"):
            first.union(second)
    else:
        both = first.union(second)
        assert both.removed == second.union(first).removed == tuple(numbers)
        assert both.union(first).removed == both.removed
        for value, lines in groups.state.items():
            for dim in range(len(lines)):
                kept = set(first.kept(value, dim)) & set(second.kept(value, dim))
                assert set(both.kept(value, dim)) == kept


@pytest.mark.parametrize("name", collection.names())
@given(data=st.data())
@FEWER
def test_pruning_twice_is_pruning_the_union(name, data):
    net = subject(name)
    both = data.draw(selections(net.groups))
    parts = st.sampled_from(("first", "second", "both"))
    chosen = {number: data.draw(parts) for number in both.removed}
    first = net.groups.select([number for number, part in chosen.items() if part != "second"])
    second = net.groups.select([number for number, part in chosen.items() if part != "first"])
    assert first.union(second).removed == both.removed
    once = pc.extract(net.model, first)
    args, kwargs = net.inputs()
    inner = pc.partition(pc.trace(once, args, kwargs), pruned=first)
    twice = pc.extract(once, second.within(inner, first))
    exact(pc.zero(net.model, both), twice, (args, kwargs), seed=13)
    assert {name: tensor.shape for name, tensor in twice.named_parameters()} == {
        name: tensor.shape for name, tensor in pc.extract(net.model, both).named_parameters()
    }


@each_net
def test_a_partition_depends_on_nothing_but_the_model(name):
    """Not on the weights, the inputs or the random state, and not on which partition it is."""
    net = subject(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = net.backend.build().eval()
        inputs = net.backend.inputs(2, torch.Generator().manual_seed(99))
        again = pc.partition(pc.trace(other, *inputs))
    assert again.fingerprint == net.groups.fingerprint
    assert again.modes == net.groups.modes
    assert again.kinds == net.groups.kinds
    assert pc.partition(net.groups.graph).fingerprint == net.groups.fingerprint
