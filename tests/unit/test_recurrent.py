"""Hidden units of recurrent layers: against torch's documented layout, and against layers cut by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import conformance as pc

HIDDEN, INPUTS = 6, 5
X = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.stem, self.layer = nn.Linear(3, INPUTS), layer
        out = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        self.head = nn.Linear(out, 2)

    def forward(self, x):
        steps = self.stem(x)
        states = self.layer(steps if self.layer.batch_first else steps.transpose(0, 1))[0]
        return self.head(states.mean(1 if self.layer.batch_first else 0))


def layer_of(mode="LSTM", **options):
    kind = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(mode, nn.RNN)
    if kind is nn.RNN:
        options["nonlinearity"] = mode.partition("_")[2].lower()
    return kind(INPUTS, HIDDEN, **{"batch_first": True, **options})


def net_of(mode="LSTM", **options):
    torch.manual_seed(0)
    return pc.randomised(Net(layer_of(mode, **options)).double().eval())


def names(layer, part):
    """The parameters of one part of every layer and direction."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"{part}_l{level}{end}" for level in range(layer.num_layers) for end in ends]


def unit_slices(layer, unit):
    """What leaves with a unit, from the layout in torch's documentation: gates are stacked in the rows."""
    rows = [unit + gate * HIDDEN for gate in range(GATES[layer.mode])]
    found = {name: {0: rows} for part in ("weight_ih", "weight_hh") for name in names(layer, part)}
    if layer.bias:
        found |= {name: {0: rows} for part in ("bias_ih", "bias_hh") for name in names(layer, part)}
    if layer.proj_size:  # the projection reads the unit, everybody else reads the projection
        return found | {name: {1: [unit]} for name in names(layer, "weight_hr")}
    for name in names(layer, "weight_hh"):
        found[name] = {**found[name], 1: [unit]}
    for name in names(layer, "weight_ih"):
        if "_l0" not in name:
            found[name] = {**found[name], 1: [unit, unit + HIDDEN] if layer.bidirectional else [unit]}
    return found


def unit_group(groups, unit, part="weight_ih_l0", dim=0):
    return int(groups.dims[groups.graph.names[f"layer.{part}"]][dim][unit])


VARIANTS = [
    *((mode, {}) for mode in GATES),
    *((mode, {"num_layers": 2, "bidirectional": True}) for mode in GATES),
    ("LSTM", {"bias": False, "num_layers": 3}),
    ("GRU", {"batch_first": False, "bias": False, "bidirectional": True}),
    ("LSTM", {"proj_size": 4}),
    ("LSTM", {"proj_size": 4, "num_layers": 2, "bidirectional": True, "bias": False}),
]
variants = pytest.mark.parametrize(("mode", "options"), VARIANTS, ids=str)


@variants
def test_a_unit_is_what_the_documented_layout_says(mode, options):
    net = net_of(mode, **options)
    groups = pc.partition(pc.trace(net, X))
    for unit in range(HIDDEN):
        choice = groups.select([unit_group(groups, unit)])
        found = {
            name.removeprefix("layer."): dims for name, dims in choice.slices().items() if name.startswith("layer.")
        }
        assert found == unit_slices(net.layer, unit)
        assert groups.modes[choice.removed[0]] == "producers"


def cut_by_hand(net, units):
    """A new layer of torch.nn without these units, and the head's columns for it."""
    layer, kept = net.layer, [unit for unit in range(HIDDEN) if unit not in units]
    options = {name: getattr(layer, name) for name in ("num_layers", "bias", "batch_first", "bidirectional")}
    if isinstance(layer, nn.RNN):
        options["nonlinearity"] = layer.nonlinearity
    small = type(layer)(INPUTS, len(kept), **options).double().eval()
    rows = [unit + gate * HIDDEN for gate in range(GATES[layer.mode]) for unit in kept]
    sides = [unit + side * HIDDEN for side in range(1 + layer.bidirectional) for unit in kept]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            cut = parameter[rows]
            if name.startswith("weight_hh"):
                cut = cut[:, kept]
            elif name.startswith("weight_ih") and "_l0" not in name:
                cut = cut[:, sides]
            getattr(small, name).copy_(cut)
    return small, sides


def with_layer(net, small, columns):
    made = Net(small).double().eval()
    made.stem.load_state_dict(net.stem.state_dict())
    made.head.load_state_dict({"weight": net.head.weight[:, columns], "bias": net.head.bias})
    return made


@variants
def test_the_zeroed_layer_is_the_layer_cut_by_hand(mode, options):
    if options.get("proj_size"):
        pytest.skip("its outputs are projections of the units")
    net = net_of(mode, **options)
    groups = pc.partition(pc.trace(net, X))
    choice = groups.select([unit_group(groups, unit) for unit in (0, 3, 4)])
    full, subnet = pc.zero(net, choice), pc.extract(net, choice)
    states = full.layer(torch.randn(2, 2, INPUTS, dtype=torch.float64))[0].unflatten(-1, (-1, HIDDEN))
    assert not states[..., [0, 3, 4]].any()
    small, columns = cut_by_hand(net, {0, 3, 4})
    by_hand = with_layer(net, small, columns)
    torch.testing.assert_close(full(X), by_hand(X), rtol=1e-12, atol=1e-13)
    pc.assert_equivalent(full, by_hand, X)
    assert type(subnet.layer) is type(net.layer)
    assert all(torch.equal(by_hand.state_dict()[name], tensor) for name, tensor in subnet.state_dict().items())


