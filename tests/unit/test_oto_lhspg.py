"""LHSPG: against its formulas, its schedule, its saved states; then as a method and through the front door."""

from __future__ import annotations

import math

import numpy as np
import oto_nets as on
import pytest
import torch
from torch import nn

import conformance as pc
from conformance.errors import UsageError
from conformance.method import Budget, Cost, Limits, units
from conformance.method.store import load_tree, save_tree
from conformance.spec_loader import load
from reference_impls.oto import LHSPG, OTO, Criteria, Lora, Quota, Rows, adapters, attach
from reference_impls.oto.methods.lhspg import Lhspg

LORA = Lora(rank=3, alpha=6.0, dropout=0.0)
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
FADE = {"start_step": 4, "pruning_steps": 20, "periods": 4}


def made(model, base="momentum", budget="groups=0.5", limits=None, targets=(), also="heads", **options):
    groups = on.groups_of(model)
    held = attach(model, groups, LORA, torch.Generator().manual_seed(3), targets=targets, also=also)
    quota = Quota(groups, Budget.parse(budget), limits or Limits(), Cost(groups))
    make = on.BASES[base] if isinstance(base, str) else base
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return LHSPG(make(trained), Rows(held.units(units(model, groups))), quota, held, **{**FADE, **options})


def give_gradients(model, step, scale=1.0):
    on.give_gradients(model, step, scale)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = None


def train(model, optimizer, steps, start=0, scale=1.0, after=lambda step: None):
    for step in range(start, start + steps):
        give_gradients(model, step, scale)
        optimizer.step()
        after(step)


# -- the formulas, a group at a time ---------------------------------------------------------------------


def update_of(x, path):
    """s B A by the definition of a convolution's weight."""
    return 2.0 * torch.einsum("or,rikl->oikl", x[f"{path}.lora_B"][:, :, 0, 0], x[f"{path}.lora_A"])


