"""Sizes that operations carry as numbers: each follows the selection, and the replayed tape computes the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as fn

import conformance as pc
from conformance.errors import ExtractionError
from conformance.graph.tape import refs
from conformance.partition.rules import base_name
from conformance.subnet.resize import RESIZES, resized
from conformance.subnet.tape_module import GraphSubnet

F = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """a: 3 -> 6; whatever `function` does; b: as many as that gives -> 2."""

    def __init__(self, function, outputs=6):
        super().__init__()
        self.function, self.a, self.b = function, nn.Linear(3, 6), nn.Linear(outputs, 2)

    def forward(self, x):
        return self.b(self.function(self.a(x)))


class Image(Net):
    """The same with convolutions."""

    def __init__(self, function, outputs=6):
        super().__init__(function, outputs)
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(outputs, 2, 1)


class Through(Image):
    """A layer of its own between a and b."""

    def __init__(self, middle, outputs):
        super().__init__(torch.relu, outputs)
        self.middle = middle

    def forward(self, x):
        return self.b(self.middle(self.a(x).relu()).relu())


def subnet_of(net, x, rows):
    """(zeroed model, replayed tape) without these rows of `a`, and whatever leaves with them."""
    torch.manual_seed(0)
    net = pc.randomised(net.eval())
    groups = pc.partition(pc.trace(net, x))
    labels = groups.dims[groups.graph.names["a.weight"]][0]
    assert (labels[rows] > 0).all(), groups.explain("a.weight", 0)
    choice = groups.select(labels[rows])
    return pc.zero(net, choice), GraphSubnet(groups.graph, choice)


def numbers(subnet, name):
    """The arguments by name of every operation of that name, as the subnet runs them."""
    graph, choice = subnet._tape.graph, subnet._tape.choice
    found = []
    for node in graph.nodes:
        if base_name(node.op) == name:
            given = dict(zip((a.name for a in node.op._schema.arguments), node.args, strict=False)) | node.kwargs
            found.append(resized(graph, choice, node) or given)
    assert found, f"no {name} was traced"
    return found


def exact(full, subnet, x):
    assert pc.kind_of(subnet) == "graph"
    pc.assert_equivalent(full, subnet, x)
    pc.assert_equivalent(full, subnet, x, oracle="float64")


# -- narrow and slice ------------------------------------------------------------------------------

SLICES = {
    # start, end, removed rows -> new start, new end
    "in front": (2, 6, [0], (1, 5)),
    "inside": (2, 6, [3, 4], (2, 4)),
    "on both sides": (1, 5, [0, 2, 5], (0, 3)),
    "behind": (0, 3, [4, 5], (0, 3)),
    "at the start": (2, 6, [2], (2, 5)),
    "negative": (-4, -1, [0, 2], (1, 3)),
    "to the end": (3, None, [1, 5], (2, 4)),
    "beyond the end": (3, 100, [1, 5], (2, 4)),
}


@pytest.mark.parametrize("case", SLICES)
def test_slice(case):
    start, end, removed, expected = SLICES[case]
    width = len(range(6)[start:end])
    full, subnet = subnet_of(Net(lambda y: y.relu()[:, start:end], width), F, removed)
    sliced = numbers(subnet, "slice")[-1]
    assert (sliced["start"], sliced["end"]) == expected
    exact(full, subnet, F)


@pytest.mark.parametrize("case", SLICES)
def test_narrow(case):
    """`narrow` arrives as a slice; the operation itself has start and length."""
    start, end, removed, (new, until) = SLICES[case]
    first, last, _ = slice(start, end).indices(6)
    full, subnet = subnet_of(Net(lambda y: torch.narrow(y.relu(), 1, first, last - first), last - first), F, removed)
    exact(full, subnet, F)
    graph, choice = subnet._tape.graph, subnet._tape.choice
    node = next(node for node in graph.nodes if base_name(node.op) == "slice")
    narrowed = dataclasses.replace(node, op=torch.ops.aten.narrow.default, args=(node.args[0], 1, first, last - first))
    bound = resized(graph, choice, narrowed)
    assert (bound["start"], bound["length"]) == (new, until - new)


def test_a_slice_of_a_dimension_that_stays_keeps_its_numbers():
    full, subnet = subnet_of(Image(lambda y: y.relu()[:, :, 1:3]), IMAGE, [0, 4])
    assert [(s["start"], s["end"]) for s in numbers(subnet, "slice") if s["dim"] == 2] == [(1, 3)]
    exact(full, subnet, IMAGE)


# -- split -----------------------------------------------------------------------------------------

SPLITS = {
    "explicit sizes": (lambda y: y.split([2, 4], 1), [0, 3, 4], [1, 2]),
    "equal pieces become unequal": (lambda y: y.split(2, 1), [0, 5], [1, 2, 1]),
    "a remainder": (lambda y: y.split(4, 1), [1, 2], [2, 2]),
    "chunks": (lambda y: y.chunk(3, 1), [2], [2, 1, 2]),
    "tensor_split": (lambda y: torch.tensor_split(y, (2, 4), 1), [0, 2, 4], [1, 1, 1]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_split(case):
    function, removed, sizes = SPLITS[case]

    def forward(y):
        pieces = function(y.relu())
        return torch.cat([piece.tanh() for piece in reversed(pieces)], 1)

    full, subnet = subnet_of(Net(forward), F, removed)
    graph, choice = subnet._tape.graph, subnet._tape.choice
    made = [next(refs(node.outputs)) for node in graph.nodes if base_name(node.op) == "tanh"]
    assert [choice.shape(index)[1] for index in made] == sizes[::-1]
    exact(full, subnet, F)


def test_split_sizes_are_rewritten():
    _, subnet = subnet_of(Net(lambda y: torch.cat(y.relu().split([2, 4], 1)[::-1], 1)), F, [0, 3, 4])
    assert numbers(subnet, "split_with_sizes")[0]["split_sizes"] == [1, 2]


# -- expand ----------------------------------------------------------------------------------------


def test_expand():
    scale = torch.tensor([2.0, 3.0])[:, None]
    full, subnet = subnet_of(Net(lambda y: (y.relu()[:, None].expand(2, 2, 6) * scale).sum(1)), F, [1, 4])
    assert [2, 2, 4] in [list(e["size"]) for e in numbers(subnet, "expand")]
    exact(full, subnet, F)


def test_expand_to_heads_that_share():
    """Each of 3 key heads of 2 is repeated for 2 query heads."""

    def forward(y):
        return y.relu().view(2, 3, 1, 2).expand(2, 3, 2, 2).reshape(2, 12)

    net = pc.randomised(Net(forward, 12))
    groups = pc.partition(pc.trace(net, F))
    assert groups.count == 3
    for number in (1, 2, 3):
        choice = groups.select([number])
        subnet = GraphSubnet(groups.graph, choice)
        assert [2, 2, 2, 2] in [list(e["size"]) for e in numbers(subnet, "expand")]
        exact(pc.zero(net, choice), subnet, F)


def test_expand_with_minus_one():
    full, subnet = subnet_of(Net(lambda y: (y.relu()[:, None].expand(-1, 3, -1)).sum(1)), F, [0])
    assert [2, 3, 5] in [list(e["size"]) for e in numbers(subnet, "expand")]
    exact(full, subnet, F)


# -- views and fills -------------------------------------------------------------------------------


def test_a_written_out_view_follows():
    full, subnet = subnet_of(Net(lambda y: y.relu().view(2, 1, 6).transpose(0, 1).reshape(2, 6)), F, [0, 1, 5])
    exact(full, subnet, F)


def test_filled_tensors_follow():
    full, subnet = subnet_of(Net(lambda y: torch.maximum(y, torch.zeros(2, 6)) + y.new_zeros(2, 6)), F, [2, 3])
    sizes = [list(made["size"]) for name in ("zeros", "new_zeros") for made in numbers(subnet, name)]
    assert sizes == [[2, 4], [2, 4]]
    exact(full, subnet, F)


def test_zero_padding_follows():
    """Two zero channels in front, one behind; of the padded eight one leaves with each channel."""
    full, subnet = subnet_of(Net(lambda y: fn.pad(y.relu(), (2, 1)), 9), F, [1, 2])
    assert numbers(subnet, "constant_pad_nd")[0]["pad"] == [2, 1]
    assert subnet.b.weight.shape == (2, 7)
    exact(full, subnet, F)


# -- group norm and grouped convolutions -----------------------------------------------------------


@pytest.mark.parametrize(
    ("norm_groups", "removed", "left", "channels"),
    [(3, [0], 2, 4), (3, [0, 5], 1, 2), (2, [4], 1, 3), (6, [1, 3], 4, 4)],
)
def test_group_norm(norm_groups, removed, left, channels):
    """Whole norm groups leave, and their number follows."""
    full, subnet = subnet_of(Through(nn.GroupNorm(norm_groups, 6), 6), IMAGE, removed)
    (norm,) = numbers(subnet, "native_group_norm")
    assert (norm["group"], norm["C"], norm["N"]) == (left, channels, 2)
    exact(full, subnet, IMAGE)


GROUPED = {
    # the layer, removed rows of `a`, groups afterwards, its weight's shape afterwards
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), [0, 3], 4, (4, 1, 3, 3)),
    "depthwise with a multiplier": (nn.Conv2d(6, 12, 1, groups=6), [5], 5, (10, 1, 1, 1)),
    "depthwise transposed": (nn.ConvTranspose2d(6, 6, 2, groups=6), [1, 2], 4, (4, 1, 2, 2)),
}


@pytest.mark.parametrize("case", GROUPED)
def test_groups_of_a_convolution(case):
    layer, removed, left, shape = GROUPED[case]
    full, subnet = subnet_of(Through(layer, layer.out_channels), IMAGE, removed)
    assert numbers(subnet, "convolution")[1]["groups"] == left
    assert tuple(subnet.middle.weight.shape) == shape
    exact(full, subnet, IMAGE)


@pytest.mark.parametrize("transposed", [False, True])
def test_any_selection_of_a_grouped_convolution(transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    net = pc.randomised(Through(kind(6, 9, 2, groups=3), 9).eval())
    groups = pc.partition(pc.trace(net, IMAGE))
    assert groups.count
    for seed in range(8):
        choice = groups.sample(0.5, seed)
        exact(pc.zero(net, choice), GraphSubnet(groups.graph, choice), IMAGE)


# -- what needs nothing ----------------------------------------------------------------------------


def test_an_operation_whose_tensors_stay_is_left_alone():
    _, subnet = subnet_of(Net(lambda y: y.relu()), F, [1])
    graph = subnet._tape.graph
    whole = subnet._tape.choice.groups.select([])
    assert all(resized(graph, whole, node) is None for node in graph.nodes)


def test_an_empty_selection_is_the_traced_model():
    net = pc.randomised(Through(nn.Conv2d(6, 9, 2, groups=3), 9).eval())
    groups = pc.partition(pc.trace(net, IMAGE))
    exact(net, GraphSubnet(groups.graph, groups.select([])), IMAGE)


def test_resizes_are_about_operations_that_exist():
    assert [name for name in RESIZES if not hasattr(torch.ops.aten, name)] == []


def test_other_shapes_than_the_traced_ones_are_refused_in_a_sentence():
    _, subnet = subnet_of(Net(lambda y: y.relu()), F, [1])
    with pytest.raises(ExtractionError) as failure:
        subnet(torch.randn(3, 3))
    assert str(failure.value) == "a graph subnet runs on inputs of shapes ((2, 3),), got ((3, 3),)"
