"""Penalties against loops over groups, that they press, that resuming is bit for bit; the random search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_nets import NETS, TASK, X, built, made, pruned

from conformance.errors import UsageError
from conformance.method import Limits, Options, Recipe
from conformance.method import run as host
from conformance.method.ladder import removable
from conformance.partition.groups import CONSUMERS
from reference_impls.baselines.bn_scale_l1 import BnScaleL1
from reference_impls.baselines.group_lasso import GroupLasso
from reference_impls.baselines.group_norm_reg import GroupNormReg
from reference_impls.baselines.growing_reg import GrowingReg
from reference_impls.baselines.search import RandomSearch

REGULARISERS = {
    "bn-scale-l1": BnScaleL1(reg=0.01),
    "group-lasso": GroupLasso(reg=0.01),
    "group-lasso-bn": GroupLasso(reg=0.01, only_bn=True),
    "group-norm-reg": GroupNormReg(reg=0.01),
    "growing-reg": GrowingReg(reg=0.01, delta=0.02),
}
RECIPE = Recipe(epochs=2, batch=16, lr=0.05, weight_decay=0.1)
every = pytest.mark.parametrize("name", REGULARISERS)


def slices_of(run, group):
    """(slice, positions) of one group in the parameters."""
    for item in run.units.slices:
        hit = np.flatnonzero(item.groups == group)
        if item.trained and hit.size:
            yield item, torch.from_numpy(hit)


def is_scale(run, item) -> bool:
    module = run.model.get_submodule(item.name.rpartition(".")[0])
    return isinstance(module, torch.nn.BatchNorm2d) and item.name.endswith("weight")


def by_loops(run, method) -> dict[str, torch.Tensor]:
    """What the penalty adds to each gradient, group by group."""
    weights = {name: tensor.detach() for name, tensor in run.units.tensors.items()}
    added = {name: torch.zeros_like(weights[name]) for name in weights}
    free = np.flatnonzero(removable(run.groups, run.limits.ignore))

    def piece(item, hit):
        return weights[item.name].index_select(item.dim, hit)

    importance = {
        group: sum(
            float(piece(item, hit).square().sum())
            for item, hit in slices_of(run, group)
            if not item.name.endswith("bias")
        )
        ** 0.5
        for group in free
    }
    for group in free:
        same = [importance[other] for other in free if run.groups.axis_of[other] == run.groups.axis_of[group]]
        members = list(slices_of(run, group))
        by_reader = run.groups.modes[group] == CONSUMERS
        norms = [(item, hit) for item, hit in members if item.producer or by_reader]
        gammas = [(item, hit) for item, hit in members if is_scale(run, item)]
        if method.name == "bn-scale-l1":
            for item, hit in gammas:
                added[item.name].index_add_(0, hit, method.reg * piece(item, hit).sign())
            continue
        if method.name == "group-lasso" and method.only_bn:
            if gammas:
                entries = torch.cat([piece(item, hit) for item, hit in gammas])
                norm = float((entries.square().mean() + 1e-9).sqrt())
                for item, hit in gammas:
                    added[item.name].index_add_(0, hit, method.reg / norm * piece(item, hit))
            continue
        if method.name == "group-lasso":
            factor = method.reg / float(torch.cat([piece(*one).flatten() for one in norms]).norm())
            members = norms
        elif method.name == "group-norm-reg":
            spread = max(same) - min(same)
            factor = method.reg * 2 ** (4 * (max(same) - importance[group]) / spread) if spread else 0.0
        else:
            factor = float(run.state["growing"][group])
        for item, hit in members:
            added[item.name].index_add_(item.dim, hit, factor * piece(item, hit))
    return added


def ready(method, net, limits=None):
    run = made(method, built(net), limits=limits)
    method.prepare(run)
    run.optimizer = method.wrap_optimizer(run, torch.optim.SGD(run.model.parameters(), lr=0.1, weight_decay=0.1))
    return run


@every
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("ignores", [False, True])
def test_what_is_added_to_the_gradients(name, net, ignores):
    method = REGULARISERS[name]
    pattern = {"resnet": "a1", "concat": "left", "vit": "blocks.0"}[net]
    run = ready(method, net, Limits(ignore=(pattern,) if ignores else ()))
    if name == "growing-reg":
        method.on_event("epoch_end", run)
    frozen = next(iter(run.units.tensors))
    for key, tensor in run.units.tensors.items():
        if isinstance(tensor, torch.nn.Parameter) and key != frozen:
            tensor.grad = torch.zeros_like(tensor)
    expected = by_loops(run, method)
    method.on_event("after_backward", run)
    assert run.units.tensors[frozen].grad is None
    for key, tensor in run.units.tensors.items():
        if isinstance(tensor, torch.nn.Parameter) and key != frozen:
            assert torch.allclose(tensor.grad, expected[key], rtol=1e-4, atol=1e-7), key
    silent = name in ("bn-scale-l1", "group-lasso-bn") and net == "vit"
    assert any(bool(value.any()) for key, value in expected.items() if key != frozen) != silent


def test_growing_factors_grow_faster_for_small_groups():
    method = REGULARISERS["growing-reg"]
    run = ready(method, "resnet")
    sizes = run.units.reduce(lambda n, w: w.square() * ("bias" not in n), "all").sqrt()
    method.on_event("epoch_end", run)
    method.on_event("epoch_end", run)
    grown = run.state["growing"]
    for axis in range(int(run.groups.axis_of.max()) + 1):
        inside = np.flatnonzero(run.groups.axis_of == axis)
        ordered = inside[sizes[inside].argsort().numpy()]
        assert float(grown[ordered[0]]) == pytest.approx(0.01 + 2 * 0.02, rel=1e-4)
        assert float(grown[ordered[-1]]) == pytest.approx(0.01)
        assert (grown[ordered].diff() <= 0).all()


def test_a_group_at_zero_stays_there():
    run = ready(GroupLasso(reg=0.1), "resnet")
    run.units.fill_([3])
    for tensor in run.units.tensors.values():
        if isinstance(tensor, torch.nn.Parameter):
            tensor.grad = torch.zeros_like(tensor)
    run.method.on_event("after_backward", run)
    for tensor in run.units.tensors.values():
        assert not isinstance(tensor, torch.nn.Parameter) or bool(tensor.grad.isfinite().all())


@every
def test_weight_decay_is_off_unless_asked_for(name):
    assert ready(REGULARISERS[name], "resnet").optimizer.param_groups[0]["weight_decay"] == 0
    kept = replace(REGULARISERS[name], decay=True)
    assert ready(kept, "resnet").optimizer.param_groups[0]["weight_decay"] == 0.1


@every
def test_training_presses_and_the_result_is_exact(name):
    limits = Limits(round_to=1)
    strong = pruned(replace(REGULARISERS[name], reg=0.3), built("resnet"), recipe=RECIPE, limits=limits)
    weak = pruned(replace(REGULARISERS[name], reg=0.0), built("resnet"), recipe=RECIPE, limits=limits)
    losses = [row["loss"] for row in strong.history if "loss" in row]
    assert len(losses) == 8

    def size(found) -> float:
        gammas = name in ("bn-scale-l1", "group-lasso-bn")
        return sum(
            float(parameter.detach().abs().sum())
            for key, parameter in found.model.named_parameters()
            if not gammas or key.endswith(("n1.weight", "n2.weight"))
        )

    assert size(strong) < size(weak)


class Killed(Exception):
    pass


@every
def test_resuming_is_bit_for_bit(name, tmp_path):
    method = REGULARISERS[name]

    def go(folder, progress=lambda *_: None):
        options = Options(seed=4, folder=folder, every=0.0, measure=False)
        return host(
            method, built("resnet"), (X,), budget=made(method, built("resnet")).budget, task=TASK,
            recipe=RECIPE, options=options, progress=progress,
        )  # fmt: skip

    whole = go(tmp_path / "whole")

    def kill(what, done, total):
        if what == "train" and done == 6:
            raise Killed

    with pytest.raises(Killed):
        go(tmp_path / "cut", kill)
    resumed = go(tmp_path / "cut")
    assert resumed.decision.removed == whole.decision.removed
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key]), key


@pytest.mark.parametrize("net", ["concat", "vit"])
def test_other_nets_are_exact(net):
    for name in ("group-lasso", "group-norm-reg", "growing-reg"):
        pruned(REGULARISERS[name], built(net), recipe=Recipe(epochs=1, batch=32, lr=0.05))


def test_a_penalty_below_zero_is_refused():
    with pytest.raises(UsageError, match="reg is at least 0"):
        GroupLasso(reg=-1.0)


# -- the search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", ["l1", "random"])
def test_candidates_meet_the_budget_and_differ(within):
    method = RandomSearch(candidates=6, within=within)
    run = made(method, built("resnet"))
    found = [method.propose(run, number) for number in range(6)]
    assert method.propose(run, 6) is None
    assert all(run.cost.removed("macs", candidate) >= 0.4 for candidate in found)
    assert len({candidate.removed for candidate in found}) > 3
    assert method.propose(run, 2).removed == found[2].removed
    if within == "l1":
        sizes = run.units.reduce(lambda n, w: w.abs() * ("bias" not in n), "all", "sum")
        means = run.units.reduce(lambda _, w: w.abs(), "all", "mean", only=lambda item: "bias" not in item.name)
        assert sizes.any()
        for candidate in found:
            for axis in range(int(run.groups.axis_of.max()) + 1):
                inside = np.flatnonzero((run.groups.axis_of == axis) & removable(run.groups))
                gone = np.isin(inside, candidate.removed)
                if gone.any() and not gone.all():
                    assert float(means[inside[gone]].max()) <= float(means[inside[~gone]].min())


def test_the_best_candidate_wins_and_is_recalibrated():
    found = pruned(RandomSearch(candidates=5), built("resnet"))
    rows = [row for row in found.history if row["phase"] == "search"]
    assert len(rows) == 5
    run = made(RandomSearch(candidates=5), built("resnet"))
    measured = []
    for number in range(5):
        candidate = run.method.propose(run, number)
        trial = run.pruned(candidate)
        run.calibrate(trial)
        measured.append((TASK.evaluate(trial, "validation")["accuracy"], candidate.removed, trial))
    assert [row["metric"] for row in rows] == [metric for metric, _, _ in measured]
    best = max(measured, key=lambda one: one[0])
    assert found.decision.removed == best[1]
    assert torch.allclose(found.model.stem[1].running_mean, best[2].stem[1].running_mean)


def test_a_search_on_other_nets_is_exact():
    for net in ("concat", "vit"):
        pruned(RandomSearch(candidates=2, within="random"), built(net))


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"within": "l3"}, {"spread": 0.5}])
def test_a_search_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError):
        RandomSearch(**wrong)
