"""Groups of small nets: which there are, their kinds and modes, and why the rest is held back."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn

import conformance as pc
from conformance.errors import SelectionError, UsageError


class Net(nn.Module):
    """Modules by name, and a function of them and the inputs as forward."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args):
        return self.function(self, *args)


def two(function):
    """a: 3 -> 4, whatever `function` does with it, b: 4 -> 2."""
    return Net(lambda self, x: self.b(function(self.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2))


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def groups_of(net, *args):
    return pc.partition(pc.trace(net.eval(), args or X))


def exact(net, groups, *args):
    choice = groups.sample(0.5, seed=1)
    assert choice.removed
    net = pc.randomised(net)
    pc.assert_equivalent(pc.zero(net, choice), pc.extract(net, choice), args or X)


# -- kinds -----------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(3, 24), nn.Linear(8, 3)

    def forward(self, x):
        query, key, value = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = fn.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_either_factor_of_a_grid_carries_the_groups():
    """3 x 2 heads of 4: heads by default, head dims when asked. One reshape makes queries, keys and values."""
    net, x = Attention(), torch.randn(2, 5, 3)
    graph = pc.trace(net, x)
    assert pc.partition(graph, carry="outer").kinds == pc.partition(graph).kinds == ("", "head", "head")
    inner = pc.partition(graph, carry="inner")
    assert inner.kinds == ("", *["head dim"] * 4)
    rows = [0, 4, 8, 12, 16, 20]
    assert inner.select([1]).slices() == {
        "qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "out.weight": {1: [0, 4]},
    }  # fmt: skip
    exact(net, inner, x)
    with pytest.raises(UsageError, match="unknown carry 'both'; there are auto, outer, inner"):
        pc.partition(graph, carry="both")


@pytest.mark.parametrize(("carry", "rows"), [("outer", [0, 1, 2]), ("inner", [0, 3])])
def test_a_grouped_convolution_either_way(carry, rows):
    """2 groups of 5 inputs and 3 outputs: a whole group goes, or the same channel of both."""
    net = nn.Sequential(nn.Conv1d(3, 10, 1), nn.ReLU(), nn.Conv1d(10, 6, 1, groups=2), nn.ReLU(), nn.Conv1d(6, 2, 1))
    x = torch.randn(2, 3, 4)
    groups = pc.partition(pc.trace(net, x), carry=carry)
    last = groups.dims[groups.graph.names["4.weight"]][1]
    assert np.flatnonzero(last == last[0]).tolist() == rows
    exact(net, groups, x)


@pytest.mark.parametrize("order", [("outer", "inner"), ("inner", "outer")])
def test_heads_and_head_dims_both_go(order):
    net, x = pc.randomised(Attention().eval()), torch.randn(2, 5, 3)
    for carry in order:
        groups = pc.partition(pc.trace(net, x), carry=carry)
        choice = groups.sample(0.5, seed=1)
        assert choice.removed
        subnet = pc.extract(net, choice)
        for oracle in ("field", "float64"):
            pc.assert_equivalent(pc.zero(net, choice), subnet, x, oracle=oracle)
        net = subnet
    assert net(x).shape == (2, 5, 3)
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in Attention().parameters()) / 2


KINDS = {
    "neuron": (lambda: two(fn.relu), X, 4),
    "channel": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1)), IMAGE, 5),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 2)), torch.tensor([[1, 2], [0, 6]]), 5),
    "head": (Attention, torch.randn(2, 5, 3), 2),
    "parameter": (
        lambda: Net(lambda self, x: self.b(x.sum(1, keepdim=True) * self.scale), b=nn.Linear(4, 2), scale=nn.Parameter(torch.ones(4))),
        X, 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_for_what_makes_the_structure(kind):
    make, x, count = KINDS[kind]
    groups = groups_of(make(), x)
    assert groups.count == count
    assert groups.kinds == ("", *[kind] * count)
    exact(make(), groups, x)


def test_a_head_holds_its_rows_of_queries_keys_and_values_and_its_columns():
    groups = groups_of(Attention(), torch.randn(2, 5, 3))
    rows = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]
    assert groups.select([1]).slices() == {
        "qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "out.weight": {1: [0, 1, 2, 3]},
    }  # fmt: skip
    assert groups.removed_parameters.tolist() == [0, 60, 60]


def test_the_smallest_kind_in_the_list_wins_where_several_make_a_group():
    """A convolution and a linear layer add up: their rows leave together, as channels."""
    net = Net(lambda self, x: self.c(self.a(x).mean((2, 3)) + self.b(x.mean((2, 3)))),
              a=nn.Conv2d(3, 4, 3), b=nn.Linear(3, 4), c=nn.Linear(4, 2))  # fmt: skip
    groups = groups_of(net, IMAGE)
    assert set(groups.kinds[1:]) == {"channel"}
    assert groups.select([1]).slices() == {
        "a.weight": {0: [0]}, "a.bias": {0: [0]}, "b.weight": {0: [0]}, "b.bias": {0: [0]}, "c.weight": {1: [0]},
    }  # fmt: skip


