"""Low-rank adapters: they change nothing at first, merge exactly, leave with their groups, and go without a trace."""

from __future__ import annotations

import copy
import functools

import numpy as np
import oto_nets as on
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import conformance as pc
from backends.small_zoo import VisionTransformer
from conformance.errors import UsageError
from conformance.method import units
from reference_impls.oto import Lora, Rows, adapters, attach

INT = 4
SMALL = Lora(rank=2, alpha=4.0)


def partitioned(model, x):
    return pc.partition(pc.trace(model.eval(), (x,)))


def attached(model, x, lora=SMALL, seed=0, **options):
    return attach(model, partitioned(model, x), lora, torch.Generator().manual_seed(seed), **options)


def whole_numbers(model, seed=0):
    """Everything a small whole number, in float64: sums and products are exact in any order."""
    draw = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-INT, INT + 1, parameter.shape, generator=draw))
    return model


class Word(nn.Module):
    """Words, two linear layers and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=3)
        self.inner, self.outer, self.head = nn.Linear(6, 10), nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.words(x)
        return self.head(torch.relu(h + self.outer(torch.relu(self.inner(h)))).mean(1))


WORDS = torch.tensor([[1, 2, 3, 3], [4, 5, 3, 10]])
X = torch.randn(2, 3, 6, 6)


def nets():
    torch.manual_seed(0)
    return {"cnn": (on.net(dtype=torch.float32), X), "words": (Word(), WORDS)}


# -- attaching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "words"])
@pytest.mark.parametrize("also", ["heads", "all", "nothing"])
def test_attached_adapters_change_nothing_but_what_is_trained(name, also):
    model, x = nets()[name]
    before, output, names = on.state_of(model), model.eval()(x), dict(model.named_parameters())
    state = torch.get_rng_state()
    made = attached(model, x, also=also)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(x), output)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    added = {key for key in trained if key.rpartition(".")[2] in ("lora_A", "lora_B")}
    assert added == set(dict(model.named_parameters())) - set(names)
    head = {"cnn": "fc", "words": "head"}[name]
    wanted = {
        "heads": {f"{head}.weight", f"{head}.bias"},
        "all": set(names) - set(made.layers),
        "nothing": set(),
    }[also]
    assert trained - added == wanted
    assert (f"{head}.weight" in made.layers) == (also == "nothing")


def test_the_same_seed_draws_the_same():
    states = []
    for seed in (0, 0, 1):
        model, x = nets()["cnn"]
        attached(model, x, seed=seed)
        states.append(on.state_of(model))
    assert on.same(states[0], states[1])
    assert not torch.equal(states[0]["conv1.lora_A"], states[2]["conv1.lora_A"])
    assert not states[0]["conv1.lora_B"].any()
    assert states[0]["conv1.lora_A"].abs().max() <= 1 / (3 * 9) ** 0.5  # Kaiming-uniform: 1 / sqrt(fan in)


def test_what_was_frozen_stays_frozen():
    model, x = nets()["cnn"]
    model.fc.bias.requires_grad_(False)
    made = attached(model, x)
    assert model.fc.weight.requires_grad
    assert not model.fc.bias.requires_grad
    made.merge()
    assert {key for key, parameter in model.named_parameters() if not parameter.requires_grad} == {"fc.bias"}


class Odd(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


class Mixed(nn.Module):
    """A layer for every reason not to have adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.odd = Odd(8, 8)
        self.read = nn.Linear(8, 8)
        self.uncalled = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.twin = nn.Linear(8, 8)
        self.twin.weight = self.tied.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.grouped = nn.Conv1d(8, 8, 1, groups=8)
        self.plain = nn.Conv1d(8, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.first(x))
        h = torch.relu(self.odd(h) * self.read.weight.sum())
        h = torch.relu(self.uncalled.forward(self.read(h)))
        h = torch.relu(self.twin(torch.relu(self.tied(h))))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = self.plain(self.grouped(h.transpose(1, 2))).transpose(1, 2)
        return self.head(h.mean(1))


def test_only_layers_that_compute_as_torch_does_and_own_their_weight_are_adapted():
    x = torch.randn(2, 5, 4)
    made = attached(Mixed(), x)
    assert set(made.layers) == {"first.weight", "plain.weight"}
    made = attached(Mixed(), x, targets=("head", "grouped"))
    assert set(made.layers) == {"head.weight"}
    assert not made.model.head.weight.requires_grad
    assert made.model.head.bias.requires_grad


