"""Members that are columns, measured by kernels: on a GPU, or interpreted on the CPU as in test_oto_kernels.py."""

from __future__ import annotations

import oto_nets as on
import pytest
import torch
from torch import nn

import conformance as pc
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, Cycles, Quota, Rows, gpu
from reference_impls.oto.gpu_motion import GpuMotion, Pairs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if not gpu.usable(torch.zeros(0, device=DEVICE).device, torch.float32):
    pytest.skip("there is no CUDA device, and nothing is interpreted here", allow_module_level=True)

SHAPES = {
    "one": (1, 1),
    "wide": (3, 300),
    "tall": (700, 130),
    "long": (700, 3),
    "image": (70, 6, 3, 3),
    "channels last": (70, 6, 3, 3),
    "empty": (0, 5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", ["step", "copy", "squares"])
def test_products_of_columns(shape, dtype, case, monkeypatch):
    if shape == "long":
        monkeypatch.setattr(gpu, "_PARTS", 4)
    torch.manual_seed(0)
    x, step = (torch.randn(SHAPES[shape], dtype=torch.float32).to(DEVICE, dtype) for _ in range(2))
    if shape == "channels last":
        x, step = (one.to(memory_format=torch.channels_last) for one in (x, step))
    step = x if case == "squares" else step
    out = torch.full((3, x.shape[1]), 7.0, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    out = out.to(DEVICE)
    gpu.columns(x, step, case != "step", out)
    one = x.double().transpose(0, 1).reshape(x.shape[1], -1)
    moved = step.double().transpose(0, 1).reshape(x.shape[1], -1) - (case != "step") * one
    wanted = torch.stack([(one * one).sum(1), (one * moved).sum(1), (moved * moved).sum(1)])
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


def test_the_same_bits_each_time_and_with_squares_alone():
    torch.manual_seed(1)
    x, step = torch.randn(500, 20, device=DEVICE), torch.randn(500, 20, device=DEVICE)
    found = [torch.empty(3, 20, device=DEVICE) for _ in range(3)]
    for out, other, copied in zip(found, (step, step, x), (False, False, True), strict=True):
        gpu.columns(x, other, copied, out)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][0], found[2][0])
    assert not found[2][1:].any()


class Words(nn.Module):
    """An embedding's columns are of the groups of the residual stream."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 8)
        self.up, self.down, self.fc = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = self.embed(x)
        y = y + self.down(torch.relu(self.up(y)))
        return self.fc(y.mean(1))


METHODS = {
    "hspg": (HSPG, {"start_step": 2, "penalty": 0.02}),
    "dhspg": (DHSPG, {"start_step": 2, "penalty": 0.3}),
    "hesso": (HESSO, {"start_step": 2, "pruning_steps": 6, "periods": 2}),
}


def run(method, base, device):
    cls, options = METHODS[method]
    torch.manual_seed(0)
    model = Words().double().to(device)
    groups = pc.partition(pc.trace(Words().double().eval(), torch.randint(0, 40, (2, 5))))
    quota = Quota(groups, Budget.parse("groups=0.5"), Limits(), Cost(groups))
    near = {} if cls is HESSO else {"epsilon": {"momentum": 0.98, "adamw": 0.999}[base]}
    optimizer = cls(on.BASES[base](model.parameters()), Rows(units(model, groups)), quota, **near, **options)
    gone = []
    for step in range(7):
        on.give_gradients(model, step)
        optimizer.step()
        gone.append(optimizer.zero_groups.tolist())
    return {name: value.cpu() for name, value in on.state_of(model).items()}, gone, optimizer


@pytest.mark.parametrize("base", ["momentum", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_same_as_without_kernels(method, base, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "usable", lambda device, dtype: False)
        one = run(method, base, "cpu")
    asked, columns = [], gpu.columns
    monkeypatch.setattr(gpu, "columns", lambda *args: asked.append(args[0].shape) or columns(*args))
    other = run(method, base, DEVICE)
    assert one[1] == other[1]
    assert other[1][-1]
    for name, value in one[0].items():
        torch.testing.assert_close(value, other[0][name], rtol=1e-9, atol=1e-12)
    assert (40, 8) in asked
    assert method == "hesso" or isinstance(other[2]._motion, GpuMotion)


def test_nothing_is_sent_again_where_squares_and_products_take_turns(monkeypatch):
    """HESSO-CRIC asks for both in every step."""
    model = Words().double().to(DEVICE)
    groups = pc.partition(pc.trace(Words().double().eval(), torch.randint(0, 40, (2, 5))))
    quota = Quota(groups, Budget.parse("groups=0.5"), Limits(), Cost(groups))
    cycles = Cycles(steps=10, most=1, loss_weight=0)
    base = on.BASES["momentum"](model.parameters())
    optimizer = HESSOCRIC(base, Rows(units(model, groups)), quota, start_step=0, fade_steps=3, cycles=cycles)
    on.train(model, optimizer, 3)
    sent, send, asked, taken = [], gpu.sent, [], Pairs._taken
    monkeypatch.setattr(gpu, "sent", lambda line, device: sent.append(line.dtype) or send(line, device))
    monkeypatch.setattr(Pairs, "_taken", lambda self, member: asked.append(member.name) or taken(self, member))
    on.train(model, optimizer, 3, start=3)
    assert torch.int64 not in sent
    assert not asked