def exchange_gates(small, name, rows):
    tensor = getattr(small, name)
    tensor[rows] = tensor[rows[::-1]]


FAULTS = {
    "two gates of one unit exchanged": lambda s: exchange_gates(s, "weight_ih_l0", [1, 4]),
    "recurrent columns exchanged": lambda s: s.weight_hh_l0.copy_(s.weight_hh_l0[:, [1, 0, 2]]),
    "one direction shifted": lambda s: s.weight_ih_l0_reverse.copy_(s.weight_ih_l0_reverse.roll(1, 0)),
    "a bias of a gate lost": lambda s: s.bias_hh_l0[4].zero_(),
    "second layer reads the other direction": lambda s: s.weight_ih_l1.copy_(s.weight_ih_l1.roll(3, 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_planted_faults_are_found(mode, fault):
    net = net_of(mode, num_layers=2, bidirectional=True)
    groups = pc.partition(pc.trace(net, X))
    choice = groups.select([unit_group(groups, unit) for unit in (0, 3, 4)])
    full, (small, columns) = pc.zero(net, choice), cut_by_hand(net, {0, 3, 4})
    pc.assert_equivalent(full, with_layer(net, small, columns), X)
    with torch.no_grad():
        FAULTS[fault](small)
    assert not pc.equivalent(full, with_layer(net, small, columns), X).equal


@settings(deadline=None, max_examples=15)
@given(
    mode=st.sampled_from(sorted(GATES)), layers=st.integers(1, 3), bias=st.booleans(), batch_first=st.booleans(),
    bidirectional=st.booleans(), fraction=st.sampled_from([0.2, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_selection_of_any_form_is_exact(mode, layers, bias, batch_first, bidirectional, fraction, seed):
    net = net_of(mode, num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    groups = pc.partition(pc.trace(net, X))
    choice = groups.sample(fraction, seed)
    full, subnet = pc.zero(net, choice), pc.extract(net, choice)
    assert type(subnet) is Net
    for oracle in ("field", "float64"):
        pc.assert_equivalent(full, subnet, X, oracle=oracle)


class Started(nn.Module):
    def __init__(self, layer, states):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(HIDDEN, 2)
        self.states = nn.ParameterList(states)

    def forward(self, x, *given):
        states = given or [state.expand(-1, x.shape[0], -1) for state in self.states]
        out = self.layer(x, tuple(states) if isinstance(self.layer, nn.LSTM) else states[0])[0]
        return self.head(out[:, -1])


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_RELU"])
def test_units_of_a_given_state_stay(mode):
    count = 2 if mode == "LSTM" else 1
    net = Started(layer_of(mode), []).double().eval()
    x = torch.randn(2, 4, INPUTS, dtype=torch.float64)
    groups = pc.partition(pc.trace(net, (x, *(torch.randn(1, 2, HIDDEN, dtype=torch.float64) for _ in range(count)))))
    assert groups.count == 0
    assert "held back: joins it to a fixed dimension" in groups.explain("layer.weight_hh_l0", 1)


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_RELU"])
def test_a_learned_state_leaves_with_its_unit(mode):
    count = 2 if mode == "LSTM" else 1
    states = [nn.Parameter(torch.randn(1, 1, HIDDEN)) for _ in range(count)]
    net = Started(layer_of(mode), states).double().eval()
    x = torch.randn(2, 4, INPUTS, dtype=torch.float64)
    groups = pc.partition(pc.trace(net, x))
    choice = groups.select([1, 4])
    assert choice.slices()["states.0"] == {2: [0, 3]}
    full, subnet = pc.zero(net, choice), pc.extract(net, choice)
    for oracle in ("field", "float64"):
        pc.assert_equivalent(full, subnet, x, oracle=oracle)
    with torch.no_grad():  # the memory of a unit that was kept
        subnet.states[count - 1][0, 0, 0] += 1
    assert not pc.equivalent(full, subnet, x).equal


def test_a_projection_cannot_be_as_wide_as_the_layer_in_its_own_class():
    """nn.LSTM needs proj_size < hidden_size: the traced graph does not."""
    net = net_of("LSTM", proj_size=4)
    groups = pc.partition(pc.trace(net, X))
    units = [unit_group(groups, unit) for unit in (0, 3)]
    choice = groups.select(units)
    subnet = pc.extract(net, choice)
    assert pc.kind_of(subnet) == "graph"
    pc.assert_equivalent(pc.zero(net, choice), subnet, X)
    fewer = pc.extract(net, groups.select(units[:1]))
    assert (fewer.layer.hidden_size, fewer.layer.proj_size) == (5, 4)
