"""Sparse optimizers as optimizers: equal to the base where nothing is pruned, exact zeros, quotas, saved states."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import oto_nets as on
import pytest
import torch

import conformance as pc
from conformance.errors import UsageError
from conformance.method import Limits
from conformance.method.store import load_tree, save_tree
from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, AdaHSPG, Cycles, Rows

MAKERS = {
    "hspg": (HSPG, {"start_step": 10, "epsilon": 0.5, "penalty": 0.01, "complete": (50, 60)}),
    "adahspg": (AdaHSPG, {"phase_steps": 5, "epsilon": 0.5, "penalty": 0.01, "complete": (50, 60)}),
    "dhspg": (DHSPG, {"start_step": 10, "epsilon": 0.9, "penalty": 0.01, "complete": (50, 60)}),
    "hesso": (HESSO, {"start_step": 10, "pruning_steps": 40, "periods": 5}),
    "cric": (HESSOCRIC, {"start_step": 10, "fade_steps": 8, "cycles": Cycles(steps=4, most=4)}),
}
makers = pytest.mark.parametrize("name", MAKERS)
bases = pytest.mark.parametrize("base", on.BASES)


def made(name, model, base="momentum", **more):
    cls, options = MAKERS[name]
    return on.wrapped(cls, model, base, **{**options, **more})


# -- the base -----------------------------------------------------------------------------------------


@bases
@makers
def test_without_a_budget_it_is_the_base_bit_for_bit(name, base):
    one, other = on.net(dtype=torch.float32), on.net(dtype=torch.float32)
    on.train(one, made(name, one, base, budget="groups=0"), 40)
    plain = on.BASES[base](other.parameters())
    for step in range(40):
        on.give_gradients(other, step)
        plain.step()
    assert on.same(on.state_of(one), on.state_of(other))


@bases
@pytest.mark.parametrize("name", ["dhspg", "hesso", "cric"])
def test_before_it_starts_it_is_the_base_bit_for_bit(name, base):
    one, other = on.net(dtype=torch.float32), on.net(dtype=torch.float32)
    on.train(one, made(name, one, base), 10)
    plain = on.BASES[base](other.parameters())
    for step in range(10):
        on.give_gradients(other, step)
        plain.step()
    assert on.same(on.state_of(one), on.state_of(other))


@pytest.mark.parametrize("base", ["sgd", "momentum", "adam", "adamw"])
def test_a_step_that_is_watched_is_the_bases_bit_for_bit(base):
    """HSPG adds decay itself and steps by torch's functions: with no penalty and nothing to project it shows."""
    unfused = on.with_options(base, fused=False)
    one, other = on.net(dtype=torch.float32), on.net(dtype=torch.float32)
    on.train(one, on.wrapped(HSPG, one, unfused, start_step=100, penalty=0.0), 15)
    plain = unfused(other.parameters())
    for step in range(15):
        on.give_gradients(other, step)
        plain.step()
    assert on.same(on.state_of(one), on.state_of(other))


@pytest.mark.parametrize("name", ["dhspg", "hspg", "hesso", "cric"])
def test_a_step_longer_than_the_groups_gives_numbers(name):
    """<x, x> behind such a step is a difference of large numbers, which rounding can take below zero."""
    model = on.net(dtype=torch.float32)
    optimizer = made(name, model, on.with_options("momentum", lr=1e3), start_step=2)
    on.train(model, optimizer, 6)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# -- zeros --------------------------------------------------------------------------------------------


@bases
@makers
def test_quota_is_reached_and_zeros_stay(name, base):
    model = on.net(dtype=torch.float32)
    optimizer = made(name, model, base)
    rows = on.entries(model, optimizer.quota.groups)
    gone = set()

    def look(step):
        now = set(optimizer.zero_groups.tolist())
        assert gone <= now
        gone.update(now)
        values = dict(model.named_parameters())
        for g in now:
            assert all(not values[part][mask].any() for part, mask in rows[g].items())

    on.train(model, optimizer, 100, after=look)
    assert optimizer.finished
    assert len(gone) == optimizer.quota.groups.count // 2
    choice = optimizer.quota.groups.select(sorted(gone))
    x = torch.randn(2, 3, 6, 6)
    assert pc.equivalent(model.eval(), pc.extract(model, choice), x, oracle="field").equal


@makers
def test_momentum_of_what_leaves_is_forgotten(name):
    model = on.net()
    optimizer = made(name, model, "adam")
    seen = []

    def look(step):
        fresh = set(optimizer.zero_groups.tolist()) - set(seen)
        for tensor, dim, positions in optimizer.rows.places(sorted(fresh)):
            for value in optimizer.state[tensor].values():
                if value.shape == tensor.shape:
                    assert not value.index_select(dim, positions).any()
        seen.extend(fresh)

    on.train(model, optimizer, 70, after=look)
    assert seen


