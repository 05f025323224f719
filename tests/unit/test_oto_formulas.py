"""Every sparse optimizer against its formulas, written out a group at a time in float64."""

from __future__ import annotations

import oto_nets as on
import pytest
import torch

import reference_impls.oto.rows as rows_module
from reference_impls.oto import DHSPG, HESSO, HSPG, Criteria

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(model, x):
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), x[name], **CLOSE)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_hesso_is_its_formulas(kind, sign):
    start, length, periods = 3, 5, 3
    model = on.net()
    criteria = Criteria(magnitude=0.3, average=0.1, cosine=0.4, taylor=0.2, taylor2=0.05, cosine_sign=sign)
    optimizer = on.wrapped(
        HESSO, model, kind, "groups=0.5", start_step=start, pruning_steps=17, periods=periods, criteria=criteria
    )
    groups = optimizer.quota.groups
    rows, base, x = on.entries(model, groups), on.SlowBase(kind), parameters(model)
    gone, active = set(), []
    quota = groups.count // 2
    for n in range(1, 25):  # from 1, as published
        on.give_gradients(model, n)
        d = base.direction(x, gradients(model))
        t = (n - start) % length
        period = (n - start - 1) // length
        if n > start and (n - start - 1) % length == 0 and period < periods:
            scores = slow_scores(x, d, rows, criteria)
            last = on.stays_last(groups, scores, gone)
            order = sorted((scores[g], g) for g in rows if g not in gone and g not in last)
            share = quota // periods if period < periods - 1 else quota - len(gone)
            active = [g for _, g in order[:share]]
        for name in x:
            x[name] = x[name] * (1 - base.lr * base.decay) - base.lr * d[name]
        for g in active:
            for name, mask in rows[g].items():
                x[name][mask] *= (length - t - 1) / (length - t)
        if t == length - 1 and active:
            gone.update(active)
            for g in active:
                base.forget(rows[g])
            active = []
        for g in gone:
            for name, mask in rows[g].items():
                x[name][mask] = 0
        optimizer.step()
        assert set(optimizer.zero_groups.tolist()) == gone, n
        assert_same(model, x)
    assert len(gone) == quota


def slow_scores(x, d, rows, criteria):
    terms = {"magnitude": {}, "average": {}, "cosine": {}, "taylor": {}, "taylor2": {}}
    for g, mine in rows.items():
        a, b = on.vector(x, mine), on.vector(d, mine)
        inner = float(a @ b)
        terms["magnitude"][g] = float(a.norm())
        terms["average"][g] = float(a.norm()) / (a.numel() + 1e-6)
        cosine = inner / ((float(a.norm()) + 1e-8) * (float(b.norm()) + 1e-8))
        terms["cosine"][g] = criteria.cosine_sign * cosine + 1
        terms["taylor"][g] = abs(inner)
        terms["taylor2"][g] = 0.5 * inner**2
    total = dict.fromkeys(rows, 0.0)
    for name, values in terms.items():
        norm = (sum(value**2 for value in values.values()) + 1e-8) ** 0.5 + 1e-8
        for g, value in values.items():
            total[g] += getattr(criteria, name) * value / norm
    return total


