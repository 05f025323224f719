"""What a step has done to group vectors: compiled loops and torch find the same, whatever the layout and the base."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import oto_nets as on
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import conformance as pc
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, AdaHSPG, Cycles, Quota, Rows, compiled
from reference_impls.oto.gpu_motion import motion_over
from reference_impls.oto.motion import Memory, Motion
from reference_impls.oto.rows import Fills, Lines

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "decayed": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=1e-2),
    "ascent": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=1e-2, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
}
bases = pytest.mark.parametrize("base", BASES)
LAYOUTS = {"plain": torch.contiguous_format, "channels last": torch.channels_last}


class Spoilt(Memory):
    """Gives out nothing but NaN, in memory of its own each time."""

    asked = 0

    def room(self, tensor, count, rows):
        self.asked += 1
        return torch.full_like(super().room(tensor, count, rows), torch.nan)


def trained(base, memory):
    model = on.net(dtype=torch.float32)
    optimizer = on.wrapped(DHSPG, model, BASES[base], start_step=1, epsilon=0.5, penalty=0.1)
    optimizer._memory = memory
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()
    return on.state_of(model), optimizer.zero_groups.tolist()


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_nothing_is_read_that_was_not_written(base, monkeypatch):
    """Memory held from one step to the next changes nothing: every number in it is written before it is read."""
    monkeypatch.setattr(Motion, "_flat", lambda *_: None)  # torch's way, which needs room
    spoilt = Spoilt()
    (one, gone), (other, lost) = trained(base, Memory()), trained(base, spoilt)
    assert spoilt.asked
    assert gone == lost
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
        assert not value.isnan().any()


def gradients(model, step, scale, layout):
    """As a backward pass leaves them: laid out as the parameters are."""
    on.give_gradients(model, step, scale)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.grad = parameter.grad.contiguous(memory_format=LAYOUTS[layout])


def stepped(base, seed, scale, layout="plain", share=1.0):
    """An optimizer after a few steps, what a motion over a share of its groups was told, and the parameters before."""
    model = on.net(seed).to(memory_format=LAYOUTS[layout])
    optimizer = on.wrapped(HSPG, model, BASES[base], start_step=100, penalty=0.0)
    for step in range(3):
        gradients(model, seed + step, scale, layout)
        optimizer.step()
    chosen = np.random.default_rng(seed).random(optimizer.rows.count + 1) < share
    chosen[0], chosen[1] = False, True
    motion = Motion(optimizer.rows.with_groups(chosen), Memory())
    gradients(model, seed + 4, scale, layout)
    before = {id(parameter): parameter.detach().clone() for parameter in model.parameters()}
    with torch.no_grad():
        optimizer.moved(motion)
    return optimizer, motion, before


@bases
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(1e-3, 10.0),
    layout=st.sampled_from([*LAYOUTS]),
    share=st.sampled_from([1.0, 0.6, 0.2]),
)
def test_products_are_those_of_copies(base, seed, scale, layout, share):
    _, motion, before = stepped(base, seed, scale, layout, share)
    found = motion.products()
    new, cross, length = (one.clone() for one in (found.new, found.cross, found.length))
    wanted = [[], [], []]
    for member in motion.lines.members:
        picks = slice(None) if member.picks is None else member.picks
        both = member.tensor.detach(), before[id(member.tensor)]
        x, old = (one.movedim(member.dim, 0).reshape(one.shape[member.dim], -1) for one in both)
        x, moved = x[picks], (old - x)[picks]
        for line, (one, other) in zip(wanted, ((x, x), (x, moved), (moved, moved)), strict=True):
            line.append((one * other).sum(1))
    # Both tell the same three of x_new and x_old, each in its own scale.
    mine_all = new, found.scale * cross, found.scale * found.scale * length
    for mine, theirs in zip(mine_all, map(torch.cat, wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


@bases
def test_a_penalised_step_is_measured_as_it_was(base):
    """Penalty and decay included, which the gradient has in it then."""
    optimizer, motion, _ = stepped(base, 0, 1.0)
    for parameter in optimizer.rows.parameters:
        parameter.grad = torch.full_like(parameter, 0.1)
    before = {id(parameter): parameter.detach().clone() for parameter in optimizer.rows.parameters}
    with torch.no_grad():
        optimizer.moved(motion, torch.full_like(optimizer.rows.zeros(), 0.3))
    found, lines = motion.products(), motion.lines
    inner = lines.total(found.new + found.scale * found.cross)
    old = [before[id(member.tensor)] for member in lines.members]
    torch.testing.assert_close(inner, lines.gather(lines.dots(lines.tensors(), old)), rtol=1e-9, atol=1e-12)


@bases
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [1.0, 0.6, 0.2])
def test_compiled_loops_find_what_torch_finds(base, layout, share, monkeypatch):
    results = []
    for flat in (True, False):
        with monkeypatch.context() as patch:
            if not flat:
                patch.setattr(Motion, "_flat", lambda *_: None)
            optimizer, motion, _ = stepped(base, 3, 1.0, layout, share)
            found = motion.products()
            lines = [one.clone() for one in (found.new, found.cross, found.length)]
            squares = optimizer.rows.zeros() + torch.linspace(0, 0.3, optimizer.rows.count + 1)
            motion.pull(squares, 0.5)
            results.append((*lines, *(parameter.detach().clone() for parameter in optimizer.rows.parameters)))
            # Only what has no rows is left to torch.
            compiled_ones = [motion._flat(number) is not None for number in motion._matrices]
            assert any(compiled_ones) is flat
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@bases
def test_pulling_takes_a_share_of_the_old_point(base):
    optimizer, motion, before = stepped(base, 1, 1.0, share=0.6)
    after = {id(parameter): parameter.detach().clone() for parameter in optimizer.rows.parameters}
    figures = torch.linspace(0, 0.5, optimizer.rows.count + 1, dtype=torch.float64)
    motion.products()
    motion.pull(figures, 0.5)
    seen = {id(member.tensor): after[id(member.tensor)].clone() for member in motion.lines.members}
    for member in motion.lines.members:
        picks = np.arange(member.groups.size) if member.picks is None else member.picks.numpy()
        for place, group in zip(picks, member.groups, strict=True):
            index = (slice(None),) * member.dim + (int(place),)
            seen[id(member.tensor)][index] -= 0.5 * figures[group] * before[id(member.tensor)][index]
    for parameter in optimizer.rows.parameters:
        torch.testing.assert_close(
            parameter.detach(), seen.get(id(parameter), after[id(parameter)]), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("method", [HSPG, DHSPG])
def test_gradients_are_not_held_after_a_step(method):
    """A plain step of SGD is its gradient; whoever sets that to None wants its memory."""
    model = on.net()
    optimizer = on.wrapped(method, model, BASES["sgd"], start_step=1, penalty=0.1)
    on.train(model, optimizer, 4)
    held = [weakref.ref(parameter.grad) for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    gc.collect()
    assert not any(gradient() is not None for gradient in held)
    assert not optimizer._motion._flats  # matrices that share their memory


@pytest.mark.parametrize("base", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("flat", [True, False])
def test_squares_have_the_bits_of_products(base, flat, monkeypatch):
    """A run that goes on reads them anew where one that was not cut off carries them."""
    if not flat:
        monkeypatch.setattr(Motion, "_flat", lambda *_: None)
    _, motion, _ = stepped(base, 5, 1.0)
    found = motion.lines.total(motion.products().new)
    assert torch.equal(motion.squares(), found)


def jobs(count, dtype=np.float32):
    draw = np.random.default_rng(0)
    return [
        (
            draw.normal(size=(rows, 40)).astype(dtype),
            draw.normal(size=(rows, 40)).astype(dtype),
            np.arange(0, rows, 2),
            False,
            *(np.empty(-(-rows // 2), dtype) for _ in range(3)),
        )
        for rows in range(1, count + 1)
    ]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_work_and_change_no_bit(threads, monkeypatch):
    alone, together = jobs(9), jobs(9)
    for job in alone:
        compiled.products(*job)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    compiled.run(compiled.products, together)
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one[4:], other[4:], strict=True):
            assert np.array_equal(mine, theirs)


def test_an_error_in_a_thread_is_not_lost(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fails(x, step, rows):
        if len(x) == 1:
            raise ValueError("of one row")

    work = [(job[0], job[1], job[2]) for job in jobs(4)]
    with pytest.raises(ValueError, match="of one row"):
        compiled.run(fails, work)


def test_what_is_no_number_stays_so():
    (job,) = jobs(1)
    job[0][0, 3] = np.nan
    compiled.products(*job)
    assert np.isnan(job[4][0])
    assert np.isnan(job[5][0])
    assert not np.isnan(job[6][0])


def test_loops_compile_where_nothing_can_be_kept():
    """A read-only installation, and no home: numba refuses to keep what it compiles when it is told to."""
    source = Path(compiled.__file__)
    code = (
        "import numba.core.caching as caching\n"
        "(getattr(caching, 'CacheImpl', None) or caching._CacheImpl)._locator_classes = []\n"
        "import numpy as np\n"
        "from reference_impls.oto import compiled\n"
        "out = [np.zeros(1) for _ in range(3)]\n"
        "compiled.products(np.ones((1, 4)), np.ones((1, 4)), np.arange(1), False, *out)\n"
        "print(*(float(one[0]) for one in out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=source.parents[2], check=False
    )
    assert done.stdout.split() == ["4.0", "4.0", "4.0"], done.stderr


def test_rows_that_lie_in_pieces_are_none():
    image = torch.randn(4, 3, 2, 2)
    (rows,) = compiled.as_rows(image)
    assert rows.shape == (4, 12)
    assert np.shares_memory(rows, image.numpy())
    (last,) = compiled.as_rows(image.to(memory_format=torch.channels_last))
    assert np.array_equal(np.sort(last), np.sort(rows))
    assert compiled.as_rows(torch.randn(4, 6).t()) is None
    assert compiled.as_rows(image[:, :2]) is None


def test_a_layout_may_change_where_it_lies():
    """The same address, other strides."""
    weight = torch.nn.Parameter(torch.randn(4, 4))
    fills = Fills([(weight, 0, torch.tensor([1, 3]))])
    weight.data = weight.data.t()
    fills.run()
    assert not weight[[1, 3]].any()
    assert weight[[0, 2]].all()

    optimizer, motion, _ = stepped("momentum", 3, 1.0)
    assert all(motion._flat(number) is not None for number in motion._matrices if motion._rows[number] is not None)
    for parameter in optimizer.rows.parameters:
        if parameter.ndim == 4:
            last = torch.empty(parameter.shape).to(memory_format=torch.channels_last).stride()
            parameter.data = parameter.data.as_strided(parameter.shape, last)
    lines, found = motion.lines, motion.products()
    torch.testing.assert_close(lines.total(found.new), lines.gather(lines.squares(lines.tensors())))


@pytest.mark.parametrize("method", [HSPG, DHSPG, HESSO, HESSOCRIC, AdaHSPG])
@pytest.mark.parametrize("base", ["sgd", "momentum", "adamw"])
def test_the_memory_of_parameters_may_be_exchanged(method, base):
    options = {
        HSPG: {"start_step": 2, "penalty": 0.02, "epsilon": 0.98},
        DHSPG: {"start_step": 2, "penalty": 0.3, "epsilon": 0.98},
        HESSO: {"start_step": 2, "pruning_steps": 8, "periods": 2},
        HESSOCRIC: {"start_step": 1, "fade_steps": 5, "cycles": Cycles(steps=2, most=1, loss_weight=0)},
        AdaHSPG: {"phase_steps": 3, "epsilon": 0.5, "penalty": 0.01},
    }
    results = []
    for exchanged in (False, True):
        model = on.net()
        optimizer = on.wrapped(method, model, BASES[base], **options[method])
        on.train(model, optimizer, 5)
        for parameter in model.parameters():
            if exchanged:
                old, parameter.data = parameter.data, parameter.data.clone()
                old.fill_(torch.nan)
        on.train(model, optimizer, 4, start=5)
        results.append((on.state_of(model), optimizer.zero_groups.tolist()))
    assert results[0][1] == results[1][1]
    assert on.same(results[0][0], results[1][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_number_a_member(dtype):
    rows = on.wrapped(HSPG, on.net(dtype=dtype), BASES["sgd"], start_step=0).rows
    figures = [0.1 * number for number in range(len(rows.members))]
    line = np.repeat(np.asarray(figures), rows.sizes)
    assert torch.equal(rows.repeated(figures), torch.from_numpy(line).to(dtype))
    assert torch.equal(Lines([], 3, dtype, rows.device).repeated([]), torch.zeros(0, dtype=dtype))


class Words(torch.nn.Module):
    """An embedding whose gradient is sparse."""

    def __init__(self):
        super().__init__()
        self.embed, self.up = torch.nn.Embedding(40, 8, sparse=True), torch.nn.Linear(8, 8)
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x):
        y = self.embed(x)
        return self.fc((y + torch.relu(self.up(y))).mean(1))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_along_a_sparse_gradient_is_measured(momentum):
    """What moved the parameter is not a sparse gradient's to say: it is copied."""
    torch.manual_seed(0)
    model, words = Words(), torch.randint(0, 40, (2, 5))
    groups = pc.partition(pc.trace(Words().eval(), words))
    rows = Rows(units(model, groups))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    optimizer = HESSO(
        base, rows, Quota(groups, Budget.parse("groups=0.5"), Limits(), Cost(groups)), start_step=50, pruning_steps=60
    )
    motion = motion_over(rows, Memory())
    for _ in range(2):
        model.zero_grad()
        model(words).sum().backward()
        assert model.embed.weight.grad.is_sparse
        old = [member.tensor.detach().clone() for member in motion.lines.members]
        with torch.no_grad():
            motion.before(optimizer.stepping)
            base.step()
        found, lines = motion.products(), motion.lines
        inner = lines.total(found.new + found.scale * found.cross)
        torch.testing.assert_close(inner, lines.gather(lines.dots(lines.tensors(), old)), rtol=1e-5, atol=1e-5)


def test_lines_begin_with_members_of_one_dimension():
    optimizer, motion, _ = stepped("momentum", 0, 1.0)
    dims = [member.tensor.ndim for member in motion.lines.members]
    assert dims == sorted(dims, key=lambda dim: dim != 1)
    assert isinstance(motion.lines, Lines)
    assert {member.name for member in motion.lines.members} == {member.name for member in optimizer.rows.members}
