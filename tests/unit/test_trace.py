"""The tape: what is recorded, where it came from, what aliasing does to it, and that nothing is left behind."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as fn

import conformance as pc
from conformance.errors import TraceError
from conformance.graph.tape import Ref, refs, replace
from conformance.partition.rules import base_name


class Net(nn.Module):
    """Modules by name, and a function of them and the inputs as forward."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def names(graph):
    return [base_name(node.op) for node in graph.nodes]


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


# -- what is written down --------------------------------------------------------------------------


def test_operations_in_order_with_module_and_source_line():
    net = Net(lambda self, x: fn.relu(self.inner(x)) * 2, inner=nn.Linear(3, 4))
    graph = pc.trace(net, X)
    product, relu, doubled = [node for node in graph.nodes if base_name(node.op) in ("addmm", "relu", "mul")]
    assert (product.module, relu.module, doubled.module) == ("inner", "", "")
    assert product.source.file.endswith("linear.py")
    code = net.function.__code__
    assert (doubled.source.file, doubled.source.line) == (code.co_filename, code.co_firstlineno)
    assert doubled.where == f"aten.mul.Tensor ({Path('tests', 'unit', 'test_trace.py')}:{code.co_firstlineno})"
    assert product.where.startswith("aten.addmm in inner (")


def test_parameters_buffers_inputs_and_results_are_told_apart():
    graph = pc.trace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), X)
    kinds = {name: graph.values[index].kind for name, index in graph.names.items()}
    assert kinds == {
        "0.weight": "parameter", "0.bias": "parameter", "1.weight": "parameter", "1.bias": "parameter",
        "1.running_mean": "buffer", "1.running_var": "buffer", "1.num_batches_tracked": "buffer",
    }  # fmt: skip
    assert [graph.values[index].kind for index in graph.inputs] == ["input"]
    assert graph.values[graph.inputs[0]].shape == (2, 3)
    assert [graph.values[index].kind for index in graph.outputs] == ["result"]
    assert [value.kind for value in graph.values].count("result") >= len(graph.nodes)


def test_tied_parameters_are_one_value_with_two_names():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    graph = pc.trace(net, X)
    assert graph.names["0.weight"] == graph.names["1.weight"]
    assert graph.owners()[graph.names["0.weight"]] == ["0.weight", "1.weight"]


def test_a_module_called_twice_keeps_its_path():
    net = Net(lambda self, x: self.inner(self.inner(x)), inner=nn.Linear(3, 3))
    assert [node.module for node in pc.trace(net, X).nodes if base_name(node.op) == "addmm"] == ["inner", "inner"]


def test_calls_of_modules_know_their_number_place_and_values():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, scale=1):
            return self.layer(torch.relu(x)) * scale, x

    def forward(self, x):
        y, _ = self.block(x)
        return self.block(y + 1, scale=2)[0]

    graph = pc.trace(Net(forward, block=Block()), torch.randn(2, 4))
    told = [(call.module, call.number, call.parent) for call in graph.calls]
    assert told == [("", 0, -1), ("block", 0, 0), ("block.layer", 0, 1), ("block", 1, 0), ("block.layer", 1, 3)]
    root, first, inner, second, _ = graph.calls
    assert (root.first, root.last) == (0, len(graph.nodes))
    assert first.first <= inner.first < inner.last <= first.last <= second.first
    assert first.inputs == root.inputs == graph.inputs
    assert first.outputs[1] == graph.inputs[0]
    assert second.outputs[0] == graph.outputs[0]
    assert {graph.nodes[at].module for at in range(inner.first, inner.last)} == {"block.layer"}


def test_a_call_that_the_model_catches_does_not_confuse_the_others():
    class Raising(nn.Module):
        def forward(self, x):
            raise ValueError

    def forward(self, x):
        try:
            self.raising(x)
        except ValueError:
            return self.layer(x)

    graph = pc.trace(Net(forward, raising=Raising(), layer=nn.Linear(4, 4)), torch.randn(2, 4))
    assert graph.calls[0].last == len(graph.nodes)
    assert graph.nodes[-1].module == "layer"