@pytest.fixture(params=[1 << 18, 24])
def pieces(request, monkeypatch):
    """Tensors in one piece, and in many."""
    monkeypatch.setattr(rows_module, "_CACHED", request.param)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_hspg_is_its_formulas(kind):
    start, penalty, epsilon = 4, 0.02, {"sgd": 0.93, "momentum": 0.98}.get(kind, 0.995)
    model = on.net()
    optimizer = on.wrapped(HSPG, model, kind, "groups=0.85", start_step=start, penalty=penalty, epsilon=epsilon)
    rows, base, x = on.entries(model, optimizer.quota.groups), on.SlowBase(kind), parameters(model)
    gone = set()
    for n in range(14):
        on.give_gradients(model, n, 1.5)
        given = gradients(model)
        for mine in rows.values():
            norm = on.vector(x, mine).norm()
            for name, mask in mine.items():
                if norm != 0:
                    given[name][mask] += penalty * x[name][mask] / (norm + 1e-6)
        d = base.direction(x, given)
        trial = {name: x[name] * (1 - base.lr * base.decay) - base.lr * d[name] for name in x}
        left = set()
        if n >= start:
            for g, mine in rows.items():
                old = on.vector(x, mine)
                if g not in gone and on.vector(trial, mine) @ old < epsilon * (old @ old):
                    left.add(g)
        for g in gone | left:
            for name, mask in rows[g].items():
                trial[name][mask] = 0
        for g in left:
            base.forget(rows[g])
        gone, x = gone | left, trial
        optimizer.step()
        assert set(optimizer.zero_groups.tolist()) == gone, n
        assert_same(model, x)
    assert 0 < len(gone) < optimizer.quota.groups.count - 3


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_dhspg_is_its_formulas(kind):
    start, penalty, amplify, cap, epsilon = 2, 0.3, 2.0, 10.0, {"sgd": 0.95, "momentum": 0.97}.get(kind, 0.995)
    model = on.net()
    optimizer = on.wrapped(
        DHSPG,
        model,
        kind,
        "groups=0.5",
        start_step=start,
        penalty=penalty,
        amplify=amplify,
        cap=cap,
        epsilon=epsilon,
        tolerance=0.2,
    )
    groups = optimizer.quota.groups
    rows, base, x = on.entries(model, groups), on.SlowBase(kind), parameters(model)
    gone, chosen = set(), []
    for n in range(12):
        on.give_gradients(model, n)
        d = base.direction(x, gradients(model))
        trial = {name: x[name] * (1 - base.lr * base.decay) - base.lr * d[name] for name in x}
        if n == start:
            chosen = most_redundant(groups, rows, x, d, 14)
        met = len(gone) >= groups.count // 2
        left = set()
        for g in chosen if n >= start and not met else ():
            if g in gone:
                continue
            old, direction = on.vector(x, rows[g]), on.vector(d, rows[g])
            weight, inner = penalty, float(old @ direction)
            if inner < 0:
                least = -inner / float(old.norm())
                most = -float(direction @ direction) * float(old.norm()) / inner
                weight = min(max(amplify * least, penalty), penalty * cap)
                if weight >= most:
                    weight = (least + most) / 2
            for name, mask in rows[g].items():
                trial[name][mask] -= base.lr * weight * x[name][mask] / (float(old.norm()) + 1e-8)
            if on.vector(trial, rows[g]) @ old < epsilon * (old @ old):
                left.add(g)
        optimizer.step()
        found = set(optimizer.zero_groups.tolist())
        if len(gone | left) > groups.count // 2:  # more than there is room for: a random part of them
            assert gone < found < gone | left
            assert len(found) == groups.count // 2
            left = found - gone
        for g in gone | left:
            for name, mask in rows[g].items():
                trial[name][mask] = 0
        for g in left:
            base.forget(rows[g])
        gone, x = gone | left, trial
        assert found == gone, n
        assert_same(model, x)
    assert gone


def most_redundant(groups, rows, x, d, number):
    cosine, short = {}, {}
    for g, mine in rows.items():
        a, b = on.vector(x, mine), on.vector(d, mine)
        cosine[g] = float(a @ b) / ((float(a.norm()) + 1e-8) * (float(b.norm()) + 1e-8))
        short[g] = 1 / (float(a.norm()) / a.numel() + 1e-6)
    total = {}
    for g in rows:
        total[g] = 0.5 * cosine[g] / sum(v**2 for v in cosine.values()) ** 0.5
        total[g] += 0.5 * short[g] / sum(v**2 for v in short.values()) ** 0.5
    last = on.stays_last(groups, {g: -value for g, value in total.items()}, set())
    return [g for _, g in sorted((-value, g) for g, value in total.items() if g not in last)][:number]


def test_penalty_of_a_group_pushed_out_shrinks_it_and_still_descends():
    """The window of DHSPG's penalty, where amplification leaves it and where it does not."""
    model = on.net()
    optimizer = on.wrapped(DHSPG, model, start_step=0, penalty=1e-3, amplify=2.0, cap=1e6)
    draw = torch.Generator().manual_seed(0)
    inside = 0
    for cosine in (-0.05, -0.5, -0.75, -0.95):
        x = torch.randn(30, generator=draw, dtype=torch.float64)
        other = torch.randn(30, generator=draw, dtype=torch.float64)
        other -= (other @ x) / (x @ x) * x
        d = cosine * x / x.norm() + (1 - cosine**2) ** 0.5 * other / other.norm()
        weight = optimizer._penalties(x.norm()[None], (x @ d)[None], (d @ d)[None])[0]
        step = d + weight * x / x.norm()
        assert step @ d > 0
        assert step @ x > 0
        inside += int(not torch.isclose(weight, -2 * (x @ d) / x.norm()))
    assert inside == 2  # cos^2 above 1 / amplify


def test_hspg_adapts_epsilon_while_sparsity_stalls():
    model = on.net()
    optimizer = on.wrapped(HSPG, model, "sgd", "groups=0.5", start_step=2, penalty=0.0, adapt_every=2)
    seen = []
    on.train(model, optimizer, 26, scale=1e-6, after=lambda step: seen.append(float(optimizer.epsilons.max())))
    assert seen[:3] == [0, 0, 0]
    assert seen[3] == pytest.approx(0.1)
    assert seen[5] == pytest.approx(0.2)
    assert max(seen) == 0.999
    assert not optimizer.gone.any()
