"""Memory written under one name and read under another: labels and zeros follow it."""

from __future__ import annotations

import pytest
import torch
from brute_force import check_graph, selections
from torch import nn

import conformance as pc
from conformance.partition.groups import CONSUMERS, PRODUCERS

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(3, 4), nn.Linear(4, 5), between
        self.register_buffer("state", torch.zeros(2, 4))

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


def part_scaled(_, y):
    y[:, :2].mul_(2)
    return y


def part_moved(_, y):
    y[:, :2].add_(1)
    return y


def base_scaled(_, y):
    whole = y.view(-1)
    y.mul_(2)
    return whole.view(-1, 4)


def base_moved(_, y):
    whole = y.view(-1)
    y.add_(1)
    return whole.view(-1, 4)


def transposed(_, y):
    y.t()[2:].exp_()
    return y


def half_by_half(_, y):
    made = torch.zeros_like(y)
    made[:, :2], made[:, 2:] = y[:, :2], y[:, 2:]
    return made


def row_by_row(_, y):
    made = torch.zeros(y.shape[0], 3, 4, dtype=y.dtype)
    made[:, 1] = y
    made[:, 2] = y.relu()
    return made


def row_that_loses_zero(_, y):
    made = torch.zeros(y.shape[0], 3, 4, dtype=y.dtype)
    made[:, 1] = y
    made[:, 2] = y.sigmoid()
    return made


def row_silenced(_, y):
    moved = y + 1
    moved[0].zero_()
    return moved


def sibling_views(_, y):
    low, high = y[:, :3], y[:, 1:]
    low.add_(1)
    return torch.cat([high, high[:, :1]], 1)


P, C = PRODUCERS, CONSUMERS
MODES = {
    part_scaled: [P, P, P, P],
    part_moved: [C, C, P, P],
    base_scaled: [P, P, P, P],
    base_moved: [C, C, C, C],
    transposed: [P, P, C, C],
    half_by_half: [P, P, P, P],
    row_by_row: [P, P, P, P],
    row_that_loses_zero: [C, C, C, C],
    row_silenced: [C, C, C, C],
}
"""How the units of `a` become zero at `b`: not by their producers where something else is written over them."""


@pytest.mark.parametrize("between", MODES, ids=lambda f: f.__name__)
def test_units_leave_through_what_is_written(between):
    net = pc.randomised(Net(between).double().eval())
    graph = pc.trace(net, X)
    assert any(node.stale for node in graph.nodes)
    groups = pc.partition(graph)
    assert list(groups.modes[1:]) == MODES[between]
    assert groups.dims[graph.names["a.weight"]][0].tolist() == [1, 2, 3, 4]
    check_graph(graph, groups, selections(groups))
    for number in range(1, 5):
        choice = groups.select([number])
        pc.assert_equivalent(pc.zero(net, choice), pc.extract(net, choice), X)


def test_views_that_overlap_in_part():
    """Unit 0 of `high` is unit 1 of `low`: it was moved, the last one was not; its copy is picked by its place."""
    net = pc.randomised(Net(sibling_views).double().eval())
    graph = pc.trace(net, X)
    groups = pc.partition(graph)
    check_graph(graph, groups, selections(groups))
    labels = groups.dims[graph.names["a.weight"]][0].tolist()
    assert labels[1] == 0
    assert [groups.modes[labels[at]] for at in (2, 3)] == [C, P]


def test_what_only_looks_zero_is_found_by_the_exact_oracle():
    """The claim that `part_moved` needs its readers at zero is not too careful: producers alone differ."""
    net = pc.randomised(Net(part_moved).double().eval())
    choice = pc.partition(pc.trace(net, X)).select([1])
    half = pc.zero(net, choice)
    with torch.no_grad():
        half.b.weight[:, 0] = net.b.weight[:, 0]
    subnet = pc.extract(net, choice)
    assert pc.equivalent(pc.zero(net, choice), subnet, X).equal
    assert not pc.equivalent(half, subnet, X).equal


def test_state_that_is_written_to_is_held_back():
    def between(net, y):
        net.state[:, :2].copy_(y[:, :2].detach())
        return net.state + y

    net = Net(between).double().eval()
    groups = pc.partition(pc.trace(net, X))
    assert groups.count == 0
    assert "is written through a view: aten.copy_" in groups.explain("a.weight", 0)
