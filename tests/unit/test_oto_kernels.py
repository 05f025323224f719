"""Kernels over rows: on a GPU where there is one, or interpreted on the CPU: TRITON_INTERPRET=1 pytest FILE.

Triton decides when it is imported whether it interprets, so test_oto_gpu.py runs this file in a process of its own.
"""

from __future__ import annotations

import io

import numpy as np
import oto_nets as on
import pytest
import torch

from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, AdaHSPG, Cycles, gpu
from reference_impls.oto.gpu_motion import GpuMotion, Pairs
from reference_impls.oto.layout import in_rows
from reference_impls.oto.rows import Fills, Lines, Scales

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if not gpu.usable(torch.zeros(0, device=DEVICE).device, torch.float32):
    pytest.skip("there is no CUDA device, and nothing is interpreted here", allow_module_level=True)

METHODS = {
    "hspg": (HSPG, {"start_step": 2, "penalty": 0.02}),
    "adahspg": (AdaHSPG, {"phase_steps": 3, "epsilon": 0.5, "penalty": 0.01, "complete": (5, 8)}),
    "dhspg": (DHSPG, {"start_step": 2, "penalty": 0.3}),
    "hesso": (HESSO, {"start_step": 2, "pruning_steps": 6, "periods": 2}),
    "cric": (HESSOCRIC, {"start_step": 1, "fade_steps": 3, "cycles": Cycles(steps=2, most=1, loss_weight=0)}),
}
FADING = {
    "hesso, fading": (HESSO, {"start_step": 2, "pruning_steps": 12, "periods": 2}),
    "cric, fading": (HESSOCRIC, {"start_step": 1, "fade_steps": 5, "cycles": Cycles(steps=2, most=1, loss_weight=0)}),
}
EPSILON = {"momentum": 0.98, "decayed": 0.93, "ascent": 0.98, "adamw": 0.995}
BASES = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "decayed": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-2),
    "ascent": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=1e-2, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def tensors(dtype):
    """Three of them, the rows that are looked at, and their places."""
    torch.manual_seed(0)
    found = [torch.randn(5, 3, 2, 2, dtype=dtype), torch.randn(4, dtype=dtype), torch.randn(6, 700, dtype=dtype)]
    rows = [np.array([0, 2, 4]), np.arange(4), np.array([1, 5])]
    places = np.split(np.arange(9), [3, 7])
    found = [tensor.to(DEVICE) for tensor in found]
    return found, rows, gpu.Table([gpu.Item(*item) for item in zip(found, rows, places, strict=True)])


def taken(tensor, rows):
    return tensor.double().reshape(len(tensor), -1)[torch.from_numpy(rows).to(tensor.device)]


dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)


@dtypes
def test_products_of_rows(dtype):
    found, rows, table = tensors(dtype)
    steps, copied = [torch.randn_like(tensor) for tensor in found], [False, True, False]
    figures = torch.full((3, 11), 7.0, dtype=table.sums, device=DEVICE)
    table.products(steps, copied, figures)
    wanted = []
    for tensor, step, line, flag in zip(found, steps, rows, copied, strict=True):
        x, moved = taken(tensor, line), taken(step, line)
        moved = moved - x if flag else moved
        wanted.append(torch.stack([(x * x).sum(1), (x * moved).sum(1), (moved * moved).sum(1)]))
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    torch.testing.assert_close(figures[:, :9].double(), torch.cat(wanted, 1), rtol=tolerance, atol=tolerance)
    assert bool((figures[:, 9:] == 7).all())


