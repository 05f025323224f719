"""Network slimming and structured tickets: what leaves is what should, is zero, and the rest is where it belongs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from tickets_support import IMAGE, NETS, built, conv_bn, pruned, recipe, same_state
from torch import nn

import conformance as pc
from conformance.errors import UsageError
from conformance.method import Budget, DataNeed, Driver, Facts, Limits, Method
from reference_impls.tickets.rounds import snapshot
from reference_impls.tickets.slimming import Slimming
from reference_impls.tickets.structured import StructuredTicket, sliced


def members(groups, group: int) -> list[tuple[str, int, int]]:
    """(name, dim, position) of a group in the model's state, found position by position."""
    return [
        (name, dim, position)
        for name, index in groups.graph.names.items()
        for dim, labels in enumerate(groups.dims[index])
        for position, number in enumerate(labels.tolist())
        if number == group
    ]


def brute_gammas(model: nn.Module, groups) -> dict[int, float]:
    """The mean |gamma| of each group's batch norms; groups without one are not there."""
    norms = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state = model.state_dict()
    found = {}
    for group in range(1, groups.count + 1):
        values = [abs(float(state[name][place])) for name, _, place in members(groups, group) if name in norms]
        if values:
            found[group] = sum(values) / len(values)
    return found


# -- slimming -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched(Slimming):
    """Keeps the model as it is when the decision is made."""

    at_end: list = field(default_factory=list, compare=False, repr=False)

    def decide(self, run):
        self.at_end.append(snapshot(run.model))
        return super().decide(run)


@pytest.mark.parametrize("net", NETS)
def test_slimming_takes_the_smallest_gammas_of_all_and_is_exact(net):
    method = Watched()
    result = pruned(method, net)
    model = built(net)
    model.load_state_dict(method.at_end[0])
    groups = result.decision.groups
    found = brute_gammas(model, groups)
    removed = set(result.decision.removed)
    # One group an axis must stay; but for these, what leaves is lowest.
    last = {max((g for g in found if groups.axis_of[g] == axis), key=found.get) for axis in groups.axis_of[list(found)]}
    assert max(found[g] for g in removed) <= min(found[g] for g in found if g not in removed and g not in last)
    assert removed
    assert result.removed["groups"] >= 0.4
    assert result.verdict.status == "equal"


@pytest.mark.parametrize("net", NETS)
def test_slimming_zeroes_gamma_and_beta(net):
    result = pruned(Slimming(), net)
    groups, state = result.decision.groups, result.model.state_dict()
    hit = 0
    for path, module in result.model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            gone = torch.from_numpy(result.decision.gone[groups.dims[groups.graph.names[f"{path}.weight"]][0]])
            for part in ("weight", "bias"):
                assert not state[f"{path}.{part}"][gone].any()
                assert state[f"{path}.{part}"][~gone].all()
            hit += int(gone.sum())
    assert hit >= len(result.decision)


def test_without_beta_at_zero_the_subnet_is_another_function():
    """The reason for zeroing beta: gamma alone at zero is what the published pruning leaves behind."""
    result = pruned(Watched(gamma_init=None), "vgg")
    model = result.model
    with torch.no_grad():
        gone = torch.from_numpy(
            result.decision.gone[result.decision.groups.dims[result.decision.groups.graph.names["0.1.bias"]][0]]
        )
        assert gone.any()
        model[0][1].bias[gone] = 0.3
    assert pc.equivalent(model, result.subnet, (IMAGE,), oracle="field").status == "different"


def test_the_penalty_is_the_gradient_of_its_sum():
    @dataclass(frozen=True)
    class Twice(Slimming):
        seen: list = field(default_factory=list, compare=False, repr=False)

        def on_event(self, event, run):
            if event == "after_backward":
                parameters = dict(run.model.named_parameters())
                before = {name: parameter.grad.clone() for name, parameter in parameters.items()}
                super().on_event(event, run)
                after = {name: parameter.grad.clone() for name, parameter in parameters.items()}
                run.model.zero_grad()
                norms = [module for module in run.model.modules() if isinstance(module, nn.BatchNorm2d)]
                (0.01 * sum(norm.weight.abs().sum() for norm in norms)).backward()
                for name, parameter in parameters.items():
                    added = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    self.seen.append(torch.allclose(after[name], before[name] + added, atol=1e-7))
                    self.seen.append(parameter.grad is None or bool((after[name] != before[name]).any()))
                    parameter.grad = after[name]

    method = Twice(penalty=0.01)
    pruned(method, "resnet")
    assert len(method.seen) > 100
    assert all(method.seen)


