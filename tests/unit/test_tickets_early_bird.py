"""Early-Bird tickets: when they are found, by both readings, and what happens then."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tickets_support import NETS, built, pruned, recipe, same_state
from torch import nn

import conformance as pc
from conformance.checks.subject import prepare
from conformance.errors import TooFewStepsError, UsageError
from conformance.method.contract import check_method
from conformance.method.contract.subject import Subject
from conformance.report.schema import Outcome
from conformance.spec_loader import load
from reference_impls.tickets import gamma
from reference_impls.tickets.early_bird import EarlyBird, distance, settled, smallest_out
from reference_impls.tickets.rounds import snapshot

# -- masks and their distances --------------------------------------------------------------------

flags = st.lists(st.booleans(), min_size=10, max_size=10)


@given(st.lists(flags, max_size=9), st.sampled_from([0.0, 0.1, 0.2, 0.5]), st.integers(2, 6))
@settings(max_examples=300, deadline=None)
def test_both_readings_against_brute_force(masks, threshold, window):
    def far(one: list[bool], other: list[bool]) -> int:
        return sum(a != b for a, b in zip(one, other, strict=True))

    most = round(threshold * 10)
    tensors = [torch.tensor(mask) for mask in masks]
    newest = len(masks) >= window and all(far(masks[-1], masks[-k]) <= most for k in range(2, window + 1))
    assert settled(tensors, threshold, window, consecutive=False) == newest
    chain = len(masks) > window and all(far(masks[-k], masks[-k - 1]) <= most for k in range(1, window + 1))
    assert settled(tensors, threshold, window, consecutive=True) == chain


def test_the_readings_differ():
    drifting = [torch.arange(20) < 5 + step for step in range(6)]  # a twentieth a step
    assert settled(drifting, 0.1, 5, consecutive=True)
    assert not settled(drifting, 0.1, 5, consecutive=False)
    one, other = torch.arange(20) < 5, torch.arange(20) < 9
    jumping = [one, other, one, one, one, one]
    assert not settled(jumping, 0.1, 5, consecutive=True)
    assert settled([other, one, one, one, one, one], 0.1, 5, consecutive=False)
    assert distance(one, other) == 0.2


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=12), st.floats(0, 0.99))
def test_the_mask_leaves_out_the_smallest_and_all_that_equal_the_last(line, ratio):
    values = torch.tensor(line)
    mask = smallest_out(values, ratio)
    number = int(ratio * len(line) + 1e-9)
    assert int((~mask).sum()) >= number
    if number:
        assert mask.tolist() == [value > sorted(values.tolist())[number - 1] for value in values.tolist()]
    if len(set(line)) == len(line):
        assert int((~mask).sum()) == number


# -- when a ticket is found -----------------------------------------------------------------------


def freeze(model: nn.Module, *, distinct: bool) -> nn.Module:
    """No gamma is trained; they are all different, or all the same."""
    for number, weight in enumerate(gamma.gammas(model)):
        weight.requires_grad = False
        with torch.no_grad():
            weight.copy_(
                torch.linspace(0.2, 1, weight.numel()) + 0.001 * number if distinct else torch.full_like(weight, 0.5)
            )
    return model


def found(result) -> int:
    return result.state["found"]


def rows(result, key: str) -> dict[int, object]:
    return {row["step"]: row[key] for row in result.history if key in row}


@pytest.mark.parametrize("net", ["vgg", "densenet"])
@pytest.mark.parametrize(("consecutive", "epoch"), [(False, 5), (True, 6)])
def test_frozen_gammas_give_a_ticket_at_the_fifth_mask_and_not_earlier(net, consecutive, epoch):
    method = EarlyBird(consecutive=consecutive, gamma_init=None)
    with pytest.raises(TooFewStepsError, match=f"needs {3 * epoch - 2} steps, not {3 * epoch - 3}"):
        pruned(method, freeze(built(net), distinct=True), recipe=recipe(epochs=epoch - 1))
    result = pruned(method, freeze(built(net), distinct=True), recipe=recipe(epochs=epoch))
    assert found(result) == epoch
    assert rows(result, "early_bird") == {3 * (epoch - 1): epoch}
    assert rows(result, "mask_distance") == {3 * number: 0.0 for number in range(1, epoch)}
    assert result.verdict.status == "equal"


@pytest.mark.parametrize("net", ["vgg", "resnet"])
@pytest.mark.parametrize("budget", ["groups=0.85", "groups=0.04"])
def test_equal_gammas_give_no_ticket(net, budget):
    """Their mask is empty, so it is near its likes."""
    result = pruned(EarlyBird(gamma_init=None), freeze(built(net), distinct=False), budget, recipe=recipe(epochs=8))
    assert found(result) == 0
    assert set(rows(result, "mask").values()) == {"not of the ratio"}
    assert len(rows(result, "mask")) == 8
    assert rows(result, "early_bird") == {24: "not found: the mask at the end is taken"}
    assert result.removed["groups"] >= float(budget.partition("=")[2])


def test_what_was_seen_before_a_mask_that_is_none_does_not_count():
    """Settled, then equal for one epoch, then settled again: five masks in a row are needed anew."""

    @dataclass(frozen=True)
    class Blinking(EarlyBird):
        def on_event(self, event, run):
            if event == "epoch_start":
                for weight in gamma.gammas(run.model):
                    with torch.no_grad():
                        line = torch.linspace(0.2, 1, weight.numel())
                        weight.copy_(torch.full_like(line, 0.5) if run.epoch == 3 else line + 0.001 * weight.numel())
            super().on_event(event, run)

    result = pruned(Blinking(gamma_init=None), freeze(built("vgg"), distinct=True), recipe=recipe(epochs=10))
    assert found(result) == 9


@pytest.mark.parametrize("consecutive", [False, True])
@pytest.mark.parametrize("net", ["vgg", "densenet"])
def test_the_epoch_is_that_of_brute_force_over_the_whole_history(net, consecutive):
    """All masks of a run without a ticket, looked through afterwards."""

    @dataclass(frozen=True)
    class Recording(EarlyBird):
        lines: list = field(default_factory=list, compare=False, repr=False)

        def on_event(self, event, run):
            if event == "epoch_start":
                self.lines.append(gamma.vector(run.model).tolist())
            super().on_event(event, run)

    options = {"consecutive": consecutive, "penalty": 0.01, "window": 3}
    training = recipe(epochs=9, lr=0.1)
    method = Recording(threshold=0.0, **options)
    pruned(method, net, recipe=training)
    for threshold in (0.1, 0.3):
        masks: list[list[bool] | None] = []
        for line in method.lines:
            number = int(0.4 * len(line) + 1e-9)
            mask = [value > sorted(line)[number - 1] for value in line]
            masks.append(mask if abs(sum(mask) / len(line) - 0.6) <= max(0.01, 1 / len(line)) else None)
        wanted = 0
        for epoch in range(len(masks)):
            last = masks[max(0, epoch + 1 - 3 - consecutive) : epoch + 1]
            if len(last) < 3 + consecutive or None in last:
                continue
            pairs = list(pairwise(last)) if consecutive else [(last[-1], old) for old in last[:-1]]
            if all(sum(a != b for a, b in zip(*pair, strict=True)) <= threshold * len(last[0]) for pair in pairs):
                wanted = epoch + 1
                break
        assert found(pruned(EarlyBird(threshold=threshold, **options), net, recipe=training)) == wanted


# -- what happens then ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen(EarlyBird):
    """Looks at the model when the ticket is taken, and at every step after."""

    taken: list = field(default_factory=list, compare=False, repr=False)
    wrong: list = field(default_factory=list, compare=False, repr=False)
    steps: list = field(default_factory=list, compare=False, repr=False)

    def on_event(self, event, run):
        before = snapshot(run.model) if event == "epoch_start" and not run.state["found"] else None
        super().on_event(event, run)
        if before is not None and run.state["found"]:
            self.taken.append((before, snapshot(run.model), dict(run.optimizer.state)))
        if event == "after_backward" and run.state["found"]:
            for name, dim, places in run.units.rows_of(run.state["removed"]):
                grad = run.units.tensors[name].grad
                if grad is not None and grad.index_select(dim, places).any():
                    self.wrong.append(name)
        if event == "after_step" and run.state["found"]:
            self.steps.append(run.step)
            if run.units.norms()[run.state["removed"]].any():
                self.wrong.append(run.step)


@pytest.mark.parametrize(
    ("net", "budget"), [*((net, "groups=0.4") for net in NETS), ("vgg", "macs=0.4"), ("resnet", "params=0.4")]
)
def test_training_goes_on_with_the_ticket(net, budget):
    method = Seen(threshold=0.4)
    result = pruned(method, net, budget, recipe=recipe(epochs=8))
    epoch = found(result)
    assert 5 < epoch < 8  # the first mask is of equal gammas
    before, after, optimizer = method.taken[0]
    model = built(net)
    model.load_state_dict(before)
    assert all(
        torch.equal(after[name], tensor) for name, tensor in pc.zero(model, result.decision).state_dict().items()
    )
    assert optimizer
    assert method.steps == list(range(3 * (epoch - 1), 24))
    assert method.wrong == []
    assert result.removed[budget.partition("=")[0]] >= 0.4
    assert result.verdict.status == "equal"
    assert not same_state(result.subnet, pc.extract(model, result.decision))


def test_a_ticket_may_be_drawn_anew():
    method = Seen(threshold=0.4, reinit=True)
    result = pruned(method, "resnet", recipe=recipe(epochs=8))
    before, after, optimizer = method.taken[0]
    assert optimizer == {}
    choice, groups = result.decision, result.decision.groups
    for name in ("0.0.weight", "3.body.0.0.weight"):
        stays = torch.from_numpy(~choice.gone[groups.dims[groups.graph.names[name]][0]])
        assert (after[name][stays] != before[name][stays]).all()
        assert (after[name][stays] != built("resnet").state_dict()[name][stays]).all()
        assert not after[name][~stays].any()
    scales = torch.cat([weight.flatten() for name, weight in after.items() if name.endswith("1.weight")])
    assert set(scales.tolist()) == {0.0, 0.5}
    assert int(after["0.1.num_batches_tracked"]) == 0
    assert method.wrong == []
    assert "theta" not in result.state
    assert result.verdict.status == "equal"


def test_without_a_ticket_the_mask_at_the_end_is_taken_and_the_history_says_so():
    result = pruned(EarlyBird(threshold=0.0), "vgg", recipe=recipe(epochs=6))
    assert found(result) == 0
    assert rows(result, "early_bird") == {18: "not found: the mask at the end is taken"}
    assert list(result.decision.removed) == result.state["removed"]
    assert result.removed["groups"] >= 0.4
    assert result.verdict.status == "equal"
    distances = rows(result, "mask_distance")
    assert list(distances) == [6, 9, 12, 15]  # of the masks of epochs 2 to 6: the first was of equal gammas
    assert list(rows(result, "mask_density")) == [0, 3, 6, 9, 12, 15]


def test_the_penalty_goes_on_with_the_ticket():
    weak, strong = (
        pruned(EarlyBird(threshold=1.0, penalty=penalty), "vgg", recipe=recipe(epochs=8)) for penalty in (0.0, 0.5)
    )
    assert found(weak) == found(strong) == 6
    assert gamma.vector(strong.subnet).sum() < gamma.vector(weak.subnet).sum() / 2


def test_options_and_budgets_that_cannot_be():
    with pytest.raises(UsageError, match="window at least 2"):
        EarlyBird(window=1)
    with pytest.raises(UsageError, match="threshold is a share"):
        EarlyBird(threshold=1.5)
    with pytest.raises(UsageError, match="not latency"):
        pruned(EarlyBird(), budget="latency=0.5")
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    with pytest.raises(UsageError, match="no group of this model has one"):
        pruned(EarlyBird(), model)


def test_a_ticket_that_is_found_keeps_the_contract():
    """With any mask taken for settled it is there as early as can be; with its own threshold it may never be."""
    report = check_method(EarlyBird(threshold=1.0, window=2), "handmade:conv-bn-relu")
    assert report.outcome is Outcome.PASS, report.reason
    subject = Subject(EarlyBird(threshold=1.0, window=2), prepare(load("handmade:conv-bn-relu"), 0, "cpu", None), 0)
    assert subject.plan().run.state["found"] == 3