def slow_scores(x, paths, weights, criteria):
    terms = {"magnitude": {}, "average": {}, "cosine": {}, "taylor": {}, "taylor2": {}}
    for g, mine in weights.items():
        a = torch.cat([x[name][mask] for name, mask in mine.items()])
        u = torch.cat([update_of(x, paths[name])[mask] for name, mask in mine.items()])
        inner = float(a @ u)
        terms["magnitude"][g] = float(a.norm())
        terms["average"][g] = float(a.norm()) / (a.numel() + 1e-6)
        terms["cosine"][g] = criteria.cosine_sign * inner / ((float(a.norm()) + 1e-8) * (float(u.norm()) + 1e-8)) + 1
        terms["taylor"][g] = abs(inner)
        terms["taylor2"][g] = 0.5 * inner**2
    total = dict.fromkeys(weights, 0.0)
    for name, values in terms.items():
        norm = (sum(value**2 for value in values.values()) + 1e-8) ** 0.5 + 1e-8
        for g, value in values.items():
            total[g] += getattr(criteria, name) * value / norm
    return total


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "adamw"])
def test_it_is_its_formulas(kind, sign):
    start, length, periods = 3, 5, 3
    model = on.net()
    criteria = Criteria(magnitude=0.3, average=0.1, cosine=0.4, taylor=0.2, taylor2=0.05, cosine_sign=sign)
    groups = on.groups_of(model)
    rows = on.entries(model, groups)
    weights = {
        g: {name: mask for name, mask in mine.items() if "conv" in name and "weight" in name}
        for g, mine in rows.items()
    }
    optimizer = made(model, kind, start_step=start, pruning_steps=17, periods=periods, criteria=criteria)
    paths = {name: name.removesuffix(".weight") for name in adapters(model).layers}
    for mine in rows.values():
        for name in [name for name in mine if name in paths]:
            hit = mine[name].flatten(1).all(1)
            mine[f"{paths[name]}.lora_B"] = hit[:, None, None, None].expand(-1, LORA.rank, 1, 1)
    base = on.SlowBase(kind)
    x = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gone, active, quota = set(), [], groups.count // 2
    for n in range(1, 25):  # from 1, as published
        give_gradients(model, n)
        given = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        t, period = (n - start) % length, (n - start - 1) // length
        if n > start and (n - start - 1) % length == 0 and period < periods:
            scores = slow_scores(x, paths, weights, criteria)
            last = on.stays_last(groups, scores, gone)
            order = sorted((scores[g], g) for g in rows if g not in gone and g not in last)
            share = quota // periods if period < periods - 1 else quota - len(gone)
            active = [g for _, g in order[:share]]
        d = base.direction(x, given)
        for name, direction in d.items():
            x[name] = x[name] * (1 - base.lr * base.decay) - base.lr * direction
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
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                parameter.detach(), x[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert len(gone) == quota


def test_a_group_that_training_takes_to_zero_leaves_first():
    """With the cosine alone: updates are made that shorten some rows and lengthen the others."""
    model = on.net(norm=False)
    optimizer = made(
        model, lambda p: torch.optim.SGD(p, lr=0.0), "groups=0.3", also="nothing", targets=("conv2",), start_step=1,
        pruning_steps=2, periods=1, criteria=Criteria(0, 0, 1, 0),
    )  # fmt: skip
    layer, shortened = model.conv2, [1, 4, 5, 7, 8, 10]
    with torch.no_grad():
        sign = torch.ones(12, dtype=torch.float64)
        sign[shortened] = -1.0
        basis = torch.linalg.qr(layer.weight.flatten(1).t())[0].t()[: LORA.rank]
        layer.lora_A.copy_(basis.view_as(layer.lora_A))
        layer.lora_B.copy_((sign[:, None] * (layer.weight.flatten(1) @ basis.t())).view_as(layer.lora_B))
    train(model, optimizer, 4)
    choice = optimizer.quota.groups.select(optimizer.zero_groups)
    kept = choice.kept(optimizer.quota.groups.graph.names["conv2.weight"], 0)
    assert sorted(set(range(12)) - set(kept.tolist())) == shortened


# -- the schedule ------------------------------------------------------------------------------------------


def test_equal_parts_leave_and_the_rest_in_the_last_period():
    model = on.net()
    optimizer = made(model, budget="groups=0.7", start_step=2, pruning_steps=24, periods=4)
    counts = []
    train(model, optimizer, 30, after=lambda step: counts.append(int(optimizer.gone.sum())))
    assert [counts[2 + 6 * period + 4] for period in range(4)] == [3, 6, 9, 14]  # 14 of 20, 3 a period
    assert counts[:7] == [0, 0, 0, 0, 0, 0, 3]
    assert optimizer.finished


def test_frozen_weights_fade_in_a_line_to_exact_zero_and_kept_ones_do_not_move():
    model = on.net()
    optimizer = made(model, budget="groups=0.3", start_step=2, pruning_steps=9, periods=1)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert set(frozen) == {
        f"{layer}.{leaf}" for layer in ("conv1", "conv2", "conv3", "norm1", "norm2") for leaf in ("weight", "bias")
    }
    values = dict(model.named_parameters())
    adapted = [f"{path}.lora_{leaf}" for path in ("conv1", "conv2") for leaf in "AB"]
    picked = None
    for step in range(10):
        before = {name: values[name].detach().clone() for name in adapted}
        train(model, optimizer, 1, start=step)
        fading = step - 2 + 1
        if fading < 1:
            assert all(torch.equal(values[name], value) for name, value in frozen.items())
            continue
        picked = optimizer.fading if picked is None else picked
        left = frozen_masks(model, optimizer, picked)
        for name, value in frozen.items():
            torch.testing.assert_close(values[name][left[name]], value[left[name]] * max(8 - fading, 0) / 8, **CLOSE)
            assert torch.equal(values[name][~left[name]], value[~left[name]])
        for name in adapted:  # of what stays, adapters are trained throughout
            assert (values[name] != before[name])[~left[name]].all()
    assert optimizer.zero_groups.tolist() == picked.tolist()
    for tensor, dim, positions in optimizer.rows.places(picked):
        assert not tensor.index_select(dim, positions).any()
    for name in ("conv1.lora_B", "conv2.lora_B"):
        assert not optimizer.state[values[name]]["momentum_buffer"][left[name]].any()


def frozen_masks(model, optimizer, groups):
    found = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    names = {id(p): name for name, p in model.named_parameters()}
    for tensor, dim, positions in optimizer.rows.places(groups):
        if id(tensor) in names:
            found[names[id(tensor)]].index_fill_(dim, positions, True)
    return found


@pytest.mark.parametrize("kind", on.BASES)
@pytest.mark.parametrize("budget", ["groups=0", "groups=0.5"])
def test_with_no_budget_and_before_it_starts_adapters_are_trained_by_the_base_alone(kind, budget):
    models = on.net(dtype=torch.float32), on.net(dtype=torch.float32)
    steps = 30 if budget == "groups=0" else 12
    train(models[0], made(models[0], kind, budget, start_step=12), steps)
    plain = made(models[1], kind).base
    for step in range(steps):
        give_gradients(models[1], step)
        plain.step()
    assert on.same(*map(on.state_of, models))


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_a_saved_state_goes_on_bit_for_bit(base, tmp_path):
    model = on.net(dtype=torch.float32)
    optimizer = made(model, base)
    for stop in (2, 7, 13, 22, 26):
        train(model, optimizer, stop - optimizer.steps, start=optimizer.steps)
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        save_tree(tmp_path / "state.safetensors", optimizer.state_dict())
        loaded = torch.load(tmp_path / "state.pt", weights_only=True), load_tree(tmp_path / "state.safetensors")
        twins = []
        for saved in loaded:
            twin = on.net(seed=1, dtype=torch.float32)
            other = made(twin, base)
            twin.load_state_dict(model.state_dict())
            other.load_state_dict(saved)
            train(twin, other, 4, start=stop)
            twins.append((twin, other))
        train(model, optimizer, 4, start=stop)
        for twin, other in twins:
            assert on.same(on.state_of(twin), on.state_of(model)), stop
            assert np.array_equal(other.gone, optimizer.gone)
    assert optimizer.gone.sum() == 10


# -- what cannot be scored -----------------------------------------------------------------------------------


def test_updates_that_are_zero_are_refused():
    with pytest.raises(UsageError, match="step 1 at the earliest"):
        made(on.net(), start_step=0)
    model = on.net()
    optimizer = made(model, lambda p: torch.optim.SGD(p, lr=0.0))
    with pytest.raises(UsageError, match="after 4 steps all updates"):
        train(model, optimizer, 10)
    assert optimizer.steps == 4
    assert made(on.net(), budget="groups=0", start_step=0).finished


def test_groups_without_adapters_stay():
    model = on.net()
    optimizer = made(model, budget="groups=0.5", targets=("conv2",))
    train(model, optimizer, 30)
    choice = optimizer.quota.groups.select(optimizer.zero_groups)
    names = optimizer.quota.groups.graph.names
    assert choice.kept(names["conv1.weight"], 0).size == 8
    assert choice.kept(names["conv2.weight"], 0).size == 2
    with pytest.raises(UsageError, match="cannot be reached"):
        made(on.net(), budget="groups=0.6", targets=("conv2",))


def test_limits_hold_and_other_budgets_are_met_within_a_group():
    model = on.net()
    optimizer = made(model, budget="groups=0.4", limits=Limits(round_to=4, ignore=("conv1",)))
    train(model, optimizer, 30)
    choice = optimizer.quota.groups.select(optimizer.zero_groups)
    assert choice.kept(choice.groups.graph.names["conv1.weight"], 0).size == 8
    assert choice.kept(choice.groups.graph.names["conv2.weight"], 0).size == 4
    for budget in ("macs=0.6", "params=0.5"):
        model = on.net()
        optimizer = made(model, budget=budget)
        train(model, optimizer, 30)
        assert (
            optimizer.quota.budget.remove <= optimizer.sparsity < optimizer.quota.budget.remove + 0.12
        )  # a group of 20


# -- exactness -----------------------------------------------------------------------------------------------


class Squashed(on.Net):
    """Between its convolutions a sigmoid, which makes something of nothing: columns that read have to leave too."""

    def forward(self, x):
        y = torch.sigmoid(self.conv1(x))
        y = y + self.conv3(torch.sigmoid(self.conv2(y)))
        return self.fc(y.mean((2, 3)))


@pytest.mark.parametrize("net", [on.Net, Squashed])
def test_the_subnet_is_exact_and_merging_keeps_zeros(net):
    torch.manual_seed(0)
    model = net()
    x = torch.randn(2, 3, 6, 6)
    optimizer = made(model)
    train(model, optimizer, 30)
    choice = optimizer.quota.groups.select(optimizer.zero_groups)
    assert len(choice) == 10
    output = model.eval()(x)
    adapters(model).merge()
    torch.testing.assert_close(model(x), output)
    assert on.same(on.state_of(pc.zero(model, choice)), on.state_of(model))
    assert pc.equivalent(model, pc.extract(model, choice), x, oracle="field").equal


# -- the method and the front door ---------------------------------------------------------------------------


def test_the_contract_holds_on_a_transformer():
    report = pc.check_method(
        Lhspg(), "small:vit-w8", only=("M.z*", "M.e*", "M.k*", "M.res*", "M.un*", "M.budget", "M.data")
    )
    assert report.outcome == "pass", report.reason
    skipped = {item.id for item in report.checks if item.outcome == "skipped"}
    assert skipped == {"M.equivariant"}


def test_a_model_without_layers_to_adapt_is_unsupported():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    model = nn.Sequential(Own(4, 8), nn.ReLU(), Own(8, 3))
    report = pc.check_method(Lhspg(), (model, (torch.randn(2, 4),)), only=("M.runs",))
    assert report.outcome == "unsupported"
    assert "no layer can have adapters" in report.reason


def test_options_are_checked():
    for options in ({"rank": 0}, {"dropout": 1.0}, {"start": 2.0}, {"finish": -1.0}):
        with pytest.raises(UsageError):
            Lhspg(**options)
    assert Lhspg(start=0.0).facts.name == "lhspg"


def test_front_door_over_a_transformer(tmp_path):
    torch.manual_seed(0)
    backend = load("small:vit-w8")
    model = backend.build().train()
    (x,), _ = backend.inputs(16, torch.Generator().manual_seed(0))
    y = torch.arange(16) % 4
    oto = OTO(model, x[:2])
    optimizer = oto.lhspg(
        lr=0.01, target_group_sparsity=0.4, start_pruning_step=4, pruning_steps=12, pruning_periods=3, lora=Lora(4)
    )
    assert not model.patches.weight.requires_grad
    first = None
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        first = loss.detach() if first is None else first
    assert loss < first
    subnet, full = oto.construct_subnet(tmp_path), oto.merged()
    assert adapters(model).layers  # the trained model keeps them: it can be trained on
    assert pc.equivalent(full, subnet, x[:2], oracle="field").equal
    torch.testing.assert_close(subnet(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    fresh = backend.build()
    assert list(full.state_dict()) == list(fresh.state_dict())
    assert torch.equal(pc.load_subnet(fresh, tmp_path).eval()(x), subnet(x))
    assert len(oto.selection()) == math.ceil(0.4 * oto.groups.count)


def test_front_door_gives_the_model_back_when_it_refuses():
    model = on.net(dtype=torch.float32)
    oto = OTO(model, torch.randn(2, 3, 6, 6))
    with pytest.raises(UsageError, match="cannot be reached"):
        oto.lhspg(lr=0.01, target_group_sparsity=0.95, start_pruning_step=4, pruning_steps=12)
    assert not adapters(model).layers
    assert all(parameter.requires_grad for parameter in model.parameters())