def test_what_cannot_be_is_refused():
    model, x = nets()["words"]
    for targets, words in ((("nothing.*",), "matches 'nothing"), (("head.bias",), "no layer can have adapters")):
        with pytest.raises(UsageError, match=words):
            attached(model, x, targets=targets)
    with pytest.raises(UsageError, match="beside adapters"):
        attached(model, x, also="some")
    attached(model, x)
    with pytest.raises(UsageError, match="adapters already"):
        attach(model, partitioned(Word(), x), Lora(), torch.Generator())
    for options in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(UsageError, match="adapters have"):
            Lora(**options)


# -- computing and merging -----------------------------------------------------------------------------

sizes = st.integers(1, 4)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(
        draw(sizes),
        draw(sizes),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 1)),
        draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    return layer, torch.randint(-INT, INT + 1, (2, layer.in_channels, *[7] * dims)).double()


@st.composite
def linears(draw):
    layer = nn.Linear(draw(sizes), draw(sizes), bias=draw(st.booleans()))
    return layer, torch.randint(-INT, INT + 1, (2, 3, layer.in_features)).double()


@st.composite
def embeddings(draw):
    entries = draw(st.integers(2, 6))
    layer = nn.Embedding(entries, draw(sizes), padding_idx=draw(st.sampled_from([None, 0, -1])))
    return layer, torch.randint(0, entries, (2, 3))


