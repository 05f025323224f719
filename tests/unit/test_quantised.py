"""Quantised models: `unsupported`, with the quantised operation named, and never a crash."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.checks.quantised import quantised_operation, quantised_state
from conformance.checks.runner import check
from conformance.report.schema import Outcome

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ENGINES = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
pytestmark = [
    pytest.mark.skipif(not ENGINES, reason="this torch has no engine for quantised kernels"),
    pytest.mark.filterwarnings("ignore"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.conv, self.act, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x):
        made = self.act(self.conv(self.enter(x))).mean((2, 3))
        return self.leave(self.head(made))


@pytest.fixture
def static():
    """Every layer quantised: no parameter is left."""
    torch.backends.quantized.engine = ENGINES[0]
    net = Net().eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig(ENGINES[0])
    prepared = torch.ao.quantization.prepare(net)
    prepared(X)
    return torch.ao.quantization.convert(prepared)


@pytest.fixture
def dynamic():
    """The linear layer quantised, the convolution as it was."""
    torch.backends.quantized.engine = ENGINES[0]
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})


def outcomes(report):
    return {result.id: result.outcome for result in report.checks}


def test_a_quantised_model_is_unsupported_and_its_operation_named(static):
    report = pc.check_model(static, X)
    assert report.outcome is Outcome.UNSUPPORTED
    assert "conv (torch.ao.nn.quantized" in report.reason
    assert "holds quantised weights: aten.quantize_per_tensor" in report.reason
    found = outcomes(report)
    assert {found[f"L0.{name}"] for name in ("forward", "deterministic")} == {Outcome.PASS}
    assert found["L0.traceable"] is Outcome.UNSUPPORTED
    assert Outcome.ERROR not in found.values()
    assert Outcome.FAIL not in found.values()


def test_so_is_one_with_a_quantised_layer(dynamic):
    report = pc.check_model(dynamic, X)
    assert report.outcome is Outcome.UNSUPPORTED
    assert "3._packed_params (torch.ao.nn.quantized" in report.reason
    assert "quantized.linear_dynamic in 3" in report.reason


def test_the_same_model_before_is_supported():
    net = Net()
    assert quantised_state(net) == ""
    assert quantised_operation(pc.trace(net, X)) == ""
    assert pc.check_model(net, X).outcome is Outcome.PASS


def test_weights_that_are_integers_in_a_layer_of_ones_own():
    """No torch module knows of these: the operation gives them away."""

    class Int8(nn.Module):
        def __init__(self):
            super().__init__()
            self.front = nn.Linear(3, 16)
            self.register_buffer("weight", torch.randint(-9, 9, (16, 16), dtype=torch.int8))

        def forward(self, x):
            rows = self.front(x)
            scale = rows.detach().abs().amax() / 127
            return torch._int_mm((rows / scale).round().to(torch.int8), self.weight) * scale

    net = Int8()
    assert quantised_state(net) == ""
    report = pc.check_model(net, torch.randn(32, 3))
    assert report.outcome is Outcome.UNSUPPORTED
    assert "computes with quantised numbers: aten._int_mm" in report.reason


@pytest.mark.zoo
@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is missing")
def test_torchvisions_quantised_models_are_quantised():
    from backends.torchvision_zoo import collection

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check(collection.get("quantized_shufflenet_v2_x0_5"), level=1)
    assert report.outcome is Outcome.UNSUPPORTED
    assert "holds quantised weights" in report.reason
