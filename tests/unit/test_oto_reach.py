"""How far a step can carry a group: the bound holds, and what it clears is decided as by looking at everything."""

from __future__ import annotations

import copy

import oto_nets as on
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reference_impls.oto import HSPG
from reference_impls.oto.reach import Reach

BASES = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, weight_decay=1e-2),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, dampening=0.2),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, nesterov=True, weight_decay=1e-2),
    "ascent": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.5, maximize=True),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=1e-2),
    "short": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.95, 0.9)),  # beta1^2 > beta2
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.3),
    "amsgrad": lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.5, 0.99), amsgrad=True),
}
KINDS = ("random", "inwards", "sudden", "none")
"""Gradients: random; along x; a thousandth of that and now and then all of it; missing."""
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(1e-3, 3.0)), min_size=1, max_size=12)


def give(model, step, kind, scale):
    draw = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(model.parameters()):
        noise = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
        if kind == "inwards":
            noise = parameter.detach().clone()
        elif kind == "sudden":
            noise = noise * (1.0 if step % 4 == 3 else 1e-3)
        parameter.grad = None if kind == "none" and number % 2 else scale * noise


def made(model, base, lr, **options):
    return on.wrapped(HSPG, model, lambda p: BASES[base](p, lr), start_step=0, **{"penalty": 1e-3, **options})


def run(base, lr, epsilon, history, screened, value=None):
    """Which groups are gone after every step, and the model; all its parameters start at `value` if one is given."""
    model = on.net(dtype=torch.float32)
    for parameter in model.parameters() if value is not None else ():
        torch.nn.init.constant_(parameter, value)
    optimizer = made(model, base, lr, epsilon=epsilon)
    if not screened:
        optimizer.reach = Blind(optimizer.reach)
    gone = []
    for step, (kind, scale) in enumerate(history):
        give(model, step, kind, scale)
        optimizer.step()
        gone.append(tuple(optimizer.zero_groups))
    return gone, on.state_of(model)


class Blind:
    """Knows nothing: everything is looked at."""

    known = linear = False

    def __init__(self, _):
        pass

    def settled(self):
        pass


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=25, deadline=None)
@given(lr=st.floats(1e-3, 0.5), epsilon=st.sampled_from([0.0, 0.5, 0.9, 0.99]), history=STEPS)
@example(lr=0.3, epsilon=0.0, history=[("sudden", 1.0)] * 8)
@example(lr=0.05, epsilon=0.9, history=[("inwards", 1.0)] * 6)
def test_decisions_are_those_of_looking_at_everything(base, lr, epsilon, history):
    one, other = (run(base, lr, epsilon, history, screened) for screened in (True, False))
    assert one[0] == other[0]
    assert on.same(one[1], other[1])


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_a_bound_that_is_too_small_is_caught(base, monkeypatch):
    """The comparison above can fail: half the bound misses groups that leave."""
    bounds = {name: getattr(Reach, name) for name in ("_sgd", "_adam")}
    half = {
        name: lambda self, *given, bound=bound: tuple(0.5 * part for part in bound(self, *given))
        for name, bound in bounds.items()
    }
    for name, bound in half.items():
        monkeypatch.setattr(Reach, name, bound)
    # Straight towards zero, by 0.6 of the way: past the half-space of 0.5.
    lr = 0.6 if base == "sgd" else 0.18
    one, other = (run(base, lr, 0.5, [("inwards", 1.0)], screened, value=0.3) for screened in (True, False))
    assert other[0][0]
    assert not one[0][0]


@pytest.mark.parametrize("base", ["momentum", "adam"])
def test_a_step_without_bounds_is_not_overlooked(base):
    """A large gradient in a step that was not asked about is in the base's state, and in the next bound."""
    model = on.net()
    optimizer = made(model, base, 0.1)
    reach, bounds = optimizer.reach, []
    for step, scale in enumerate((1e-3, 1e3, 1e-3)):
        give(model, step, "random", scale)
        with optimizer.penalised(None, measured=reach.linear) as lengths:
            if scale < 1:
                moved, _ = reach._sgd(optimizer.rows.joined(lengths)) if reach.linear else reach._adam()
                bounds.append(float(moved.max()))
            optimizer.base.step()
        reach.settled()
    held = optimizer.state[model.conv2.weight]
    if reach.linear:
        assert bounds[1] > 0.1 * float(held["momentum_buffer"].flatten(1).norm(dim=1).max())
    else:  # the measured ratio, not the one of two steps by the recursion
        ratio = float((held["exp_avg"].abs() / held["exp_avg_sq"].sqrt()).max())
        assert reach._carried[id(model.conv2.weight)] > ratio


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=25, deadline=None)
@given(lr=st.floats(1e-3, 0.5), start=st.integers(0, 3), history=STEPS)
def test_no_group_moves_farther_than_its_bound(base, lr, start, history):
    """From any state of the base, in float64; a step that somebody else makes in between is noticed."""
    model = on.net()
    optimizer = made(model, base, lr)
    rows, reach, plain = optimizer.rows, optimizer.reach, optimizer.base
    for step, (kind, scale) in enumerate(history):
        give(model, step, kind, scale)
        if step < start or step % 5 == 4:
            plain.step()
            reach.settled()  # as after any step: of this one no bounds were asked for
            continue
        with optimizer.penalised(None, measured=reach.linear) as lengths:
            before = copy.deepcopy([tensor.detach() for tensor in rows.tensors()])
            norms = rows.norms()
            moved, shrunk = reach._sgd(rows.joined(lengths)) if reach.linear else reach._adam()
            plain.step()
        reach.settled()
        bound = rows.total(moved.square()).sqrt() + shrunk * norms
        steps = [new - old for new, old in zip(rows.tensors(), before, strict=True)]
        length = rows.gather(rows.squares(steps)).sqrt()
        assert (length <= bound * (1 + 1e-12) + 1e-12 * norms).all()


def test_most_groups_need_no_look_in_an_ordinary_step(monkeypatch):
    model = on.net(dtype=torch.float32)
    looked = []
    for base in ("momentum", "adamw"):
        optimizer = made(model, base, 1e-3)
        watched = optimizer.watched
        monkeypatch.setattr(optimizer, "watched", lambda lines, w=watched: looked.append(lines.members) or w(lines))
        for step in range(4):
            give(model, step, "random", 1e-2)
            optimizer.step()
    assert looked == [[]] * 8


def test_where_nothing_can_be_told_everything_is_looked_at():
    model = on.net(dtype=torch.float32)
    assert not on.wrapped(HSPG, model, "rmsprop", start_step=0).reach.known
    assert not on.wrapped(HSPG, model, lambda p: torch.optim.Adam(p, betas=(0.9, 0.99999)), start_step=0).reach.known
    half = on.net(dtype=torch.bfloat16)
    rows = made(model, "momentum", 0.1).rows
    assert Reach(torch.optim.SGD(half.parameters(), lr=0.1), rows).known
    hooked = made(model, "momentum", 0.1)
    assert hooked.reach.known
    hooked.base.register_step_pre_hook(lambda *_: None)
    assert not hooked.reach.known
