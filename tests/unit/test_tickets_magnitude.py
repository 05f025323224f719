"""Masks of the smallest weights against brute force, and the rounds that draw them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tickets_support import IMAGE, Blobs, built, pruned, recipe
from torch import nn

import conformance as pc
from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Facts, Limits, Masks, Method, Options
from conformance.method.weights import maskable
from conformance.subnet.state import tensor_at
from reference_impls.tickets.iterative_magnitude import IterativeMagnitude
from reference_impls.tickets.levels import gone, with_half_pace
from reference_impls.tickets.lottery_ticket import LotteryTicket
from reference_impls.tickets.lowest import lowest, shuffled
from reference_impls.tickets.magnitude import Magnitude
from reference_impls.tickets.rounds import snapshot

# -- thresholds -----------------------------------------------------------------------------------


def brute_lowest(weights: list[list[float]], kept: list[list[bool]], share: float, limits: Limits):
    """One weight after the other in order of (|w|, position); None when too few may go."""
    total = sum(map(len, weights))
    number = math.ceil(share * total - 1e-6)
    alive = {(t, i) for t, line in enumerate(kept) for i, flag in enumerate(line) if flag}
    number -= total - len(alive)
    for t, i in sorted(alive, key=lambda at: (abs(weights[at[0]][at[1]]), at)):
        if number <= 0:
            break
        size = len(weights[t])
        least = min(max(limits.min_keep, math.ceil(limits.protect * size - 1e-6)), size)
        if sum(at[0] == t for at in alive) > least:
            alive.discard((t, i))
            number -= 1
    if number > 0:
        return None
    return [[(t, i) in alive for i in range(len(line))] for t, line in enumerate(weights)]


values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
lines = st.lists(st.lists(values, min_size=1, max_size=7), min_size=1, max_size=4)


@given(lines, st.floats(0, 1), st.floats(0, 1), st.integers(1, 3), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_masks_are_those_of_brute_force_round_after_round(weights, first, second, min_keep, protect):
    limits = Limits(min_keep=min_keep, protect=protect)
    kept = [[True] * len(line) for line in weights]
    masks: dict[str, torch.Tensor] = {}
    for share in sorted((first, second)):
        weights = [line[1:] + line[:1] for line in weights]  # trained since: what is masked has any value
        named = {str(number): torch.tensor(line) for number, line in enumerate(weights)}
        wanted = brute_lowest(weights, kept, share, limits)
        if wanted is None:
            with pytest.raises(UsageError, match="cannot go"):
                lowest(named, masks, share, limits)
            return
        masks = lowest(named, masks, share, limits)
        assert [mask.tolist() for mask in masks.values()] == wanted
        kept = wanted


def test_a_share_of_one_is_a_message_and_no_index_out_of_range():
    with pytest.raises(UsageError, match=r"3 of 3 weights cannot go: .* 2 can"):
        lowest({"w": torch.ones(3)}, {}, 1.0, Limits())
    assert lowest({}, {}, 0.5, Limits()) == {}


def test_rounding_to_multiples_is_not_for_weights():
    with pytest.raises(UsageError, match="round_to is 1"):
        pruned(Magnitude(), budget="weights=0.5", limits=Limits(round_to=8))


# -- levels ---------------------------------------------------------------------------------------


@given(st.floats(0, 0.999), st.integers(1, 8))
def test_each_geometric_round_takes_the_same_share_of_what_is_left(total, rounds):
    left = [1 - gone(total, rounds, level) for level in range(rounds + 1)]
    assert left[0] == 1
    assert left[-1] == pytest.approx(1 - total)
    for before, after in pairwise(left):
        assert after / before == pytest.approx((1 - total) ** (1 / rounds))


def test_linear_rounds_take_the_same_share_of_the_whole():
    assert [gone(0.8, 4, level, "linear") for level in range(5)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@given(st.floats(0, 0.9), st.integers(1, 500), st.integers(1, 500), st.integers(1, 5), st.booleans())
def test_half_pace_meets_the_budget_together(budget, full, half, rounds, linear):
    schedule = "linear" if linear else "geometric"
    try:
        total = with_half_pace(budget, full, half, rounds, schedule)
    except UsageError:
        most = full + half * gone(1.0, rounds, rounds, schedule, 0.5)
        assert most < budget * (full + half)
        return
    slow = gone(total, rounds, rounds, schedule, 0.5)
    assert full * total + half * slow == pytest.approx(budget * (full + half), abs=1e-6)
    if linear:
        assert slow == pytest.approx(total / 2)
    else:
        each = 1 - (1 - total) ** (1 / rounds)
        assert slow == pytest.approx(1 - (1 - each / 2) ** rounds)


def shares(masks: Masks) -> list[float]:
    return [1 - float(mask.double().mean()) for mask in masks.kept.values()]


@pytest.mark.parametrize("net", ["vgg", "resnet", "densenet"])
@pytest.mark.parametrize("schedule", ["geometric", "linear"])
def test_density_after_each_round_is_the_schedules(net, schedule):
    result = pruned(LotteryTicket(rounds=3, schedule=schedule), net, "weights=0.7", recipe=recipe(epochs=1))
    count = sum(mask.numel() for mask in result.decision.kept.values())
    densities = [row["density"] for row in result.history if "density" in row]
    assert len(densities) == 3
    for level, density in enumerate(densities, 1):
        wanted = 0.3 ** (level / 3) if schedule == "geometric" else 1 - 0.7 * level / 3
        assert wanted - 1 / count <= density <= wanted
    assert result.removed == {"weights": 1 - densities[-1]}


# -- options of the ranking -----------------------------------------------------------------------


def test_by_layer_every_tensor_loses_the_share():
    masks = pruned(Magnitude(ranking="layer"), budget="weights=0.6").decision
    for share, mask in zip(shares(masks), masks.kept.values(), strict=True):
        assert 0.6 <= share < 0.6 + 1 / mask.numel()


def test_globally_nothing_masked_is_larger_than_anything_kept():
    model = built("resnet")
    masks = pruned(Magnitude(), model, "weights=0.6", task=None).decision
    assert set(masks.kept) == set(maskable(pc.trace(model.eval(), (IMAGE,))))
    every = [(tensor_at(model, name).detach().abs(), mask) for name, mask in masks.kept.items()]
    largest = max(float(weight[~mask].max()) for weight, mask in every if not mask.all())
    assert largest <= min(float(weight[mask].min()) for weight, mask in every)
    assert len(set(shares(masks))) > 1


@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_output_layer_stays_or_goes_at_half_the_rate(ranking, rounds):
    quick = {"net": "vgg", "budget": "weights=0.6", "recipe": recipe(epochs=1)}
    options = {"ranking": ranking, "rounds": rounds}
    masks = pruned(IterativeMagnitude(output="exclude", **options), **quick).decision
    assert list(masks.kept)[-1] != "10.weight"
    assert 0.6 <= 1 - masks.density < 0.601
    masks = pruned(IterativeMagnitude(output="half", **options), **quick).decision
    sizes = {name: mask.numel() for name, mask in masks.kept.items()}
    total = with_half_pace(0.6, sum(sizes.values()) - 64, 64, rounds, "geometric")
    each = 1 - (1 - total) ** (1 / rounds)
    wanted = 1 - (1 - each / 2) ** rounds
    assert sizes["10.weight"] == 64
    assert wanted <= shares(masks)[-1] < wanted + 1 / 64
    assert 0.6 <= 1 - masks.density < 0.603


def test_ignored_tensors_are_not_counted():
    result = pruned(Magnitude(), budget="weights=0.6", limits=Limits(ignore=("6",)))
    assert "6.0.weight" not in result.decision.kept  # the largest: counted, it would take all from the others
    count = sum(mask.numel() for mask in result.decision.kept.values())
    assert 0.6 <= result.removed["weights"] < 0.6 + 1 / count
    with pytest.raises(UsageError, match="nothing of this model may be masked"):
        pruned(Magnitude(), budget="weights=0.6", limits=Limits(ignore=("*.weight",)))


def test_a_layer_does_not_collapse():
    model = built("vgg")
    with torch.no_grad():
        model[0][0].weight.mul_(1e-3)
    masks = pruned(Magnitude(), model, "weights=0.5").decision
    assert int(masks.kept["0.0.weight"].sum()) == 1  # what min_keep says
    masks = pruned(Magnitude(), model, "weights=0.5", limits=Limits(protect=0.1)).decision
    assert int(masks.kept["0.0.weight"].sum()) == 27
    assert 0.5 <= 1 - masks.density < 0.501
    with pytest.raises(UsageError, match=r"weights=0.95 cannot be reached: .* 0 to 0\.9000"):
        pruned(Magnitude(), model, "weights=0.95", limits=Limits(protect=0.1))


# -- rounds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain(Method):
    """Trains and removes nothing."""

    facts = Facts(name="plain", summary="x", driver=Driver.TRAIN, data=DataNeed.TRAINING, paper="x")

    def decide(self, run):
        return run.groups.select([])


def trained(net: str, steps: int) -> nn.Module:
    """The model after this many steps of the recipe, by a run of its own."""
    return pruned(Plain(), net, recipe=recipe(steps=steps)).model


@dataclass(frozen=True)
class Seen(LotteryTicket):
    """Looks at every round's first weights and at every step's masks."""

    first: dict = field(default_factory=dict, compare=False, repr=False)
    wrong: list = field(default_factory=list, compare=False, repr=False)

    def on_event(self, event, run):
        super().on_event(event, run)
        if event == "round_start":
            self.first[run.round] = snapshot(run.model)
        elif event == "after_step" and "masks" in run.state:
            momenta = {id(weight): held.get("momentum_buffer") for weight, held in run.optimizer.state.items()}
            for name, mask in run.state["masks"].items():
                weight = tensor_at(run.model, name)
                if weight[~mask].any() or momenta[id(weight)][~mask].any():
                    self.wrong.append((run.round, run.step, name))


def rewound(first: dict, theta: dict, masks: Masks) -> bool:
    """Whether a round began with theta, masked: weights, biases and statistics bit for bit."""
    wanted = {name: tensor * masks.kept[name] if name in masks.kept else tensor for name, tensor in theta.items()}
    return first.keys() == wanted.keys() and all(torch.equal(first[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("net", ["vgg", "resnet", "densenet"])
@pytest.mark.parametrize(("rewind", "steps"), [(0, 0), (0.5, 3), (4, 4)])
def test_each_round_begins_with_theta_exactly(net, rewind, steps):
    method = Seen(rounds=2, reset="rewind", rewind=rewind)
    result = pruned(method, net, "weights=0.6")
    theta = (trained(net, steps) if steps else built(net)).state_dict()
    assert rewound(method.first[3], theta, result.decision)
    assert set(method.first) == {1, 2, 3}
    assert all(torch.equal(method.first[1][name], tensor) for name, tensor in built(net).state_dict().items())
    rows = [row["step"] for row in result.history if row["phase"] == "round-3" and "loss" in row]
    assert rows == list(range(steps, 6))


def test_init_is_rewinding_to_step_nothing():
    one, other = Seen(reset="init"), Seen(reset="rewind")
    pruned(one, budget="weights=0.6")
    pruned(other, budget="weights=0.6")
    assert all(torch.equal(one.first[2][name], tensor) for name, tensor in other.first[2].items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_masks_are_the_same_after_fifty_steps(optimizer):
    method = Seen() if optimizer == "sgd" else LotteryTicket()
    result = pruned(
        method, budget="weights=0.8", recipe=recipe(steps=50, epochs=20, optimizer=optimizer, lr=0.02, clip=1.0)
    )
    assert len([row for row in result.history if row["phase"] == "round-2" and "loss" in row]) == 50
    assert result.decision.holds(result.model)
    assert 0.8 <= result.removed["weights"] < 0.801
    if optimizer == "sgd":
        assert method.wrong == []
    kept = [tensor_at(result.model, name)[mask] for name, mask in result.decision.kept.items()]
    assert all((weights != 0).all() for weights in kept)


def test_kept_weights_train_on_at_the_rate_for_fine_tuning():
    @dataclass(frozen=True)
    class Kept(IterativeMagnitude):
        first: dict = field(default_factory=dict, compare=False, repr=False)

        def on_event(self, event, run):
            before = snapshot(run.model)
            super().on_event(event, run)
            if event == "round_start":
                self.first[run.round] = before, snapshot(run.model)

    method = Kept()
    result = pruned(method, budget="weights=0.5")
    before, after = method.first[2]
    assert rewound(after, before, result.decision)
    rates = {row["phase"]: row["lr"] for row in result.history if "lr" in row}
    assert rates == {"round-1": 0.05, "round-2": pytest.approx(0.005)}
    trained_already = pruned(IterativeMagnitude(rounds=2, dense_first=False), budget="weights=0.5")
    assert {row["phase"] for row in trained_already.history} == {"round-1", "round-2"}
    assert trained_already.decision.holds(trained_already.model)


def test_the_random_control_has_the_tickets_masks_and_other_weights():
    ticket, control = Seen(rounds=2), Seen(rounds=2, control="random")
    found, drawn = pruned(ticket, "resnet", "weights=0.6"), pruned(control, "resnet", "weights=0.6")
    assert all(torch.equal(mask, drawn.decision.kept[name]) for name, mask in found.decision.kept.items())
    assert all(torch.equal(control.first[2][name], tensor) for name, tensor in ticket.first[2].items())
    theta = built("resnet").state_dict()
    for name, mask in found.decision.kept.items():
        there = control.first[3][name]
        assert not there[~mask].any()
        assert (there[mask] != theta[name][mask]).all()
        bound = float(theta[name].abs().max())
        assert bound / 2 < float(there.abs().max()) < bound * 2  # drawn as the layer draws them
    assert control.wrong == []
    random = Seen(rounds=2, reset="random")
    pruned(random, "resnet", "weights=0.6")
    lasts = [random.first[number]["0.0.weight"] for number in (2, 3)]
    both = (lasts[0] != 0) & (lasts[1] != 0)
    assert both.any()
    assert (lasts[0][both] != lasts[1][both]).all()


def test_drawing_anew_says_what_it_cannot_draw():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = built("vgg"), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.net(x) * self.scale

    result = pruned(LotteryTicket(reset="random"), Scaled(), "weights=0.5")
    assert [row["not_redrawn"] for row in result.history if "not_redrawn" in row] == [1]


@pytest.mark.parametrize("control", ["shuffle-layer", "shuffle-global"])
def test_a_shuffled_ticket_has_as_many_weights_in_other_places(control):
    ticket = pruned(LotteryTicket(rounds=2), budget="weights=0.6").decision
    method = Seen(rounds=2, control=control)
    result = pruned(method, budget="weights=0.6")
    found = result.decision
    assert found.density == ticket.density
    counts = [int(mask.sum()) for mask in found.kept.values()]
    assert (counts == [int(mask.sum()) for mask in ticket.kept.values()]) == (control == "shuffle-layer")
    assert not any(torch.equal(mask, ticket.kept[name]) for name, mask in found.kept.items())
    assert rewound(method.first[3], built("vgg").state_dict(), found)
    assert method.wrong == []


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 9))
@settings(deadline=None)
def test_shuffling_keeps_counts(flags, seed):
    masks = {str(number): torch.tensor(line) for number, line in enumerate(flags)}
    within = shuffled(masks, torch.Generator().manual_seed(seed), across=False)
    across = shuffled(masks, torch.Generator().manual_seed(seed), across=True)
    for name, mask in masks.items():
        assert within[name].shape == across[name].shape == mask.shape
        assert int(within[name].sum()) == int(mask.sum())
    assert Masks(across).density == Masks(masks).density


def test_a_mask_stays_through_fine_tuning_as_well():
    result = pruned(Magnitude(), budget="weights=0.7", recipe=recipe(finetune_epochs=3), task=Blobs())
    assert result.decision.holds(result.subnet)
    assert result.verdict is None
    assert result.data_used == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "rounds is at least 1"),
        ({"schedule": "cubic"}, "geometric, linear"),
        ({"reset": "again"}, "init, rewind, random, keep"),
        ({"control": "shuffle"}, "shuffle-layer"),
        ({"reset": "rewind", "rewind": 1.5}, "whole number of steps"),
        ({"reset": "rewind", "rewind": -0.1}, "whole number of steps"),
        ({"rewind": 3}, "is for reset=rewind"),
        ({"reset": "rewind", "rewind": 3, "dense_first": False}, "no training has a step"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        LotteryTicket(**options)


def test_more_that_cannot_be():
    with pytest.raises(UsageError, match="step 6, but a training has 6"):
        pruned(LotteryTicket(reset="rewind", rewind=6), budget="weights=0.5")
    with pytest.raises(UsageError, match="no 'tensor'"):
        Magnitude(ranking="tensor")
    with pytest.raises(UsageError, match="budgets in weights, not groups"):
        pruned(Magnitude(), budget="groups=0.5")
    with pytest.raises(UsageError, match="half the rate"):
        pruned(Magnitude(output="half"), nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "weights=0.6")


def test_a_budget_of_nothing_masks_nothing():
    result = pruned(Magnitude(), budget="weights=0", options=Options(measure=False))
    assert result.removed == {"weights": 0.0}