def test_axes_are_numbered_as_the_model_goes():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = groups_of(net)
    assert groups.axis_of.tolist() == [-1, *[0] * 5, *[1] * 4]
    assert groups.removed_parameters.tolist() == [0, *[3 + 1 + 4] * 5, *[5 + 1 + 2] * 4]


def test_tied_weights_leave_together():
    net = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 7, bias=False))
    net[4].weight = net[0].weight
    tokens = torch.tensor([[1, 2], [0, 6]])
    groups = groups_of(net, tokens)
    assert groups.count == 11
    assert groups.select([1]).slices() == {
        "0.weight": {1: [0]}, "1.weight": {1: [0]}, "3.weight": {0: [0]}, "3.bias": {0: [0]}, "4.weight": {1: [0]},
    }  # fmt: skip


# -- modes -----------------------------------------------------------------------------------------

MODES = {
    "relu keeps zero": (fn.relu, "producers"),
    "gelu keeps zero": (fn.gelu, "producers"),
    "a scale keeps zero": (lambda y: y * 3, "producers"),
    "a square keeps zero": (lambda y: y**2, "producers"),
    "sigmoid loses it": (torch.sigmoid, "consumers"),
    "a constant added to all loses it": (lambda y: y + 1, "consumers"),
    "a gate restores it": (lambda y: torch.sigmoid(y) * y, "producers"),
    "softplus loses it": (fn.softplus, "consumers"),
}


@pytest.mark.parametrize("case", MODES)
def test_how_a_group_becomes_zero(case):
    function, mode = MODES[case]
    net = two(function)
    groups = groups_of(net)
    assert groups.modes == ("", *[mode] * 4)
    exact(net, groups)


def test_zeroing_by_producers_leaves_the_readers_and_by_consumers_does_not():
    for function, columns in ((fn.relu, False), (torch.sigmoid, True)):
        net = pc.randomised(two(function))
        full = pc.zero(net, groups_of(net).select([2]))
        assert not full.a.weight[1].any()
        assert full.a.bias[1] == 0
        assert torch.equal(full.a.weight[[0, 2, 3]], net.a.weight[[0, 2, 3]])
        assert (full.b.weight[:, 1] == 0).all() == columns
        assert torch.equal(full.b.weight[:, [0, 2, 3]], net.b.weight[:, [0, 2, 3]])


def test_statistics_of_a_batch_norm_keep_their_values():
    net = pc.randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval())
    full = pc.zero(net, groups_of(net, IMAGE).select([1]))
    assert torch.equal(full[1].running_mean, net[1].running_mean)
    assert torch.equal(full[1].running_var, net[1].running_var)
    assert full[1].weight[0] == full[1].bias[0] == 0