def test_outputs_keep_their_structure():
    net = Net(lambda self, x: {"a": self.inner(x), "b": (x, [x + 1])}, inner=nn.Linear(3, 4))
    graph = pc.trace(net, X)
    assert list(graph.output_tree) == ["a", "b"]
    assert list(refs(graph.output_tree)) == list(graph.outputs)
    assert graph.output_tree["b"][0] == Ref(graph.inputs[0])
    shapes = replace(graph.output_tree, lambda ref: graph.values[ref.index].shape)
    assert shapes == {"a": (2, 4), "b": ((2, 3), [(2, 3)])}


def test_inputs_by_position_and_by_name():
    net = Net(lambda self, x, *, scale: self.inner(x) * scale, inner=nn.Linear(3, 4))
    graph = pc.trace(net, X, {"scale": torch.randn(4)})
    assert [graph.values[index].shape for index in graph.inputs] == [(2, 3), (4,)]


def test_composite_operations_arrive_decomposed():
    net = Net(lambda self, x: fn.scaled_dot_product_attention(*self.qkv(x)[:, None].chunk(3, -1)), qkv=nn.Linear(3, 12))
    found = names(pc.trace(net, X[None]))
    assert "bmm" in found
    assert any(name.endswith("softmax") for name in found)
    assert not any("attention" in name or name == "linear" for name in found)


# -- where it runs ---------------------------------------------------------------------------------


def test_the_meta_device_is_used_when_the_model_allows():
    seen = []

    def forward(self, x):
        seen.append(x.device.type)
        return self.inner(x)

    net = Net(forward, inner=nn.Linear(3, 4))
    assert pc.trace(net, X).device == "meta"
    assert seen == ["meta"]


def test_code_that_looks_at_values_gets_a_real_pass():
    net = Net(lambda self, x: self.inner(x) if x.sum() > 1e9 else -self.inner(x), inner=nn.Linear(3, 4))
    graph = pc.trace(net, X)
    assert graph.device == "real"
    assert "neg" in names(graph)


def test_a_tensor_made_outside_is_a_constant_with_its_data():
    table = torch.arange(4.0)
    net = Net(lambda self, x: self.inner(x) + table, inner=nn.Linear(3, 4))
    graph = pc.trace(net, X)
    assert graph.device == "real"
    (index,) = graph.constants
    assert graph.values[index].kind == "constant"
    assert torch.equal(graph.constants[index], table)


def test_both_passes_record_the_same():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(2, 3, 4, 4)
    meta, real = (pc.trace(net, x, device=device) for device in ("meta", "real"))
    assert names(meta) == names(real)
    assert pc.partition(meta).fingerprint == pc.partition(real).fingerprint


def test_a_huge_model_on_meta_needs_no_memory():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(1_000_000, 1_000_000), nn.ReLU(), nn.Linear(1_000_000, 2))
        x = torch.randn(2, 1_000_000)
    assert pc.trace(net, x).values[0].shape == (1_000_000, 1_000_000)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "device", "sentence"),
    [
        (lambda self, x: self.inner(x[:, :2]), None, "the model's forward raised RuntimeError: "),
        (lambda self, x: {}["key"], None, "the model's forward raised KeyError: 'key'"),
        (lambda self, x: "words", None, "the model returned no tensor but str"),
        (lambda self, x: self.inner(x) * x.sum().item(), "meta", "the model does not run on the meta device: "),
    ],
)
def test_a_model_that_does_not_run_is_one_sentence(forward, device, sentence):
    with pytest.raises(TraceError) as failure:
        pc.trace(Net(forward, inner=nn.Linear(3, 4)), X, device=device)
    assert str(failure.value).startswith(sentence)
    assert "\n" not in str(failure.value)


# -- nothing is left behind ------------------------------------------------------------------------