@given(st.one_of(convolutions(), linears(), embeddings()), st.integers(1, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_layer_with_adapters_computes_what_it_computes_once_they_are_merged(case, rank, by_name):
    """Exactly: the weights are whole numbers, the scale a power of two."""
    layer, x = case
    model = nn.Sequential(layer)
    made = attach(
        model,
        partitioned(model, x.float() if x.is_floating_point() else x),
        Lora(rank, 2.0 * rank, 0.3),
        torch.Generator(),
        targets=("0",),
    )
    whole_numbers(model)
    weight = layer.weight.detach().clone()
    changed = layer(input=x) if by_name else layer(x)
    made.merge()
    assert torch.equal(changed, layer(x))
    assert layer.weight.dtype == torch.float64
    assert not layer._forward_hooks
    assert set(layer._parameters) == {"weight", "bias"} - ({"bias"} if isinstance(layer, nn.Embedding) else set())
    assert weight.shape == layer.weight.shape


def test_dropout_acts_on_adapters_in_training_only():
    model, x = nets()["words"]
    attached(model, x, lora=Lora(2, 4.0, 0.5))
    with torch.no_grad():
        model.inner.lora_B.fill_(1.0)
    assert torch.equal(model.eval()(x), model(x))
    torch.manual_seed(0)
    assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize("name", ["cnn", "words"])
def test_merging_leaves_the_model_as_it_was_but_for_its_weights(name):
    model, x = nets()[name]
    keys, shapes = list(model.state_dict()), [value.shape for value in model.state_dict().values()]
    attached(model, x)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in adapters(model).layers.values():
            layer.lora_B.normal_(generator=draw)
    copied, twin = copy.deepcopy(model), copy.deepcopy(model)
    output = model.eval()(x)
    with torch.no_grad():
        adapters(copied).layers["conv1.weight" if name == "cnn" else "inner.weight"].lora_B.zero_()
    assert torch.equal(model(x), output)  # a copy has adapters of its own
    assert not torch.equal(copied.eval()(x), output)
    adapters(twin).merge()
    assert adapters(model).layers
    for left in (model, twin):
        if left is model:
            adapters(model).remove()
        assert list(left.state_dict()) == keys
        assert [value.shape for value in left.state_dict().values()] == shapes
        assert all(parameter.requires_grad for parameter in left.parameters())
        assert not any(module._forward_hooks or hasattr(module, "_lora") for module in left.modules())
        assert not adapters(left).layers
    torch.testing.assert_close(twin.eval()(x), output)
    assert not torch.equal(model(x), output)


# -- groups --------------------------------------------------------------------------------------------


class Shallow(VisionTransformer):
    DEPTH = 1


def small_vit():
    torch.manual_seed(0)
    return Shallow((3, 8, 8), 5, 8), torch.randn(2, 3, 8, 8)


class Squashed(nn.Module):
    """A sigmoid makes something of nothing: what reads the neurons that leave has to be zero as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.sigmoid(self.middle(torch.sigmoid(self.first(x)))).mean((2, 3)))


CASES = {
    "cnn": lambda: (on.net(dtype=torch.float32, norm=False), X),
    "words": lambda: (Word(), WORDS),
    "squashed": lambda: (Squashed(), X),
    "vit": small_vit,
}
cases = pytest.mark.parametrize("name", CASES)


def entries_of(model, choice):
    """Name to the entries that are zero once the selection has left, found by zeroing a model of ones."""
    ones = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1.0)
    return {name: value == 0 for name, value in pc.zero(ones, choice).named_parameters()}


def matching_groups(groups, adapted):
    """For each group of the model the group of the model with adapters that holds the same entries of the first's."""
    found = {}
    for index, lines in groups.state.items():
        name = groups.graph.values[index].name
        for dim, labels in enumerate(lines):
            other = adapted.dims[adapted.graph.names[name]][dim]
            for mine, theirs in zip(labels.tolist(), other.tolist(), strict=True):
                if mine:
                    assert found.setdefault(mine, theirs) == theirs
    return found


@functools.cache
def built(name, targets):
    """A model with adapters, its input, the partitions of it without and with adapters, and how their groups pair."""
    model, x = CASES[name]()
    model, x = model.double(), x.double() if x.is_floating_point() else x
    groups = partitioned(model, x)
    attach(model, groups, SMALL, torch.Generator(), targets=targets)
    whole_numbers(model)
    other = partitioned(model, x)
    return model, x, groups, other, matching_groups(groups, other)


@cases
@pytest.mark.parametrize("targets", [(), ("*",)])
def test_slices_of_adapters_are_those_the_engine_finds_itself(name, targets):
    """The model with adapters, traced and partitioned as any other, against the original's partition with adapters."""
    model, _, groups, other, pairs = built(name, targets)
    mine = adapters(model).units(units(model, groups))
    assert mine.groups.fingerprint == groups.fingerprint
    named = {(item.name, item.dim) for item in mine.slices}
    assert not {pair for weight in adapters(model).layers for pair in ranks(weight)} & named
    assert len(pairs) == groups.count
    looked = 0
    for number, twin in pairs.items():
        wanted = entries_of(model, other.select([twin]))
        seen = {key: torch.zeros_like(value) for key, value in wanted.items()}
        for key, dim, positions in mine.rows_of([number]):
            if key in seen:
                seen[key].index_fill_(dim, positions, True)
        for key, value in wanted.items():
            assert torch.equal(seen[key], value), (number, key)
            looked += int(value.any() and "lora" in key)
    assert looked >= groups.count


def ranks(weight):
    path = weight.removesuffix("weight")
    return (f"{path}lora_A", 0), (f"{path}lora_B", 1)


@cases
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_merging_then_pruning_is_pruning_then_merging(name, data):
    """Bit for bit, in whole numbers; and all three are the model with adapters, by the field oracle."""
    model, x, groups, other, pairs = built(name, data.draw(st.sampled_from([(), ("*",)])))
    model = whole_numbers(copy.deepcopy(model), data.draw(st.integers(0, 9)))
    axes = [np.flatnonzero(groups.axis_of == axis) for axis in np.unique(groups.axis_of[1:])]
    gone = [
        int(g) for axis in axes for g in data.draw(st.permutations([*axis]))[: data.draw(st.integers(0, axis.size - 1))]
    ]
    choice = groups.select([g for g in sorted(gone) if g])
    rows = Rows(adapters(model).units(units(model, groups)))
    for tensor, dim, positions in rows.places(choice.removed):
        tensor.detach().index_fill_(dim, positions, 0)

    compact = pc.extract(model, other.select(sorted(pairs[g] for g in choice.removed)))
    assert pc.equivalent(model, compact, x, oracle="field").equal
    merged = copy.deepcopy(model)
    adapters(merged).merge()
    assert pc.equivalent(model, merged, x, oracle="field").equal
    assert on.same(on.state_of(pc.zero(merged, choice)), on.state_of(merged))  # its zeros are exact
    subnet = pc.extract(merged, choice)
    # Merged by hand: where no subnet of the same class can be built, it is a graph without the layers' hooks.
    state = on.state_of(compact)
    for weight, layer in adapters(model).layers.items():
        first, second = (state.pop(weight.removesuffix("weight") + leaf) for leaf in ("lora_A", "lora_B"))
        product = torch.einsum("or,ri->oi", second.flatten(1), first.flatten(1))
        state[weight] += SMALL.scale * (
            product.t() if isinstance(layer, nn.Embedding) else product.view_as(state[weight])
        )
    assert on.same(state, on.state_of(subnet))