def test_hesso_takes_equal_parts_and_the_rest_in_the_last_period():
    model = on.net()
    optimizer = on.wrapped(HESSO, model, budget="groups=0.7", start_step=2, pruning_steps=24, periods=4)
    counts = []
    on.train(model, optimizer, 30, after=lambda step: counts.append(int(optimizer.gone.sum())))
    assert [counts[2 + 6 * period + 4] for period in range(4)] == [3, 6, 9, 14]  # 14 of 20, 3 a period
    assert counts[:7] == [0, 0, 0, 0, 0, 0, 3]
    assert counts[-1] == 14


def test_fading_is_linear_and_ends_at_exact_zero():
    """Without gradients x is scaled by (L - k) / L after k of L steps."""
    model = on.net()
    base = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    optimizer = on.wrapped(HESSO, model, base, "groups=0.3", start_step=0, pruning_steps=9, periods=1)
    before = Rows(optimizer.rows.units).norms()
    for step in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        picked = optimizer.fading if step < 7 else optimizer.zero_groups
        ratio = optimizer.rows.norms()[picked] / before[picked]
        torch.testing.assert_close(ratio, torch.full_like(ratio, (7 - step) / 8))
    assert not optimizer.rows.norms()[optimizer.zero_groups].any()
    kept = np.setdiff1d(np.arange(1, 21), optimizer.zero_groups)
    assert torch.equal(optimizer.rows.norms()[kept], before[kept])


@makers
def test_frozen_members_leave_too(name):
    model = on.net()
    model.norm1.weight.requires_grad_(False)
    optimizer = on.wrapped(
        MAKERS[name][0], model, lambda p: torch.optim.SGD([q for q in p if q.requires_grad], lr=0.05), **MAKERS[name][1]
    )
    on.train(model, optimizer, 100)
    hit = optimizer.quota.groups.select(optimizer.zero_groups)
    assert len(hit) == 10
    zeroed = pc.zero(model, hit)
    assert on.same(on.state_of(model), on.state_of(zeroed))


@makers
@pytest.mark.parametrize("base", ["sgd", "momentum", "adam"])
def test_parameters_without_a_gradient_do_not_move(name, base):
    """A momentum buffer left from an earlier step says nothing about this one."""
    model = on.net()
    optimizer = made(name, model, base)
    rows = optimizer.rows

    def skip(step):
        before = model.conv3.weight.detach().clone()
        on.give_gradients(model, step + 1000)
        model.conv3.weight.grad = None
        on.corrected(optimizer, lambda: on.give_gradients(model, step + 1000))
        optimizer.step(loss=1.0)
        positions = rows.places(optimizer.zero_groups)
        expected = before.clone()
        for tensor, dim, where in positions:
            if tensor is model.conv3.weight:
                expected.index_fill_(dim, where, 0)
        if name == "hesso" and not optimizer.fading.size:
            torch.testing.assert_close(model.conv3.weight.detach(), expected, rtol=0, atol=0)

    on.train(model, optimizer, 40, after=skip)
    assert optimizer.finished or name != "hesso"
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


# -- limits and budgets -------------------------------------------------------------------------------


@makers
def test_limits_hold(name):
    model = on.net()
    optimizer = made(name, model, limits=Limits(round_to=4, ignore=("conv1",)), budget="groups=0.4")
    on.train(model, optimizer, 100)
    groups = optimizer.quota.groups
    choice = groups.select(optimizer.zero_groups)
    assert choice.kept(groups.graph.names["conv1.weight"], 0).size == 8
    assert choice.kept(groups.graph.names["conv2.weight"], 0).size == 4
    with pytest.raises(UsageError, match="cannot be reached"):
        made(name, model, limits=Limits(protect=0.8), budget="groups=0.4")


@makers
@pytest.mark.parametrize("budget", ["macs=0.6", "params=0.5"])
def test_other_budgets_are_met_within_a_group(name, budget):
    model = on.net()
    optimizer = made(name, model, budget=budget)
    on.train(model, optimizer, 100)
    wanted = float(budget.partition("=")[2])
    assert wanted <= optimizer.sparsity < wanted + 0.12  # a group of 20


def test_without_completion_a_half_space_method_says_what_it_reached():
    model = on.net()
    optimizer = on.wrapped(HSPG, model, budget="groups=0.8", start_step=5, penalty=0.0, epsilon=0.0)
    on.train(model, optimizer, 10, scale=1e-4)
    assert optimizer.finished
    assert optimizer.sparsity == 0


