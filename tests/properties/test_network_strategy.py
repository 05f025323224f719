"""The strategy of random networks: every draw runs, every kind of layer comes, failures shrink and can be repeated."""

from __future__ import annotations

import collections

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import conformance as pc
from conformance.errors import ConformanceError, UsageError
from conformance.partition.rules.registry import RULES
from conformance.strategies import INPUTS, Form, Layer, Network, blocks, layers, networks, sequence
from conformance.strategies.description import chain, through
from conformance.strategies.layers import Linear, Norm
from conformance.strategies.reshaping import Rearranged

THOROUGH = settings(
    max_examples=2000, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
CODE = {"Network": Network, "Form": Form, **Layer.kinds}


@given(net=networks())
def test_a_network_runs_and_gives_what_its_description_says(net):
    model, args = net.build()
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        inside = chain(net.layers, net.input).eval()(*args)
        out = model(*args)
    assert inside.shape == (2, *through(net.layers, net.input).shape)
    assert out.shape[0] == 2
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert [tuple(one.shape[1:]) for one in net.inputs(3)] == [tuple(one.shape[1:]) for one in args]


@given(net=networks())
def test_what_is_printed_makes_the_network_again(net):
    assert eval(repr(net), CODE) == net
    assert Network.from_json(net.to_json()) == net
    assert hash(net) == hash(eval(repr(net), CODE))


@given(net=networks())
def test_building_twice_gives_the_same_and_draws_nothing_from_the_global_generator(net):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    (one, args), (other, same) = net.build(), net.build()
    assert torch.equal(torch.get_rng_state(), before)
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(args, same, strict=True))


def test_every_kind_of_layer_comes():
    """And of every kind with a choice inside, every choice."""
    seen = collections.Counter()

    @given(net=networks())
    @settings(THOROUGH, max_examples=1000, phases=[hypothesis.Phase.generate])
    def collect(net):
        kinds = {type(layer).__name__ for layer in net.walk()}
        kinds |= {f"norm {layer.kind}" for layer in net.walk() if isinstance(layer, Norm)}
        kinds |= {f"order {layer.kind}" for layer in net.walk() if isinstance(layer, Rearranged)}
        kinds |= {f"join {layer.join}" for layer in net.walk() if isinstance(layer, blocks.Branches)}
        kinds |= {f"cut {layer.how}" for layer in net.walk() if isinstance(layer, blocks.Split)}
        kinds |= {f"style {layer.style}" for layer in net.walk() if isinstance(layer, sequence.Attention)}
        kinds |= {f"cell {layer.kind}" for layer in net.walk() if isinstance(layer, sequence.Recurrent)}
        kinds |= {f"readout {net.readout}", f"input {net.input.layout} {net.input.rank}"}
        convolutions = [layer for layer in net.walk() if isinstance(layer, layers.Conv)]
        kinds |= {"grouped" for conv in convolutions if 1 < conv.groups < conv.outputs}
        kinds |= {"depthwise" for conv in convolutions if conv.groups == conv.outputs > 1}
        seen.update(kinds)

    collect()
    wanted = {*Layer.kinds, "grouped", "depthwise"}
    wanted |= {f"norm {kind}" for kind in layers.NORMS} | {f"style {style}" for style in sequence.STYLES}
    wanted |= {f"order {kind}" for kind in ("flip", "roll", "even", "index")}
    wanted |= {f"join {kind}" for kind in ("cat", "stack", "product", "maximum")}
    wanted |= {f"cut {kind}" for kind in ("split", "chunk", "narrow")} | {f"cell {kind}" for kind in sequence.RECURRENT}
    wanted |= {f"readout {kind}" for kind in ("dense", "mean", "max", "flat", "tied")}
    wanted |= {"input flat 0", "input tokens 1", "input ids 1", "input maps 1", "input maps 2", "input maps 3"}
    assert wanted <= seen.keys(), wanted - seen.keys()


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_inputs_are_those_asked_for(inputs):
    found = hypothesis.find(networks([inputs]), lambda net: True, settings=THOROUGH)
    layout, _, rank = inputs.partition("-")
    assert found.input.layout == layout
    assert not rank or found.input.rank == int(rank[0])
    assert len(found.layers) <= 1


@pytest.mark.parametrize("inputs", [[], ["images"], ["flat", "maps-4d"]])
def test_an_unknown_input_is_refused(inputs):
    with pytest.raises(ValueError, match="inputs are some of flat, tokens"):
        networks(inputs)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"type": "Nothing"}', '{"type": "Linear"}', '{"type": "Linear", "outputs": 3}']
)
def test_text_that_is_no_network_is_refused(text):
    with pytest.raises(UsageError, match="not the description of a network"):
        Network.from_json(text)


# -- shrinking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "most"),
    [
        (lambda net: any(isinstance(layer, blocks.SqueezeExcite) for layer in net.walk()), 1),
        (lambda net: any(isinstance(layer, sequence.Attention) for layer in net.walk()), 1),
        (lambda net: any(isinstance(layer, layers.Conv) and layer.groups > 1 for layer in net.walk()), 2),
        (lambda net: any(isinstance(layer, blocks.Split) and any(layer.bodies) for layer in net.walk()), 3),
    ],
    ids=["squeeze-excite", "attention", "grouped convolution", "split with a layer inside"],
)
def test_what_matters_is_all_that_stays(condition, most):
    found = hypothesis.find(networks(), condition, settings=THOROUGH)
    assert condition(found)
    assert len(list(found.walk())) <= most, found


def inexact(net):
    """Whether a subnet is not the zeroed model, or there is no subnet."""
    model, args = net.build()
    groups = pc.partition(pc.trace(model, args))
    for fraction in (0.5, 1.0):
        choice = groups.sample(fraction)
        try:
            verdict = pc.equivalent(pc.zero(model, choice), pc.extract(model, choice), args)
        except ConformanceError:
            return True
        if not verdict.equal:
            return True
    return False


def test_a_rule_that_is_wrong_is_found_and_shrinks_to_two_layers(monkeypatch):
    """Planted: channels in reverse order are taken for channels in the same order."""
    smallest = Network(Form("flat", 1), (Linear(2), Rearranged("flip")))
    assert not inexact(smallest)
    monkeypatch.setitem(RULES, "flip", lambda p, call: [list(call["self"].dims)])
    assert inexact(smallest)

    @given(net=networks(["flat"]))
    @settings(THOROUGH, max_examples=300, print_blob=False)
    def every_subnet_is_exact(net):
        assert not inexact(net)

    with pytest.raises(AssertionError) as failure:
        every_subnet_is_exact()
    (line,) = (line for line in "\n".join(failure.value.__notes__).splitlines() if "net=" in line)
    found = eval(line.strip().removeprefix("net=").rstrip(","), CODE)
    assert len(list(found.walk())) <= 2, found
    assert any(isinstance(layer, Rearranged) and layer.kind == "flip" for layer in found.layers)
    assert inexact(found), "what is printed repeats the failure"
