"""Criteria against loops over groups, on nets with a dead channel in every axis, and their own invariants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_nets import NETS, TASK, X, built, made, plant, pruned
from torch.nn import functional as F

from conformance.errors import UnsuitedError, UsageError
from conformance.method import Budget, DataNeed, DataNeedError, Driver, Limits, Options, Recipe, Run, plan
from conformance.method import run as host
from conformance.method.ladder import SCOPES, removable
from conformance.subnet.state import tensor_at
from reference_impls.baselines.activation import Activation
from reference_impls.baselines.bn_scale import BnScale
from reference_impls.baselines.channel_lasso import ChannelLasso
from reference_impls.baselines.criterion import Criterion, normalised
from reference_impls.baselines.features import consumers
from reference_impls.baselines.fpgm import Fpgm
from reference_impls.baselines.hrank import HRank
from reference_impls.baselines.l1 import L1
from reference_impls.baselines.l2 import L2
from reference_impls.baselines.lamp import Lamp
from reference_impls.baselines.moments import axis_grams, moments
from reference_impls.baselines.obd import Obd
from reference_impls.baselines.obd_c import ObdC
from reference_impls.baselines.random import Random
from reference_impls.baselines.snip import Snip
from reference_impls.baselines.taylor import Taylor
from reference_impls.baselines.thinet import ThiNet

SMALL = {"batches": 2, "size": 8}
CRITERIA: dict[str, Callable[[], Criterion]] = {
    "l1": L1,
    "l2": L2,
    "lamp": Lamp,
    "fpgm": Fpgm,
    "bn-scale": lambda: BnScale(without="l1"),
    "taylor": lambda: Taylor(**SMALL),
    "taylor-slices": lambda: Taylor(form="slices", **SMALL),
    "taylor-group": lambda: Taylor(form="group", **SMALL),
    "snip": lambda: Snip(size=16),
    "obd": lambda: Obd(**SMALL),
    "obd-c": lambda: ObdC(**SMALL),
    "activation": lambda: Activation(**SMALL),
    "hrank": lambda: HRank(**SMALL),
    "thinet": lambda: ThiNet(**SMALL),
    "thinet-refit": lambda: ThiNet(refit=True, **SMALL),
    "cp": lambda: ChannelLasso(**SMALL),
}
SILENT = {("hrank", "vit")}
"""A criterion that can say nothing of a net."""

every = pytest.mark.parametrize("name", CRITERIA)
pairs = pytest.mark.parametrize(
    ("net", "name"), [(net, name) for net in NETS for name in CRITERIA if (name, net) not in SILENT]
)
each_net = pytest.mark.parametrize("net", NETS)


def without_bias(run: Run, group: int, tensors: dict[str, torch.Tensor], part: str = "all") -> list[torch.Tensor]:
    """The pieces of a group, member by member, of tensors named and shaped as the parameters; no biases."""
    found = []
    for item in run.units.slices:
        hit = np.flatnonzero(item.groups == group)
        wanted = part == "all" or item.producer == (part == "producers")
        if item.trained and wanted and hit.size and not item.name.endswith("bias"):
            found.append(tensors[item.name].index_select(item.dim, torch.from_numpy(hit)))
    return found


def parameters(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in run.model.named_parameters()}


def compare(run: Run, score: Callable[[int], float], rel: float = 1e-4) -> None:
    """The method's local scores are those of a function of one group."""
    found = run.method.local(run)
    assert found.shape == (run.groups.count + 1,)
    expected = [score(group) for group in range(1, run.groups.count + 1)]
    assert found[1:].tolist() == pytest.approx(expected, rel=rel, abs=1e-7)


# -- scores against loops -----------------------------------------------------------------------------


@each_net
@pytest.mark.parametrize(("method", "power"), [(L1(), 1), (L2(), 2), (L2(members="producers"), 2)])
def test_magnitude(net, method, power):
    run = made(method, built(net))
    weights = parameters(run)

    def score(group: int) -> float:
        pieces = without_bias(run, group, weights, method.members)
        return float(np.mean([float(piece.abs().pow(power).sum()) for piece in pieces])) if pieces else 0.0

    compare(run, score)