def test_tensors_are_left_out():
    """What has no gradient now, or one that is no rows: the table stays as it is."""
    found, _, table = tensors(torch.float64)
    steps, before = [torch.randn_like(tensor) for tensor in found], [tensor.clone() for tensor in found]
    figures = torch.full((3, 9), 7.0, dtype=torch.float64, device=DEVICE)
    table.products([steps[0], None, steps[2]], [False] * 3, figures)
    assert bool((figures[:, 3:7] == 7).all())
    assert not bool((figures[:, :3] == 7).any())
    half = torch.full((9,), 0.5, dtype=torch.float64, device=DEVICE)
    table.combine(half, half, [None, steps[1], None])
    assert torch.equal(found[0], before[0])
    assert torch.equal(found[2], before[2])
    torch.testing.assert_close(found[1], (before[1] + steps[1]) / 2)
    into = [tensor.clone() for tensor in steps]
    table.combine(None, half, found, into=[None, into[1], into[2]])
    assert torch.equal(into[0], steps[0])
    torch.testing.assert_close(into[2][1], steps[2][1] + found[2][1] / 2)


@dtypes
@pytest.mark.parametrize("case", ["both", "kept", "taken", "into"])
def test_rows_are_combined(dtype, case):
    found, rows, table = tensors(dtype)
    steps = [torch.randn_like(tensor) for tensor in found]
    kept, share = (torch.rand(9, dtype=table.sums, device=DEVICE) for _ in range(2))
    kept[0], share[0], kept[1], share[1] = 1, 0, 0, 0
    into = [torch.randn_like(tensor) for tensor in found] if case == "into" else found
    before = [tensor.clone() for tensor in into]
    if case in ("both", "kept"):
        into[0][2] = torch.nan  # the row that is set to zero
    one, other = (kept if case != "taken" else None), (share if case != "kept" else None)
    table.combine(one, other, steps, into=into if case == "into" else None)
    place = 0
    for tensor, old, step, line in zip(into, before, steps, rows, strict=True):
        wanted = old.double().reshape(len(old), -1).clone()
        for row in line:
            wanted[row] = (1 if one is None else one[place]) * wanted[row]
            wanted[row] += (0 if other is None else other[place]) * step.double().reshape(len(step), -1)[row]
            place += 1
        torch.testing.assert_close(tensor, wanted.to(dtype).view_as(tensor))