def test_gamma_begins_where_the_option_says():
    @dataclass(frozen=True)
    class Begins(Slimming):
        first: list = field(default_factory=list, compare=False, repr=False)

        def prepare(self, run):
            super().prepare(run)
            self.first.append(snapshot(run.model))

    own = built("vgg")
    with torch.no_grad():
        own[0][1].weight.uniform_(0.1, 1)
    given = own[0][1].weight.detach().clone()
    for value, wanted in ((0.5, torch.full((10,), 0.5)), (None, given)):
        method = Begins(gamma_init=value)
        pruned(method, own)
        assert torch.equal(method.first[0]["0.1.weight"], wanted)
    assert torch.equal(own[0][1].weight, given)


def test_groups_without_a_batch_norm_stay():
    model = nn.Sequential(
        conv_bn(3, 6), nn.ReLU(), nn.Conv2d(6, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)
    )
    for method in (Slimming(), StructuredTicket()):
        result = pruned(method, model, "groups=0.3")
        groups = result.decision.groups
        assert {groups.axis_of[g] for g in result.decision.removed} == {groups.axis_of[1]}
        assert len(result.decision) == 4  # of 13
        with pytest.raises(UsageError, match=r"allow 0 to 0\.3846"):
            pruned(method, model, "groups=0.6")
    by_filter = pruned(StructuredTicket(criterion="l1", normalise="mean"), model, "groups=0.6")
    assert len({by_filter.decision.groups.axis_of[g] for g in by_filter.decision.removed}) == 2


def test_a_model_without_batch_norms_is_refused_before_it_is_trained():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))

    def never(phase, step, total):
        raise AssertionError(phase)

    with pytest.raises(UsageError, match="no group of this model has one"):
        pruned(Slimming(), model, progress=never)


def test_slimming_then_fine_tuning():
    result = pruned(Slimming(), "vgg", recipe=recipe(finetune_epochs=1))
    assert not same_state(result.subnet, pc.extract(result.model, result.decision))
    assert result.verdict.status == "equal"


# -- structured tickets ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain(Method):
    """Trains and removes nothing."""

    facts = Facts(name="plain", summary="x", driver=Driver.TRAIN, data=DataNeed.TRAINING, paper="x")

    def decide(self, run):
        return run.groups.select([])


@dataclass(frozen=True)
class Seen(StructuredTicket):
    """Looks at every round's first weights, removed groups and subnet."""

    first: dict = field(default_factory=dict, compare=False, repr=False)
    removed: list = field(default_factory=list, compare=False, repr=False)
    scored: list = field(default_factory=list, compare=False, repr=False)

    def on_event(self, event, run):
        if event == "round_start" and self.level(run):
            self.scored.append(snapshot(run.model))
        super().on_event(event, run)
        if event == "round_start" and self.level(run):
            self.removed.append(set(run.state["removed"]))
            small = run.subnet(run.groups.select(run.state["removed"]))
            self.first[run.round] = snapshot(small), snapshot(run.model)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("rewind", "steps", "criterion"), [(0, 0, "l1"), (0.5, 3, "gamma")])
def test_rewound_slices_are_those_of_theta_exactly(net, rewind, steps, criterion):
    method = Seen(rounds=2, reset="rewind", rewind=rewind, criterion=criterion)
    result = pruned(method, net, recipe=recipe(epochs=2))
    theta = pruned(Plain(), net, recipe=recipe(steps=steps)).model if steps else built(net)
    wanted = sliced(theta.state_dict(), result.state["kept"])
    small, full = method.first[3]
    assert small.keys() == wanted.keys()
    assert all(torch.equal(small[name], wanted[name]) for name in wanted)
    choice = result.decision
    assert all(torch.equal(full[name], tensor) for name, tensor in pc.zero(theta, choice).state_dict().items())
    # Each round keeps what the one before kept of the removed, and the end is exact.
    assert method.removed[0] < method.removed[1] == set(choice.removed)
    assert result.verdict.status == "equal"
    assert same_state(result.subnet, pc.extract(result.model, choice))


@pytest.mark.parametrize("net", ["resnet", "bottleneck"])
def test_the_first_round_takes_what_scores_lowest(net):
    for criterion in ("gamma", "l1"):
        method = Seen(criterion=criterion)
        result = pruned(method, net)
        model, groups = built(net), result.decision.groups
        model.load_state_dict(method.scored[0])
        if criterion == "gamma":
            found = brute_gammas(model, groups)
        else:
            found = {}
            for group in range(1, groups.count + 1):
                rows = [
                    model.state_dict()[name].select(dim, place).abs().sum()
                    for name, dim, place in members(groups, group)
                    if model.state_dict()[name].ndim > 1 and (groups.graph.names[name], dim) in groups.producer_dims
                ]
                found[group] = float(sum(rows) / len(rows))
        removed = set(result.decision.removed)
        stays = {max((g for g in found if groups.axis_of[g] == axis), key=found.get) for axis in groups.axis_of[1:]}
        assert max(found[g] for g in removed) <= min(found[g] for g in found if g not in removed | stays) + 1e-6


