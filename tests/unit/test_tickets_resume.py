"""A run that was interrupted, anywhere, comes to what an uninterrupted one comes to, bit for bit."""

from __future__ import annotations

import pytest
from tickets_support import pruned, recipe, resumed, same_state

from conformance.errors import UsageError
from conformance.method import Masks, Options
from reference_impls.tickets.early_bird import EarlyBird
from reference_impls.tickets.iterative_magnitude import IterativeMagnitude
from reference_impls.tickets.lottery_ticket import LotteryTicket
from reference_impls.tickets.magnitude import Magnitude
from reference_impls.tickets.slimming import Slimming
from reference_impls.tickets.structured import StructuredTicket

WEIGHTS, GROUPS = "weights=0.6", "groups=0.4"

CASES = {
    "lottery": (LotteryTicket(rounds=2, reset="rewind", rewind=2), WEIGHTS),
    "lottery-linear": (LotteryTicket(rounds=2, schedule="linear", output="half"), WEIGHTS),
    "lottery-random": (LotteryTicket(rounds=2, reset="random"), WEIGHTS),
    "lottery-shuffled": (LotteryTicket(rounds=2, control="shuffle-global"), WEIGHTS),
    "iterative": (IterativeMagnitude(rounds=2), WEIGHTS),
    "structured": (StructuredTicket(rounds=2, reset="rewind", rewind=2), GROUPS),
    "structured-random": (StructuredTicket(rounds=2, control="random", criterion="l1"), GROUPS),
}
ROUNDS = [
    [("round-1", 2)],  # theta_k is not there yet
    [("round-1", 3)],
    [("round-2", 2)],  # the first step after pruning and rewinding
    [("round-2", 4)],
    [("round-3", 5)],
    [("finetune", 1)],
    [("round-1", 1), ("round-2", 3), ("round-3", 2), ("round-3", 4), ("finetune", 2)],
]


def check_same(one, other) -> None:
    """Model, subnet, decision, figures and history are the same."""
    assert same_state(one.model, other.model)
    assert same_state(one.subnet, other.subnet)
    if isinstance(one.decision, Masks):
        assert one.decision.kept.keys() == other.decision.kept.keys()
        assert all((mask == other.decision.kept[name]).all() for name, mask in one.decision.kept.items())
    else:
        assert one.decision.removed == other.decision.removed
    assert one.removed == other.removed
    assert one.history == other.history


def with_dropout(**changes):
    return recipe(schedule="cosine", finetune_epochs=1, clip=1.0, **changes)


@pytest.fixture(scope="module")
def whole():
    """Uninterrupted runs, made once each."""
    made = {}

    def result(name):
        if name not in made:
            method, budget = CASES[name]
            made[name] = pruned(method, "vgg", budget, recipe=with_dropout())
        return made[name]

    return result


@pytest.mark.parametrize("stops", ROUNDS, ids=lambda stops: "+".join(f"{phase}.{step}" for phase, step in stops))
@pytest.mark.parametrize("name", ["lottery", "structured"])
def test_rounds_go_on_bit_for_bit(whole, tmp_path, name, stops):
    method, budget = CASES[name]
    check_same(whole(name), resumed(tmp_path, method, stops, "vgg", budget, recipe=with_dropout()))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("lottery", "structured")])
def test_every_sort_of_round_goes_on_bit_for_bit(whole, tmp_path, name):
    method, budget = CASES[name]
    stops = [("round-2", 0), ("round-2", 3), ("round-3", 3), ("finetune", 1)]
    check_same(whole(name), resumed(tmp_path, method, stops, "vgg", budget, recipe=with_dropout()))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_go_on_too(tmp_path, optimizer):
    training = with_dropout(optimizer=optimizer, epochs=1)
    method = LotteryTicket(rounds=1)
    stops = [("round-1", 1), ("round-2", 2)]
    again = resumed(tmp_path, method, stops, "densenet", WEIGHTS, recipe=training)
    check_same(pruned(method, "densenet", WEIGHTS, recipe=training), again)


@pytest.mark.parametrize("reinit", [False, True])
def test_an_early_bird_goes_on_before_at_and_after_its_ticket(tmp_path, reinit):
    method = EarlyBird(threshold=0.4, reinit=reinit)
    training = with_dropout(epochs=8)
    whole = pruned(method, "vgg", GROUPS, recipe=training)
    at = 3 * (whole.state["found"] - 1)
    assert 0 < at < 21
    late = [("train", at - 1), ("train", at + 1), ("train", at + 3), ("finetune", 2)]
    for number, stops in enumerate([[("train", at)], late]):
        again = resumed(tmp_path / str(number), method, stops, "vgg", GROUPS, recipe=training)
        check_same(whole, again)
        assert again.state["found"] == whole.state["found"]


def test_an_early_bird_without_a_ticket_goes_on_after_its_decision(tmp_path):
    method, training = EarlyBird(threshold=0.0, window=2), with_dropout(epochs=3)
    again = resumed(tmp_path, method, [("train", 5), ("finetune", 1)], "resnet", GROUPS, recipe=training)
    check_same(pruned(method, "resnet", GROUPS, recipe=training), again)


def test_slimming_and_masks_at_once_go_on(tmp_path):
    for number, (method, budget, stops) in enumerate(
        [(Slimming(), GROUPS, [("train", 0), ("train", 4), ("finetune", 1)]), (Magnitude(), WEIGHTS, [("finetune", 2)])]
    ):
        again = resumed(tmp_path / str(number), method, stops, "resnet", budget, recipe=with_dropout())
        check_same(pruned(method, "resnet", budget, recipe=with_dropout()), again)


def test_a_folder_of_other_options_is_refused(tmp_path):
    training = with_dropout()
    with pytest.raises(AssertionError, match="did not come to"):
        resumed(tmp_path / "a", LotteryTicket(), [("round-9", 0)], "vgg", WEIGHTS, recipe=training)
    options = Options(folder=tmp_path, every=0.0, measure=False)
    from tickets_support import Stopped, stopping_at

    with pytest.raises(Stopped):
        pruned(LotteryTicket(), "vgg", WEIGHTS, recipe=training, options=options, progress=stopping_at("round-2", 1))
    with pytest.raises(UsageError, match="of another run: it has method"):
        pruned(LotteryTicket(rounds=2), "vgg", WEIGHTS, recipe=training, options=options)
