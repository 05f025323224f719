"""Channels have no names: in another order they are grouped, zeroed and cut the same, in that order."""

from __future__ import annotations

import copy

import torch
from families import Joining, joining
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import conformance as pc
from conformance.strategies import selections, widths
from conformance.subnet.permute import exchangeable, permuted, reorder


class Small(nn.Module):
    """A stem of c channels, a depthwise and a residual convolution on them, and a head that reads them by position."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.own = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.up, self.down = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.head = nn.Linear(channels * 4, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.down(self.up(self.own(x).relu()).relu())
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
# Which dimensions of the state are channels of the stem, and how many positions of it each channel has.
STEM = {
    ("stem.weight", 0): 1, ("stem.bias", 0): 1, ("norm.weight", 0): 1, ("norm.bias", 0): 1, ("norm.running_mean", 0): 1,
    ("norm.running_var", 0): 1, ("own.weight", 0): 1, ("own.bias", 0): 1, ("up.weight", 1): 1, ("down.weight", 0): 1,
    ("down.bias", 0): 1, ("head.weight", 1): 4,
}  # fmt: skip
HIDDEN = {("up.weight", 0): 1, ("up.bias", 0): 1, ("down.weight", 1): 1}


def reordered(model: nn.Module, orders: list[tuple[dict[tuple[str, int], int], list[int]]]) -> nn.Module:
    """A copy whose position i is the original's position order[i], in every dimension given."""
    twin = copy.deepcopy(model)
    state = twin.state_dict()
    with torch.no_grad():
        for dims, order in orders:
            for (name, dim), each in dims.items():
                places = [at * each + offset for at in order for offset in range(each)]
                state[name].copy_(state[name].index_select(dim, torch.tensor(places)))
    return twin


def of_channel(groups: pc.Groups, name: str) -> list[int]:
    """The group of each row of a weight."""
    return groups.dims[groups.graph.names[name]][0].tolist()


@given(data=st.data(), channels=widths(2, 8), hidden=widths(2, 6))
def test_a_net_with_its_channels_in_another_order(data, channels, hidden):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = pc.randomised(Small(channels, hidden).eval())
    orders = [data.draw(st.permutations(range(size)), label="order") for size in (channels, hidden)]
    other = reordered(model, list(zip((STEM, HIDDEN), orders, strict=True)))
    pc.assert_equivalent(model, other, X)

    groups, others = pc.partition(pc.trace(model, X)), pc.partition(pc.trace(other, X))
    assert groups.count == others.count == channels + hidden
    choice = data.draw(selections(groups), label="choice")
    wanted = set()
    for row, order in zip(("stem.weight", "up.weight"), orders, strict=True):
        before, after = of_channel(groups, row), of_channel(others, row)
        wanted |= {after[order.index(at)] for at, group in enumerate(before) if choice.gone[group]}
    same = others.select(sorted(wanted))
    assert len(same) == len(choice)
    assert moved(choice.slices(), orders) == same.slices()
    pc.assert_equivalent(pc.zero(model, choice), pc.zero(other, same), X)
    pc.assert_equivalent(pc.extract(model, choice), pc.extract(other, same), X)


@given(data=st.data(), channels=widths(2, 8), hidden=widths(2, 6))
def test_the_order_written_by_hand_is_that_made_from_groups(data, channels, hidden):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = pc.randomised(Small(channels, hidden).eval())
    groups = pc.partition(pc.trace(model, X))
    sets = exchangeable(groups)
    assert sorted(len(members) for members in sets) == sorted(size for size in (channels, hidden) if size > 1)
    order = reorder(groups, sets, data.draw(st.integers(0, 99), label="seed"))
    by_hand = []
    for table, row in ((STEM, "stem.weight"), (HIDDEN, "up.weight")):
        rows = of_channel(groups, row)
        by_hand.append((table, [rows.index(int(order[group])) for group in rows]))
    wanted, found = reordered(model, by_hand).state_dict(), permuted(model, groups, order).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    assert not torch.equal(found["up.weight"], model.up.weight) or not sets


def moved(slices: dict[str, dict[int, list[int]]], orders: list[list[int]]) -> dict[str, dict[int, list[int]]]:
    """Where these slices are once the channels are in another order."""
    found: dict[str, dict[int, list[int]]] = {}
    for name, dims in slices.items():
        for dim, positions in dims.items():
            (each, order) = next((table[name, dim], order) for table, order in zip((STEM, HIDDEN), orders, strict=True)
                                 if (name, dim) in table)  # fmt: skip
            found.setdefault(name, {})[dim] = sorted(order.index(at // each) * each + at % each for at in positions)
    return found


def parts(net: Joining, order: tuple[int, ...]) -> list[int]:
    """Positions of the branches' channels, branch after branch, in the concatenation in this order."""
    starts, now = {}, 0
    for number in order:
        starts[number] = now
        now += net.branches[number]
    return [starts[number] + at for number, width in enumerate(net.branches) for at in range(width)]


@given(net=joining(2).filter(lambda net: not net.cuts and not net.residual), data=st.data())
def test_branches_joined_in_another_order(net, data):
    """The graph differs, not the values alone: each branch's channels are found where they now are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = pc.randomised(net.build().eval())
    order = tuple(data.draw(st.permutations(net.order), label="order"))
    other = copy.deepcopy(model)
    other.order = order
    here, there = parts(net, net.order), parts(net, order)
    columns = torch.empty_like(model.readers[0].weight)
    columns[:, there] = model.readers[0].weight.detach()[:, here]
    other.readers[0].weight.data = columns
    x = net.inputs_of(2)
    pc.assert_equivalent(model, other, x)

    groups, others = pc.partition(pc.trace(model, x)), pc.partition(pc.trace(other, x))
    reader, other_reader = (each.dims[each.graph.names["readers.0.weight"]][1].tolist() for each in (groups, others))
    rows = [
        [of_channel(each, f"branches.{number}.weight") for number in range(len(net.branches))]
        for each in (groups, others)
    ]
    assert [reader[at] for at in here] == [group for branch in rows[0] for group in branch]
    assert [other_reader[at] for at in there] == [group for branch in rows[1] for group in branch]
    choice = data.draw(selections(groups), label="choice")
    partner = {
        group: twin for mine, theirs in zip(*rows, strict=True) for group, twin in zip(mine, theirs, strict=True)
    }
    head = [of_channel(each, "readers.0.weight") for each in (groups, others)]
    partner |= dict(zip(*head, strict=True))
    same = others.select([partner[number] for number in choice.removed])
    pc.assert_equivalent(pc.extract(model, choice), pc.extract(other, same), x)