NEVER = {
    "summed where it is no longer zero": (
        Net(lambda self, x: self.a(x).sigmoid().sum(1, keepdim=True) * x, a=nn.Linear(3, 4)),
        "is not zero where it is summed: aten.sum.dim_IntList",
    ),
    "divided by": (
        Net(lambda self, x: self.b(x.sum(1, keepdim=True) / self.a(x)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
        "is divided by: aten.div.Tensor",
    ),
    "a logarithm": (two(torch.log), "has no finite value where the removed slice is zero: aten.log"),
    "a negative power": (two(lambda y: y**-2.0), "is raised to a power that has no finite value at zero: aten.pow"),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_zeroing_cannot_make_exact_is_held_back(case):
    net, reason = NEVER[case]
    groups = groups_of(net)
    assert groups.count == 0
    text = groups.explain("a.weight", 0)
    assert reason in text
    assert "test_partition.py:" in text


def test_parts_of_one_dimension_have_modes_of_their_own():
    """Half of the neurons pass through a sigmoid."""
    net = two(lambda y: torch.cat([y[:, :2].sigmoid(), y[:, 2:].relu()], 1))
    groups = groups_of(net)
    assert groups.modes[1:] == ("consumers", "consumers", "producers", "producers")
    assert groups.axis_of.tolist() == [-1, 0, 0, 1, 1]
    exact(net, groups)


# -- held back -------------------------------------------------------------------------------------

HELD = {
    "softmax": (two(lambda y: y.softmax(1)), "a.weight", 0, "is the domain of a softmax: aten._softmax"),
    "maximum": (two(lambda y: y * y.amax(1, keepdim=True)), "a.weight", 0, "is reduced by amax: aten.amax"),
    "one position": (two(lambda y: y * y[:, 2:3]), "a.weight", 0, "is picked by its place: aten.slice.Tensor"),
    "a number": (two(lambda y: y * y[:, 2, None]), "a.weight", 0, "is indexed by number: aten.select.int"),
    "steps": (two(lambda y: y[:, ::2].repeat(1, 2)), "a.weight", 0, "is sliced with a step: aten.slice.Tensor"),
    "rolled": (two(lambda y: y.roll(1, 1)), "a.weight", 0, "is rolled: aten.roll"),
    "sorted": (two(lambda y: y.sort(1)[0]), "a.weight", 0, "is the domain of a sort: aten.sort"),
    "an input": (two(fn.relu), "a.weight", 1, "joins it to a fixed dimension: aten.addmm in a"),
    "stacked": (two(lambda y: torch.stack([y, y]).sum(0).cumsum(1)), "a.weight", 0, "is the domain of a cumsum: aten.cumsum"),
}  # fmt: skip


@pytest.mark.parametrize("case", HELD)
def test_the_reason_names_the_operation_and_the_line(case):
    net, name, dim, reason = HELD[case]
    text = groups_of(net).explain(name, dim)
    assert f"held back: {reason}" in text
    where = "linear.py" if case == "an input" else "test_partition.py"
    assert re.search(rf"\({'.*' if case == 'an input' else ''}[^()]*{where}:\d+\)", text)


def test_the_line_is_that_of_the_operation():
    def forward(self, x):
        y = self.a(x)
        y = y.relu()
        y = y.softmax(1)
        return self.b(y)

    groups = groups_of(Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2)))
    assert f"test_partition.py:{forward.__code__.co_firstlineno + 3})" in groups.explain("a.weight", 0)


def test_outputs_unused_state_integers_and_single_positions_have_reasons_of_their_own():
    net = Net(lambda self, x: self.one(self.norm(self.a(x)))[:, 0], a=nn.Linear(3, 4), norm=nn.BatchNorm1d(4),
              one=nn.Linear(4, 1), unused=nn.Linear(2, 2))  # fmt: skip
    groups = groups_of(net)
    assert "2 held back: is never used in the forward pass" in groups.explain("unused.weight", 1)
    assert "1 held back: has a single position" in groups.explain("one.weight", 0)
    net = two(fn.relu)
    assert "2 held back: is an output of the model" in groups_of(net).explain("b.weight", 0)
    net.register_buffer("order", torch.tensor([1, 0, 2, 3]))
    net.function = lambda self, x: self.b(self.a(x)[:, self.order])
    assert "4 held back: does not hold floating point numbers" in groups_of(net).explain("order", 0)


def test_an_operation_without_a_rule_holds_back_all_it_touches():
    with torch.library._scoped_library("conformance_tests", "DEF") as library:
        library.define("unheard_of(Tensor x) -> Tensor")
        library.impl("unheard_of", torch.relu, "CompositeExplicitAutograd")
        groups = groups_of(two(lambda y: torch.ops.conformance_tests.unheard_of(y)))
    assert groups.count == 0
    assert "4 held back: has no rule: conformance_tests.unheard_of (" in groups.explain("a.weight", 0)
    assert "4 held back: joins it to a fixed dimension: aten.addmm in b (" in groups.explain("b.weight", 1)


@pytest.mark.parametrize(("norm_groups", "count"), [(1, 4), (2, 2), (4, 4)])
def test_a_group_norm_lets_whole_groups_go(norm_groups, count):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(norm_groups, 4), nn.Conv2d(4, 2, 1))
    groups = groups_of(net, IMAGE)
    assert groups.count == count
    exact(net, groups, IMAGE)


def test_a_group_that_would_be_a_whole_dimension_is_held_back():
    """Each neuron meets its mirror image and the one two places on: all four leave together, or none."""
    groups = groups_of(two(lambda y: y + y.flip(1) + torch.cat([y[:, 2:], y[:, :2]], 1)))
    assert groups.count == 0
    assert groups.explain("a.weight", 0).endswith("4 held back: fills a whole dimension")
    assert groups_of(two(lambda y: y + y.flip(1))).count == 2


def test_every_position_is_in_a_group_or_held_back_for_a_reason():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5), nn.Softmax(1), nn.Linear(5, 2)
    )
    groups = groups_of(net, IMAGE)
    for index, lines in groups.state.items():
        for dim, labels in enumerate(lines):
            held = groups.held[index, dim]
            assert ((labels > 0) == (held == -1)).all()
            assert all(groups.events[event].reason for event in held[held >= 0])


def test_a_flattened_channel_takes_its_columns_along():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    groups = groups_of(net, IMAGE)
    assert groups.select([2]).slices()["2.weight"] == {1: list(range(16, 32))}