def test_what_left_stays_zero_and_has_no_momentum():
    @dataclass(frozen=True)
    class Steps(StructuredTicket):
        wrong: list = field(default_factory=list, compare=False, repr=False)
        looked: list = field(default_factory=list, compare=False, repr=False)

        def on_event(self, event, run):
            super().on_event(event, run)
            if event == "after_step" and self.level(run):
                self.looked.append(run.step)
                if run.units.norms()[run.state["removed"]].any():
                    self.wrong.append(run.step)
                for name, dim, places in run.units.rows_of(run.state["removed"]):
                    tensor = run.units.tensors[name]
                    momentum = run.optimizer.state[tensor]["momentum_buffer"] if tensor.requires_grad else None
                    if momentum is not None and momentum.index_select(dim, places).any():
                        self.wrong.append(name)

    method = Steps()
    pruned(method, "resnet", recipe=recipe(steps=50, epochs=20, lr=0.02))
    assert len(method.looked) == 50
    assert method.wrong == []


def test_training_the_zeroed_net_is_training_the_subnet():
    """The ticket in the full-size model and the small net from the same weights come to the same after a round."""
    method = Seen(reset="rewind", rewind=2)
    result = pruned(method, "resnet", recipe=recipe(epochs=2, clip=0.5))
    start = pc.extract(built("resnet"), result.decision)
    start.load_state_dict(method.first[2][0])

    @dataclass(frozen=True)
    class From(Plain):
        def begins(self, run):
            return 2, None

    small = pruned(From(), start, recipe=recipe(epochs=2, clip=0.5)).model
    for name, tensor in result.subnet.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_the_random_control_differs():
    ticket, control = Seen(), Seen(control="random")
    one, other = pruned(ticket, "bottleneck"), pruned(control, "bottleneck")
    assert one.decision.removed == other.decision.removed
    for name, tensor in ticket.first[2][0].items():
        drawn = control.first[2][0][name]
        assert tensor.shape == drawn.shape
        assert tensor.ndim < 2 or (tensor != drawn).all()
    assert other.verdict.status == "equal"


@pytest.mark.parametrize("criterion", ["gamma", "l1"])
def test_what_has_left_stays_away_among_equals(criterion):
    """Training that brings others to zero makes them no better than what is there already."""

    @dataclass(frozen=True)
    class Dead(Seen):
        def prune(self, run, level):
            if level == 2:
                with torch.no_grad():
                    for parameter in run.model.parameters():
                        parameter.zero_()
            super().prune(run, level)

    method = Dead(rounds=2, criterion=criterion)
    pruned(method, "vgg")
    assert method.removed[0] < method.removed[1]


@pytest.mark.parametrize("budget", ["groups=0.5", "params=0.5", "macs=0.5"])
def test_rounds_meet_the_budget_by_the_schedule(budget):
    result = pruned(StructuredTicket(rounds=3), "vgg", budget, recipe=recipe(epochs=1))
    kind = Budget.parse(budget).kind
    assert result.removed[kind] >= 0.5
    shares = [row["removed"] for row in result.history if "removed" in row]
    assert len(shares) == 3
    assert 0 < shares[0] < shares[1] < shares[2] == result.removed["groups"]
    if kind == "groups":
        assert all(0 <= share - (1 - 0.5 ** (level / 3)) < 1 / 40 for level, share in enumerate(shares, 1))


def test_limits_hold_in_every_round():
    limits = Limits(round_to=4, ignore=("3",))
    result = pruned(StructuredTicket(rounds=2), "vgg", "groups=0.3", limits=limits, recipe=recipe(epochs=1))
    kept = {
        name: dims[0].numel() for name, dims in result.state["kept"].items() if name.endswith("0.weight") and 0 in dims
    }
    assert kept
    assert "3.0.weight" not in kept
    assert all(number % 4 == 0 for number in kept.values())


def test_options_that_cannot_be():
    with pytest.raises(UsageError, match="gamma, l1, but no 'l2'"):
        StructuredTicket(criterion="l2")
    with pytest.raises(UsageError, match="rounds is at least 1"):
        StructuredTicket(rounds=0)
    with pytest.raises(UsageError, match="penalty is at least 0"):
        Slimming(penalty=-1.0)
    with pytest.raises(UsageError, match="ranking=all"):
        Slimming(ranking="all")
    with pytest.raises(UsageError, match="not weights"):
        pruned(Slimming(), budget="weights=0.5")