@each_net
@pytest.mark.parametrize("squared", [False, True])
def test_fpgm(net, squared):
    run = made(Fpgm(squared=squared), built(net))
    weights = parameters(run)

    def score(group: int) -> float:
        totals = []
        for item in run.units.slices:
            if not (item.trained and item.producer and (item.groups == group).any()) or weights[item.name].ndim < 2:
                continue
            rows = weights[item.name].movedim(item.dim, 0).flatten(1)
            rows = rows**2 if squared else rows
            mine = [rows[place] for place in np.flatnonzero(item.groups == group)]
            totals.append(sum(float((row - other).norm()) for row in mine for other in rows))
        return float(np.mean(totals)) if totals else torch.inf

    compare(run, score)


def gradients(run: Run, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the mean loss, by an ordinary backward pass of a copy in evaluation mode."""
    twin = copy.deepcopy(run.model).eval()
    F.cross_entropy(twin(x), y).backward()
    return {name: parameter.grad for name, parameter in twin.named_parameters()}


@each_net
@pytest.mark.parametrize("form", ["weights", "slices", "group"])
def test_taylor(net, form):
    run = made(Taylor(form=form, **SMALL), built(net))
    batches = run.data.labelled(2, 8)
    found = [gradients(run, batch.args[0], batch.target) for batch in batches]
    weights = parameters(run)
    products = {name: weight * (found[0][name] + found[1][name]) / 2 for name, weight in weights.items()}

    def score(group: int) -> float:
        pieces = without_bias(run, group, products)
        if form == "weights":
            return float(np.mean([float(piece.abs().sum()) for piece in pieces]))
        sums = [float(piece.sum()) for piece in pieces]
        return float(np.mean(np.abs(sums))) if form == "slices" else abs(sum(sums))

    compare(run, score, rel=1e-3)


@each_net
def test_snip(net):
    run = made(Snip(size=16), built(net))
    (batch,) = run.data.labelled(1, 16)
    found = gradients(run, batch.args[0], batch.target)
    products = {name: (weight * found[name]).abs() for name, weight in parameters(run).items()}
    compare(run, lambda group: sum(float(piece.sum()) for piece in without_bias(run, group, products)), rel=1e-3)


def squares(run: Run, batches: list) -> dict[str, torch.Tensor]:
    """Mean over samples of squared gradients, one backward pass a sample."""
    found = [
        gradients(run, batch.args[0][number : number + 1], batch.target[number : number + 1])
        for batch in batches
        for number in range(batch.size)
    ]
    return {name: torch.stack([one[name] ** 2 for one in found]).mean(0) for name in found[0]}


@each_net
@pytest.mark.parametrize("chunk", [3, 8])
def test_obd_takes_the_mean_over_samples(net, chunk):
    run = made(Obd(chunk=chunk, **SMALL), built(net))
    h = squares(run, run.data.labelled(2, 8))
    terms = {name: weight**2 * h[name] for name, weight in parameters(run).items()}
    compare(run, lambda group: float(np.mean([float(piece.sum()) for piece in without_bias(run, group, terms)])), 1e-3)


class Unvectorised(torch.nn.Module):
    """Looks at a value, which torch.func cannot vectorise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = built("resnet")

    def forward(self, x):
        return self.inner(x) * (1.0 if float(x.detach().sum()) > -1e9 else 2.0)


def test_obd_goes_sample_by_sample_where_it_must_and_says_so():
    run = made(Obd(**SMALL), built("resnet"))
    other = replace(run, model=Unvectorised(), units=None)
    said = []
    other.log = said.append
    from reference_impls.baselines.gradients import _one_by_one, _vectorised, mean_squared_gradients

    batches = run.data.labelled(1, 4)
    with pytest.raises(RuntimeError):
        _vectorised(other.model, batches[0], run.data.loss, 4)
    slow = _one_by_one(run.model, batches[0], run.data.loss)
    fast = _vectorised(run.model, batches[0], run.data.loss, 3)
    for name, value in slow.items():
        assert torch.allclose(value, fast[name], rtol=1e-3, atol=1e-9)
    other.units = type("Named", (), {"tensors": dict(other.model.named_parameters())})()
    found = mean_squared_gradients(other, batches, run.data.loss, 4)
    assert torch.allclose(found["inner.fc.weight"] * 4, slow["fc.weight"])
    assert len(said) == 1
    assert said[0]["one_by_one"]


class InPairs:
    """A loss over pairs of samples, as contrastive ones are: one sample alone has none."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def loss(self, output, target):
        if len(target) % 2:
            raise UsageError("every two rows are a pair")
        return TASK.loss(output, target)


def test_obd_says_that_a_loss_over_pairs_is_not_one_of_samples():
    run = made(Obd(**SMALL), built("resnet"))
    run.data.task = InPairs()
    with pytest.raises(UsageError, match="obd needs the loss of each sample by itself, and here: every two rows"):
        run.method.local(run)


@each_net
def test_obd_c_draws_labels_from_the_model(net):
    run = made(ObdC(**SMALL), built(net))
    batches = run.data.unlabelled(2, 8)
    assert all(batch.target is None for batch in batches)
    generator = run.rng("labels")
    drawn = []
    for batch in batches:
        chances = run.model(batch.args[0]).double().softmax(1)
        drawn.append(replace(batch, target=torch.multinomial(chances, 1, generator=generator).flatten()))
    fisher = squares(run, drawn)
    terms = {
        name: weight**2 * (fisher[name] + 1e-10)
        for name, weight in parameters(run).items()
    }  # fmt: skip

    def score(group: int) -> float:
        pieces = []
        for item in run.units.slices:
            module = run.model.get_submodule(item.name.rpartition(".")[0])
            hit = np.flatnonzero(item.groups == group)
            kernel = item.name.endswith("weight") and isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
            if kernel and item.producer and hit.size:
                pieces.append(terms[item.name].index_select(item.dim, torch.from_numpy(hit)))
        return float(np.mean([float(piece.sum()) for piece in pieces])) if pieces else torch.inf

    compare(run, score, rel=1e-3)


def inputs(run: Run, batches: list) -> dict[str, list[torch.Tensor]]:
    """What each layer of the model is given, call by call, channels second."""
    seen: dict[str, list[torch.Tensor]] = {}
    twin = copy.deepcopy(run.model).eval()
    for name, module in twin.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_pre_hook(
                lambda module, args, name=name: seen.setdefault(name, []).append(
                    args[0].movedim(-1, 1) if isinstance(module, torch.nn.Linear) else args[0]
                )
            )
    with torch.no_grad():
        for batch in batches:
            twin(*batch.args)
    return seen


@pytest.mark.parametrize(
    ("net", "method"),
    [(net, Activation(**SMALL)) for net in NETS] + [(net, HRank(**SMALL)) for net in ("resnet", "concat")],
)
def test_feature_criteria(net, method):
    run = made(method, built(net))
    seen = inputs(run, run.data.unlabelled(2, 8))

    def figure(x: torch.Tensor, channel: int) -> float | None:
        if method.name == "activation":
            return float(x[:, channel].abs().mean())
        if x.ndim < 4 or min(x.shape[2:]) < 2:
            return None
        return float(np.mean([float(torch.linalg.matrix_rank(image)) for image in x[:, channel]]))

    def score(group: int) -> float:
        members = []
        for item in run.units.slices:
            name = item.name.rpartition(".")[0]
            if item.producer or not item.trained or not (item.groups == group).any():
                continue
            x = torch.cat(seen[name])
            values = [
                figure(x, channel) for channel in range(x.shape[1]) if item.groups[channel % item.groups.size] == group
            ]
            if None not in values:
                members.append(np.mean(values))
        return float(np.mean(members)) if members else torch.inf

    compare(run, score)


@each_net
def test_bn_scale(net):
    run = made(BnScale(), built(net))
    weights = parameters(run)

    def score(group: int) -> float:
        found = []
        for item in run.units.slices:
            module = run.model.get_submodule(item.name.rpartition(".")[0])
            if isinstance(module, torch.nn.BatchNorm2d) and item.name.endswith("weight"):
                found += [abs(float(weights[item.name][place])) for place in np.flatnonzero(item.groups == group)]
        return float(np.mean(found)) if found else torch.inf

    compare(run, score)


def test_bn_scale_falls_back_where_there_is_no_batch_norm():
    run = made(BnScale(), built("concat"))
    stays = run.method.score(run)
    weights = normalised(run.groups, L1().local(run), "mean")
    unknown = torch.isinf(stays)
    assert 0 < int(unknown[1:].sum()) < run.groups.count
    filled = BnScale(without="l1").score(run)
    assert torch.equal(filled[~unknown], stays[~unknown])
    assert torch.equal(filled[unknown], weights[unknown])


@pytest.mark.parametrize("method", [BnScale(), HRank(**SMALL)], ids=["bn-scale", "hrank"])
def test_a_criterion_that_can_say_nothing_says_so(method):
    with pytest.raises(UnsuitedError, match=r"can say nothing about any group of this model: n"):
        host(method, built("vit"), (X,), budget=made(method, built("vit")).budget, task=TASK)


def test_obd_c_needs_classes():
    class Maps(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    torch.manual_seed(0)
    model = Maps(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    run = made(ObdC(**SMALL), model)
    with pytest.raises(UsageError, match="draws labels from an output of shape"):
        run.method.local(run)


# -- dead channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "name"),
    [(net, name) for net in NETS for name in CRITERIA if (name, net) not in SILENT and name != "fpgm"],
)
def test_a_dead_channel_is_the_lowest_of_its_axis(net, name):
    run = made(CRITERIA[name](), built(net))
    dead = plant(run)
    scores = run.method.score(run)
    free = removable(run.groups)
    contributes = torch.zeros(run.groups.count + 1)
    if name.startswith("thinet"):
        for numbers, gram in axis_grams(run, moments(run, run.data.unlabelled(2, 8), 10)).values():
            contributes[torch.from_numpy(numbers)] = gram.diagonal().float()
    looked = 0
    for axis, group in dead.items():
        others = np.flatnonzero(free & (run.groups.axis_of == axis) & (np.arange(free.size) != group))
        if torch.isinf(scores[group]):
            continue
        if name.startswith("thinet"):  # what ReLU has killed contributes nothing either, and ties go by number
            others = np.array([other for other in others if contributes[other] > 0])
        looked += 1
        assert float(scores[group]) <= float(scores[others].min())
        if name != "hrank":  # ReLU may leave other maps of one row or none
            assert float(scores[group]) < float(scores[others].max())
    assert looked >= 2


# -- invariants ---------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(-3, 3))
def test_fpgm_does_not_see_one_filter_added_to_all(seed, size):
    run = made(Fpgm(), built("resnet"))
    before = run.method.score(run)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in run.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight += size * torch.randn(module.weight[:1].shape, generator=generator)
    assert torch.allclose(run.method.score(run), before, rtol=1e-4)
    squared = replace(run, method=Fpgm(squared=True))
    if abs(size) > 0.1:
        assert not torch.allclose(squared.method.score(squared), before, rtol=1e-2)


@each_net
def test_the_largest_lamp_score_of_every_axis_is_one(net):
    run = made(Lamp(), built(net))
    scores = run.method.score(run)
    plain = L2(reduce="sum").local(run)
    for axis in range(int(run.groups.axis_of.max()) + 1):
        inside = np.flatnonzero(run.groups.axis_of == axis)
        ordered = inside[np.argsort(plain[inside].numpy(), kind="stable")]
        for place, group in enumerate(ordered):
            rest = float(plain[ordered[place:]].double().sum())
            assert float(scores[group]) == pytest.approx(float(plain[group]) / rest)
        assert float(scores[inside].max()) == 1


def test_lamp_keeps_its_digits_beside_large_axes():
    run = made(Lamp(), built("resnet"))
    with torch.no_grad():
        run.model.fc.weight *= 1e9
    scores = run.method.score(run)
    for axis in range(int(run.groups.axis_of.max()) + 1):
        assert float(scores[np.flatnonzero(run.groups.axis_of == axis)].max()) == 1


@pytest.mark.parametrize("name", ["taylor", "taylor-slices", "taylor-group", "snip", "obd"])
def test_weights_of_zero_score_zero(name):
    run = made(CRITERIA[name](), built("resnet"))
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.zero_()
    assert not run.method.local(run)[1:].any()


@each_net
def test_sum_and_mean_rank_alike_within_an_axis(net):
    """Where every group of the axis has the same members."""
    run = made(L2(), built(net))
    total, mean = L2(reduce="sum").local(run), L2(reduce="mean").local(run)
    for axis in range(int(run.groups.axis_of.max()) + 1):
        inside = np.flatnonzero(run.groups.axis_of == axis)
        ratio = total[inside] / mean[inside]
        assert torch.allclose(ratio, ratio.round(), atol=1e-4)
        if len({round(float(value)) for value in ratio}) == 1:
            assert torch.equal(total[inside].argsort(), mean[inside].argsort())
    assert torch.equal(normalised(run.groups, total, "none")[1:], total[1:].double())


@pytest.mark.parametrize("net", ["resnet", "concat"])
@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"thinet-refit"}))
def test_renumbering_channels_renumbers_scores(name, net):
    """Every axis of the model is permuted in all its tensors; it computes the same, so scores follow."""
    run = made(CRITERIA[name](), built(net))
    other = made(CRITERIA[name](), built(net))
    rng = np.random.default_rng(8)
    source = np.arange(run.groups.count + 1)
    free = removable(run.groups)
    place: dict[int, tuple] = {}
    for group in range(1, run.groups.count + 1):
        place[group] = tuple(
            (item.name, item.dim, int((item.groups == group).sum())) for item in run.units.slices if (item.groups == group).any()
        )  # fmt: skip
    for members in {(run.groups.axis_of[group], place[group]) for group in place}:
        inside = np.array([g for g in place if (run.groups.axis_of[g], place[g]) == members and free[g]], dtype=int)
        source[inside] = rng.permutation(inside)
    with torch.no_grad():
        for value, lines in run.groups.state.items():  # running statistics too, which no unit has
            tensor = tensor_at(other.model, run.groups.graph.values[value].name)
            for dim, labels in enumerate(lines):
                index = np.arange(labels.size)
                for group in np.unique(labels[labels > 0]):
                    index[labels == group] = np.flatnonzero(labels == source[group])
                tensor.copy_(tensor.index_select(dim, torch.from_numpy(index)))
    same = torch.allclose(other.model(X), run.model(X), atol=1e-4)
    assert same, "the model computes the same"
    assert (source != np.arange(source.size)).sum() > 5
    before, after = run.method.score(run), other.method.score(other)
    if name == "hrank":  # ranks are whole numbers: rounding may move one map of many across the tolerance
        assert torch.allclose(after[1:], before[source][1:], atol=0.2)
    elif name == "thinet":  # places in a greedy order: two channels that hardly count may change theirs by rounding
        moved = (after[1:] - before[source][1:]).abs()
        assert moved.max() <= 1
        assert (moved > 0).sum() <= 2
    else:
        assert torch.allclose(after[1:], before[source][1:], rtol=2e-2, atol=1e-4)


def test_random_is_drawn_from_the_seed():
    run = made(Random(), built("resnet"))
    assert torch.equal(run.method.score(run), run.method.score(run))
    run.seed += 1
    other = run.method.score(run)
    run.seed -= 1
    assert not torch.equal(other, run.method.score(run))


ALIKE = {"global": [0, 0, 0, 0], "local": [0, 1, 2, 3], "isomorphic": [0, 1, 1, 2]}
"""For each axis of the small ResNet the class whose groups a scope compares."""


@pytest.mark.parametrize("ranking", SCOPES)
def test_random_removes_the_lowest_draws_of_each_class_of_its_scope(ranking):
    found = plan(Random(ranking=ranking), built("resnet"), X, budget=Budget("groups", 0.5), options=Options(seed=3))
    groups, taken = found.run.groups, np.array(found.decision.removed)
    draws = torch.rand(groups.count + 1, generator=found.run.rng("scores"), dtype=torch.float64).numpy()
    alike = np.array(ALIKE[ranking])[groups.axis_of]
    for number in set(ALIKE[ranking]):
        inside = np.flatnonzero(alike[1:] == number) + 1
        gone = np.intersect1d(taken, inside)
        assert abs(gone.size - inside.size / 2) < 1
        assert set(gone) == set(inside[np.argsort(draws[inside])][: gone.size])


def test_random_compares_all_groups_unless_told_otherwise():
    plans = [
        plan(method, built("resnet"), X, budget=Budget("groups", 0.5), options=Options(seed=3)).decision.removed
        for method in (Random(), Random(ranking="global"), Random(ranking="local"))
    ]
    assert plans[0] == plans[1] != plans[2]


def test_random_refuses_a_scope_that_is_none():
    with pytest.raises(UsageError, match="random: there are global, local, isomorphic, but no 'layer'"):
        Random(ranking="layer")


# -- manners ------------------------------------------------------------------------------------------


@every
def test_scoring_leaves_no_trace(name):
    run = made(CRITERIA[name](), built("resnet"))
    run.model.train()
    for parameter in list(run.model.parameters())[:2]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(run.model.state_dict())
    modes = [module.training for module in run.model.modules()]
    random = torch.get_rng_state()
    run.method.score(run)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in run.model.modules()] == modes
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert [parameter.requires_grad for parameter in run.model.parameters()][:3] == [False, False, True]
    after = run.model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert not any(module._forward_pre_hooks for module in run.model.modules())


@every
def test_the_declared_level_of_data_is_enough_and_the_one_below_is_not(name):
    method = CRITERIA[name]()
    levels = list(DataNeed)
    run = made(method, built("resnet"))
    method.score(run)
    assert max(run.data.used, default=DataNeed.NONE) == method.facts.data
    if method.facts.data is DataNeed.NONE:
        free = made(method, built("resnet"), task=None)
        assert torch.equal(method.score(free), method.score(run))
        return
    below = levels[levels.index(method.facts.data) - 1]

    class Less(type(method)):
        facts = replace(method.facts, data=below)

    less = made(Less(**method.options), built("resnet"))
    with pytest.raises(DataNeedError, match=f"declares {below.value}"):
        less.method.score(less)
    with pytest.raises(UsageError, match="give it a task"):
        host(method, built("resnet"), (X,), budget=run.budget)


@pairs
def test_results_are_exact_and_meet_the_budget(net, name):
    budget = "macs=0.2" if name == "hrank" else "macs=0.4"
    found = pruned(CRITERIA[name](), built(net), budget=budget)
    assert found.method.facts.driver is Driver.POST


@pytest.mark.parametrize(
    ("net", "name", "ranking"),
    [
        ("resnet", "l2", "local"),
        ("resnet", "fpgm", "global"),
        ("resnet", "bn-scale", "isomorphic"),
        ("concat", "activation", "global"),
        ("concat", "thinet", "isomorphic"),
        ("vit", "lamp", "isomorphic"),
        ("vit", "taylor", "global"),
    ],
)
def test_steps_meet_the_budget_and_what_has_left_stays_out(net, name, ranking):
    method = replace(CRITERIA[name](), steps=4, ranking=ranking)
    run = made(method, built(net), limits=Limits(round_to=2 if ranking == "local" else 1, protect=0.1))
    rows = []
    run.log = rows.append
    asked = []
    scored = type(method).score

    class Watched(type(method)):
        def score(self, run):
            asked.append(set(run.state["left"].tolist()) if "left" in run.state else set())
            assert all(not run.units.norms()[group] for group in asked[-1])
            return scored(self, run)

    run.method = Watched(**method.options)
    decision = run.method.decide(run)
    assert len(asked) == 4
    for earlier, later in zip(asked, [*asked[1:], set(decision.removed)], strict=True):
        assert earlier <= later
    assert run.cost.removed("macs", decision) >= 0.4
    assert [row["removed"] for row in rows] == [len(step) for step in [*asked[1:], set(decision.removed)]]


def test_steps_are_exact():
    pruned(L2(steps=3), built("vit"))
    pruned(Taylor(steps=2, **SMALL), built("concat"))
    pruned(ThiNet(steps=2, refit=True, **SMALL), built("resnet"))
    pruned(ChannelLasso(refit=False, **SMALL), built("concat"))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (L2, {"ranking": "near"}),
        (L2, {"reduce": "median"}),
        (L2, {"normalise": "median"}),
        (L2, {"members": "some"}),
        (L2, {"steps": 0}),
        (BnScale, {"without": "l3"}),
        (Taylor, {"form": "whole"}),
        (Taylor, {"batches": 0}),
        (Obd, {"chunk": 0}),
        (ObdC, {"size": 0}),
        (Activation, {"batches": 0}),
        (ThiNet, {"positions": 0}),
    ],
)
def test_options_that_do_not_exist_are_refused(kind, wrong):
    with pytest.raises(UsageError, match=kind.facts.name):
        kind(**wrong)


def test_readers_are_found_by_the_owner_of_the_weight():
    run = made(Activation(), built("concat"))
    found = {reader.slices.name: reader.size for reader in consumers(run)}
    assert found == {"mid.weight": 10, "paired.weight": 4, "fc.weight": 24}


def test_a_whole_run_does_not_touch_the_given_model():
    model = built("resnet")
    before = copy.deepcopy(model.state_dict())
    pruned(ChannelLasso(**SMALL), model, recipe=Recipe(), options=Options(seed=2, measure=False))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_without_any_batch_norm_all_may_go_by_weights():
    run = made(BnScale(without="l1"), built("vit"))
    assert torch.equal(run.method.score(run)[1:], L1().score(run)[1:])