def test_a_concatenation_keeps_its_parts_apart():
    net = Net(lambda self, x: self.c(torch.cat([self.a(x), self.b(x)], 1)),
              a=nn.Linear(3, 2), b=nn.Linear(3, 4), c=nn.Linear(6, 2))  # fmt: skip
    groups = groups_of(net)
    assert groups.count == 6
    assert [groups.select([number]).slices()["c.weight"][1] for number in range(1, 7)] == [[n] for n in range(6)]


def test_a_residual_joins_what_is_added():
    net = Net(
        lambda self, x: self.c(self.a(x) + self.b(self.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2)
    )
    groups = groups_of(net)
    assert groups.count == 4
    assert groups.select([3]).slices() == {
        "a.weight": {0: [2]}, "a.bias": {0: [2]}, "b.weight": {0: [2], 1: [2]}, "b.bias": {0: [2]}, "c.weight": {1: [2]},
    }  # fmt: skip


# -- explain ---------------------------------------------------------------------------------------


def test_explain_says_groups_role_and_company():
    groups = groups_of(two(torch.sigmoid))
    assert groups.explain("a.weight", 0) == (
        "a.weight (4, 3)\n"
        "  dimension 0: 4 positions\n"
        "    4 groups (neuron; zero by consumers), numbers 1 to 4; this tensor produces them\n"
        "    leaves together with: a.bias:0, b.weight:1"
    )
    assert groups.explain("b.weight", -1) == groups.explain("b.weight", 1)
    assert "this tensor reads them" in groups.explain("b.weight", 1)
    whole = groups.explain("b.weight")
    assert whole.splitlines()[0] == "b.weight (2, 4)"
    assert [line for line in whole.splitlines() if line.startswith("  dimension")] == [
        "  dimension 0: 2 positions", "  dimension 1: 4 positions",
    ]  # fmt: skip


def test_explain_says_when_only_a_part_can_go():
    net = two(lambda y: torch.cat([y[:, :1].sigmoid(), y[:, 1:]], 1))
    text = groups_of(net).explain("a.weight", 0)
    assert "3 groups (neuron; zero by producers), numbers 1 to 3" in text
    assert "1 held back: is picked by its place: aten.slice.Tensor" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.wieght",), "the model has no parameter or buffer named 'a.wieght'; did you mean a.weight, b.weight?"),
        (("zzz",), "the model has no parameter or buffer named 'zzz'"),
        (("a.weight", 2), "a.weight has dimensions 0 to 1, not 2"),
        (("a.bias", -2), "a.bias has dimensions 0 to 0, not -2"),
    ],
)
def test_explain_of_what_is_not_there_is_one_sentence(arguments, sentence):
    with pytest.raises(SelectionError) as failure:
        groups_of(two(fn.relu)).explain(*arguments)
    assert str(failure.value) == sentence


# -- the partition itself --------------------------------------------------------------------------


def test_fingerprints_tell_partitions_apart():
    nets = [two(fn.relu), two(lambda y: y + y.flip(1)), two(lambda y: y.softmax(1)),
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))]  # fmt: skip
    prints = [groups_of(net).fingerprint for net in nets]
    assert len(set(prints)) == len(nets)
    assert groups_of(two(fn.gelu)).fingerprint == prints[0]


def test_labels_of_a_value_have_its_shape_and_go_up_to_count():
    groups = groups_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)), IMAGE)
    for index, lines in groups.dims.items():
        assert tuple(labels.size for labels in lines) == groups.graph.values[index].shape
        assert all(((labels >= 0) & (labels <= groups.count)).all() for labels in lines)
    every = np.unique(np.concatenate([labels for lines in groups.state.values() for labels in lines]))
    assert set(every) - {0} == set(range(1, groups.count + 1))


def test_a_subnet_keeps_the_groups_of_the_model_it_came_from():
    """Two rows of three columns: the columns carry the groups, also once there are two of each."""
    net = Net(
        lambda self, x: self.b(self.a(x).view(2, 2, 3).relu().transpose(1, 2).flatten(1)),
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
    )
    groups = groups_of(net)
    assert [groups.select([number]).slices()["a.weight"][0] for number in (1, 2, 3)] == [[0, 3], [1, 4], [2, 5]]
    first = groups.select([1])
    graph = pc.trace(pc.extract(net, first), X)
    unaware, aware = pc.partition(graph), pc.partition(graph, pruned=first)
    assert [unaware.select([number]).slices()["a.weight"][0] for number in (1, 2)] == [[0, 1], [2, 3]]
    assert [aware.select([number]).slices()["a.weight"][0] for number in (1, 2)] == [[0, 2], [1, 3]]
    assert groups.select([3]).within(aware, first).removed == (2,)


def test_pruned_must_be_what_the_subnet_came_from():
    net = two(fn.relu)
    groups = groups_of(net)
    with pytest.raises(SelectionError, match=r"a\.weight does not have the size the selection leaves"):
        pc.partition(groups.graph, pruned=groups.select([1]))