class Restless(nn.Module):
    """Draws numbers, counts, writes a buffer and an input, and drops out where it trains."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.drop = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.count += 1
        x.mul_(2)
        return self.drop(self.norm(self.inner(x + torch.rand_like(x))))


@pytest.mark.parametrize("device", ["meta", "real"])
def test_the_model_its_modes_the_inputs_and_the_generator_are_left_as_they_were(device):
    net, x = Restless().train(), X.clone()
    net.drop.eval()
    before = copy.deepcopy(net.state_dict())
    grads = [parameter.requires_grad for parameter in net.parameters()]
    modes = [module.training for module in net.modules()]
    owners = [id(parameter) for parameter in net.parameters()]
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    graph = pc.trace(net, x, device=device)
    assert graph.model is net
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, X)
    assert net.calls == 0
    assert [module.training for module in net.modules()] == modes == [True, True, True, False]
    assert [parameter.requires_grad for parameter in net.parameters()] == grads
    assert [id(parameter) for parameter in net.parameters()] == owners
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert "native_dropout" not in names(graph)
    assert all(not hooks for module in net.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))


@pytest.mark.parametrize("device", ["meta", "real"])
def test_a_pass_that_fails_leaves_no_hooks_modes_or_settings(device):
    def forward(self, x):
        self.inner(x)
        raise ValueError("in the middle")

    net = Net(forward, inner=nn.Linear(3, 4)).train()
    fast, grad = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()
    state = torch.random.get_rng_state()
    with pytest.raises(TraceError, match="in the middle"):
        pc.trace(net, X, device=device)
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert torch.is_grad_enabled() is grad
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert net.training
    assert net.inner(X).requires_grad


# -- aliasing --------------------------------------------------------------------------------------


def written(forward, width=4):
    """What the writes of a traced pass touched that is still read: by operation, the shapes."""
    graph = pc.trace(Net(forward, a=nn.Linear(3, width), b=nn.Linear(width, 2)), X)
    return {
        base_name(node.op): sorted(graph.values[index].shape for index in node.stale) for node in graph.nodes if node.stale
    }  # fmt: skip


def in_place(self, x):
    y = self.a(x)
    y.relu_()
    return self.b(y)


def read_through_a_view(self, x):
    y = self.a(x)
    flat = y.view(8)
    y.mul_(2)
    return self.b(flat.view(2, 4))


def written_through_a_view(self, x):
    y = self.a(x)
    y[:, :2].mul_(2)
    return self.b(y)


def another_part(self, x):
    left, right = self.a(x).split(2, 1)
    left.mul_(2)
    return self.b(torch.cat([right.relu(), right], 1))


def view_read_before(self, x):
    y = self.a(x)
    first = y.view(8).sum()
    y.mul_(2)
    return self.b(y) + first


def test_a_write_that_nobody_else_reads_is_no_alias():
    assert written(in_place) == {}
    assert written(view_read_before) == {}


def test_views_of_other_elements_are_no_aliases():
    found = written(another_part)
    # The whole that both parts were cut from is not read again either.
    assert found == {}


def test_an_alias_read_after_the_write_is_noted():
    assert written(read_through_a_view) == {"mul": [(8,)]}
    assert written(written_through_a_view) == {"mul": [(2, 4)]}


def test_a_write_without_an_alias_holds_nothing_back():
    net = Net(in_place, a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    groups = pc.partition(pc.trace(net, X))
    assert groups.count == 4
    choice = groups.select([1, 3])
    pc.assert_equivalent(pc.zero(net, choice), pc.extract(net, choice), X)


def test_a_number_made_of_numbers_ties_nothing_together():
    def forward(self, x):
        half = torch.div(self.a(x).size(1), 2, rounding_mode="trunc")
        return self.b(self.a(x)) * half

    net = Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    graph = pc.trace(net, X)
    assert any(base_name(node.op) == "div" and not list(refs(node.args)) for node in graph.nodes)
    groups = pc.partition(graph)
    assert groups.count == 4
    choice = groups.select([2])
    pc.assert_equivalent(pc.zero(net, choice), pc.extract(net, choice), X)