@pytest.mark.skipif(DEVICE == "cuda", reason="what is read is seen by the interpreter alone")
def test_rows_that_become_zero_are_not_read(monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    read, load = [], InterpreterBuilder.create_masked_load

    def spied(self, addresses, mask, *rest):
        if mask.data.size > 1:  # not addresses and factors
            read.append(int(mask.data.sum()))
        return load(self, addresses, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", spied)
    found, rows, table = tensors(torch.float32)
    table.combine(torch.zeros(9))
    assert read
    assert not sum(read)
    assert not any(tensor[torch.from_numpy(line)].any() for tensor, line in zip(found, rows, strict=True))
    table.combine(torch.full((9,), 0.5))
    assert sum(read) == 3 * 12 + 4 + 2 * 700


def test_layouts_that_are_no_rows():
    image = torch.randn(4, 3, 2, 2)
    last = image.to(memory_format=torch.channels_last)
    assert in_rows(image)
    assert in_rows(last, last.clone())
    assert not in_rows(image, last)
    assert not in_rows(torch.randn(4, 6).t())
    assert not in_rows(torch.zeros(4, dtype=torch.int64))
    assert not in_rows(image, image.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_are_zeroed_and_scaled(dtype):
    counts, weight, columns = torch.arange(4), torch.randn(4, 3, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    moved = [tensor.clone().to(DEVICE) for tensor in (counts, weight, columns)]
    at = torch.tensor([1, 3], device=DEVICE)
    places = [(moved[0], 0, at), (moved[1], 0, at), (moved[2], 1, at)]
    Scales(places).run(0.3)
    Fills([(tensor, dim, at[:1]) for tensor, dim, _ in places]).run()
    assert moved[0].tolist() == [0, 0, 2, 3]  # a count is no number to be scaled
    torch.testing.assert_close(moved[1].cpu()[3], 0.3 * weight[3])
    torch.testing.assert_close(moved[2].cpu()[:, 3], 0.3 * columns[:, 3])
    assert not moved[1][1].any()
    assert not moved[2][:, 1].any()
    assert torch.equal(moved[1].cpu()[[0, 2]], weight[[0, 2]])


EXCHANGED = {
    "copies": lambda model: [setattr(one, "data", one.data.clone()) for one in model.parameters()],
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
}


def run(method, base, device, steps=9, layout=torch.contiguous_format, silent=(), reload=None, exchanged=None):
    """A net in float64 after some steps, and its groups at zero after each."""
    cls, options = {**METHODS, **FADING}[method]
    model = on.net().to(device, memory_format=layout)
    near = {} if cls in (HESSO, HESSOCRIC, AdaHSPG) else {"epsilon": EPSILON[base]}
    optimizer = on.wrapped(cls, model, BASES[base], **near, **options)
    gone = []
    for step in range(steps):
        if step == reload:
            buffer = io.BytesIO()
            torch.save(optimizer.state_dict(), buffer)
            buffer.seek(0)
            optimizer = on.wrapped(cls, model, BASES[base], **near, **options)
            optimizer.load_state_dict(torch.load(buffer, weights_only=True))
        if exchanged and step in (3, 5):
            old = [one.data for one in model.parameters()]
            EXCHANGED[exchanged](model)
            for before, one in zip(old, model.parameters(), strict=True):
                if before.data_ptr() != one.data_ptr():
                    before.fill_(torch.nan)
        on.give_gradients(model, step)
        for name, parameter in model.named_parameters():
            if name in silent and step % 3 == 1:
                parameter.grad = None
            elif parameter.ndim == 4:
                parameter.grad = parameter.grad.contiguous(memory_format=layout)
        on.corrected(optimizer, lambda step=step: on.give_gradients(model, step))
        optimizer.step(loss=torch.tensor(1.0 + step % 3))
        gone.append(optimizer.zero_groups.tolist())
    return {name: value.cpu() for name, value in on.state_of(model).items()}, gone, optimizer


def assert_as_without_kernels(monkeypatch, *case, **options):
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "usable", lambda device, dtype: False)
        one = run(*case, "cpu", **options)
    other = run(*case, DEVICE, **options)
    assert one[1] == other[1]
    for name, value in one[0].items():
        torch.testing.assert_close(value, other[0][name], rtol=1e-9, atol=1e-12)
    return other[2]


@pytest.mark.parametrize("base", BASES)
def test_a_penalised_step_is_measured_as_it_was(base):
    """Penalty and decay included, wherever they were added."""
    model = on.net().to(DEVICE)
    optimizer = on.wrapped(HSPG, model, BASES[base], start_step=0, penalty=0.5)
    for step in range(2):
        on.give_gradients(model, step)
        optimizer.step()
    on.give_gradients(model, 2)
    before = {id(parameter): parameter.detach().clone() for parameter in model.parameters()}
    with torch.no_grad():
        optimizer.moved(optimizer._motion, torch.full_like(optimizer.rows.zeros(), 0.3))
    found = optimizer._motion.products()
    lines = optimizer._motion.lines
    inner = lines.total(found.new + found.scale * found.cross)
    old = [before[id(member.tensor)] for member in lines.members]
    torch.testing.assert_close(inner, lines.gather(lines.dots(lines.tensors(), old)), rtol=1e-9, atol=1e-12)


def test_the_same_memory_in_another_layout_is_seen():
    """Gradients that stay where they are, one of them with its channels last the second time."""
    model = on.net().to(DEVICE)
    optimizer = on.wrapped(HSPG, model, "sgd", start_step=100, penalty=0.0)
    weight = model.conv1.weight
    last = torch.empty(weight.shape).to(memory_format=torch.channels_last).stride()
    for turned in (False, False, True):
        held = [parameter.grad for parameter in model.parameters()]
        on.give_gradients(model, 0)
        for parameter, place in zip(model.parameters(), held, strict=True):
            if place is not None:
                turns = turned and parameter is weight
                parameter.grad = (place.as_strided(place.shape, last) if turns else place).copy_(parameter.grad)
        old = [member.tensor.detach().clone() for member in optimizer._motion.lines.members]
        with torch.no_grad():
            optimizer.moved(optimizer._motion, torch.zeros_like(optimizer.rows.zeros()))
        found, lines = optimizer._motion.products(), optimizer._motion.lines
        inner = lines.total(found.new + found.scale * found.cross)
        torch.testing.assert_close(inner, lines.gather(lines.dots(lines.tensors(), old)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_same_as_without_kernels(method, monkeypatch):
    optimizer = assert_as_without_kernels(monkeypatch, method, "momentum")
    assert optimizer.gone.any()
    if method in ("hspg", "dhspg"):
        assert isinstance(optimizer._motion, GpuMotion)
        assert optimizer._motion._tables


@pytest.mark.parametrize("base", [base for base in BASES if base != "momentum"])
@pytest.mark.parametrize("method", ["hspg", "dhspg"])
def test_so_it_is_whatever_the_base(method, base, monkeypatch):
    assert assert_as_without_kernels(monkeypatch, method, base, steps=6)


@pytest.mark.parametrize("method", ["hspg", "dhspg"])
@pytest.mark.parametrize("case", ["silent", "channels last", "reloaded"])
def test_so_it_is_in_odd_cases(method, case, monkeypatch):
    options = {
        "silent": {"silent": ("conv1.weight", "norm2.bias")},
        "channels last": {"layout": torch.channels_last},
        "reloaded": {"reload": 4},
    }
    assert_as_without_kernels(monkeypatch, method, "momentum", steps=6, **options[case])


@pytest.mark.parametrize("exchanged", EXCHANGED)
@pytest.mark.parametrize(
    ("method", "base"),
    [*((method, "momentum") for method in {**METHODS, **FADING}), ("hspg", "adamw"), ("dhspg", "adamw")],
)
def test_the_memory_of_parameters_may_be_exchanged(method, base, exchanged, monkeypatch):
    """While groups fade, too: what was there before is neither read nor written any more."""
    steps = 5 if method in FADING else 7
    assert_as_without_kernels(monkeypatch, method, base, steps=steps, exchanged=exchanged)


def test_gradients_come_and_go_without_new_tables(monkeypatch):
    model = on.net().to(DEVICE)
    optimizer = on.wrapped(HSPG, model, "momentum", start_step=100, penalty=0.02)
    made = []
    init = gpu.Table.__init__
    monkeypatch.setattr(gpu.Table, "__init__", lambda self, items: made.append(len(items)) or init(self, items))
    for step in range(6):
        on.give_gradients(model, step)
        if step % 2:
            model.conv1.weight.grad = None
        optimizer.step()
    assert len(made) == 1


def test_what_the_kernels_have_pressed_is_not_made_ready_again(monkeypatch):
    """fc.weight is no member's. A gradient that is no rows is left to torch, and it alone."""
    model = on.net().to(DEVICE)
    optimizer = on.wrapped(HSPG, model, "momentum", start_step=100, penalty=0.02)
    asked, shaped = [], Lines.shaped
    monkeypatch.setattr(Lines, "shaped", lambda self, line, some: asked.append([*some]) or shaped(self, line, some))
    on.train(model, optimizer, 2)
    assert not asked
    on.give_gradients(model, 2)
    model.conv1.weight.grad = model.conv1.weight.grad.contiguous(memory_format=torch.channels_last)
    optimizer.step()
    assert [[optimizer.rows.members[number].name for number in some] for some in asked] == [["conv1.weight"]]


def test_gradients_that_are_new_tensors_are_not_looked_at_again(monkeypatch):
    model = on.net().to(DEVICE)
    optimizer = on.wrapped(HSPG, model, "sgd", start_step=100, penalty=0.02)
    on.train(model, optimizer, 2)
    asked, taken = [], Pairs._taken
    monkeypatch.setattr(Pairs, "_taken", lambda self, member: asked.append(member.name) or taken(self, member))
    held = [parameter.grad for parameter in model.parameters()]  # their memory is not given to the next
    on.train(model, optimizer, 2, start=2)
    assert held
    assert not asked