# -- living with others -------------------------------------------------------------------------------


@makers
@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_a_saved_state_goes_on_bit_for_bit(name, base, tmp_path):
    """Through torch.save with weights only and through the tree store, in every phase."""
    model = on.net(dtype=torch.float32)
    optimizer = made(name, model, base)
    for stop in (5, 13, 34, 46, 55):
        on.train(model, optimizer, stop - optimizer.steps, start=optimizer.steps)
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        save_tree(tmp_path / "state.safetensors", optimizer.state_dict())
        loaded = torch.load(tmp_path / "state.pt", weights_only=True), load_tree(tmp_path / "state.safetensors")
        twins = []
        for saved in loaded:
            twin = copy.deepcopy(model)
            other = made(name, twin, base)
            other.load_state_dict(saved)
            on.train(twin, other, 6, start=stop)
            twins.append((twin, other))
        on.train(model, optimizer, 6, start=stop)
        for twin, other in twins:
            assert other.steps == optimizer.steps
            assert on.same(on.state_of(twin), on.state_of(model)), stop
            assert np.array_equal(other.gone, optimizer.gone)
    assert optimizer.gone.sum() == 10


def test_states_of_others_are_refused():
    model = on.net()
    optimizer = made("hesso", model)
    with pytest.raises(UsageError, match="does not prune"):
        optimizer.load_state_dict(optimizer.base.state_dict())
    saved = optimizer.state_dict()
    saved["pruning"]["groups"] = "0" * 16
    with pytest.raises(UsageError, match="other groups"):
        optimizer.load_state_dict(saved)


@makers
def test_schedulers_clipping_and_autocast(name):
    """A scheduler made on the wrapper moves the base's lr; gradients are clipped before the step."""
    model = on.net(dtype=torch.float32)
    optimizer = made(name, model, "adamw")
    x, y = torch.randn(8, 3, 6, 6), torch.randint(0, 4, (8,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        scaler = torch.amp.GradScaler("cpu")
        for _ in range(100):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            on.corrected(optimizer, lambda: torch.nn.functional.cross_entropy(model(x), y).backward())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer, loss=loss.detach())
            scaler.update()
            schedule.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert int(optimizer.gone.sum()) == 10
    choice = optimizer.quota.groups.select(optimizer.zero_groups)
    assert pc.equivalent(model.eval(), pc.extract(model, choice), x, oracle="field").equal


def test_a_step_that_the_scaler_skips_does_not_count():
    model = on.net(dtype=torch.float32)
    optimizer = made("hesso", model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.randn(4, 3, 6, 6)).sum()).backward()
    model.fc.weight.grad.fill_(torch.inf)
    before = on.state_of(model)
    scaler.step(optimizer)
    assert optimizer.steps == 0
    assert on.same(before, on.state_of(model))


def test_a_closure_gives_the_loss():
    model = on.net(dtype=torch.float32)
    optimizer = made("cric", model, start_step=0)
    x = torch.randn(4, 3, 6, 6)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert optimizer.reference > 0
    on.give_gradients(model, 0)
    with pytest.raises(UsageError, match="looks at the loss"):
        made("cric", on.net(), start_step=0).step()


def test_hspg_notices_that_somebody_wrote_to_the_parameters():
    """Norms are carried from step to step; what is written between two steps is seen."""
    models = on.net(), on.net()
    optimizers = [on.wrapped(HSPG, model, start_step=0, penalty=0.5, epsilon=0.0) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        on.train(model, optimizer, 3, scale=1e-3)
        with torch.no_grad():
            model.conv2.weight.mul_(3.0)
    optimizers[1]._after = None  # forget what was carried
    for model, optimizer in zip(models, optimizers, strict=True):
        on.train(model, optimizer, 2, start=3, scale=1e-3)
    assert on.same(on.state_of(models[0]), on.state_of(models[1]))


def test_schedules_that_cannot_be_are_refused():
    model = on.net()
    for name, options in (
        ("hesso", {"pruning_steps": 4}),
        ("hesso", {"start_step": -1}),
        ("hspg", {"epsilon": 1.0}),
        ("hspg", {"complete": (5, 9)}),
        ("dhspg", {"amplify": 0.5}),
        ("cric", {"fade_steps": 0}),
        ("adahspg", {"phase_steps": 0}),
        ("adahspg", {"radius": 0.0}),
    ):
        with pytest.raises(UsageError):
            made(name, model, **options)
    with pytest.raises(UsageError, match="holds no parameter"):
        on.wrapped(
            HESSO, model, lambda p: torch.optim.SGD(on.net().parameters(), lr=0.1), start_step=0, pruning_steps=9
        )
