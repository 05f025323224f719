"""One host runs every kind of method: results are what they say, runs resume bit for bit, nothing else is touched."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import conformance as pc
from conformance.errors import UsageError
from conformance.method import (
    Budget,
    DataNeed,
    DataNeedError,
    Limits,
    NotExactlyZero,
    Options,
    Recipe,
    TrainingError,
    run,
)
from conformance.method import method as pc_method
from tests.unit.toy import Fade, Norm, Rounds, Search, ToyTask, convnet, images

RECIPE = Recipe(epochs=2, batch=32, lr=0.05, weight_decay=1e-3, schedule="cosine", clip=1.0)
HALF = Budget("macs", 0.5)


def prune(method, model=None, *, budget=HALF, task=None, recipe=RECIPE, **others):
    model = convnet() if model is None else model
    task = ToyTask() if method.facts.data is not DataNeed.NONE and task is None else task
    return run(method, model, images(), budget=budget, task=task, recipe=recipe, **others)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@pytest.mark.parametrize("method", [Norm(), Fade(), Rounds(), Search()], ids=lambda method: method.name)
class TestEveryDriver:
    def test_the_subnet_is_exact_and_the_shares_are_true(self, method):
        result = prune(method)
        assert result.holds
        assert result.verdict.equal
        assert result.removed["macs"] >= 0.5
        before, after = (sum(p.numel() for p in net.parameters()) for net in (result.model, result.subnet))
        assert result.removed["params"] == pytest.approx(1 - after / before)
        norms = result.decision.groups.graph and pc.zero(result.model, result.decision)
        assert same(norms, result.model)

    def test_masked_model_and_subnet_have_the_same_metrics(self, method):
        result = prune(method, task=ToyTask())
        assert result.metrics["masked"] == result.metrics["subnet"]

    def test_the_same_seed_gives_the_same_result(self, method):
        one, other = prune(method), prune(method)
        assert one.decision.removed == other.decision.removed
        assert same(one.model, other.model)
        assert same(one.subnet, other.subnet)

    def test_the_callers_model_modes_and_generator_stay_as_they_were(self, method):
        model = convnet().train()
        model[1].eval()
        before, modes = {n: t.clone() for n, t in model.state_dict().items()}, [m.training for m in model.modules()]
        torch.manual_seed(7)
        state = torch.get_rng_state()
        prune(method, model)
        assert torch.equal(torch.get_rng_state(), state)
        assert [m.training for m in model.modules()] == modes
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


class Stop(Exception):
    pass


def stopping(phase: str, step: int):
    def progress(what: str, done: int, total: int) -> None:
        if (what, done) == (phase, step):
            raise Stop

    return progress


@pytest.mark.parametrize(
    ("method", "stops"),
    [
        (Norm(), [("dense", 1), ("finetune", 2)]),
        (Fade(), [("dense", 3), ("train", 0), ("train", 1), ("train", 5), ("finetune", 3)]),
        (Rounds(), [("round-1", 3), ("round-2", 0), ("round-3", 2), ("finetune", 1)]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(method, stops, tmp_path):
    recipe = dataclasses.replace(RECIPE, dense_epochs=1, finetune_epochs=1)
    whole = prune(method, recipe=recipe, task=ToyTask())
    options = Options(folder=tmp_path, every=0)
    for phase, step in stops:
        with pytest.raises(Stop):
            prune(method, recipe=recipe, task=ToyTask(), options=options, progress=stopping(phase, step))
    resumed = prune(method, recipe=recipe, task=ToyTask(), options=options)
    assert resumed.decision.removed == whole.decision.removed
    assert same(resumed.model, whole.model)
    assert same(resumed.subnet, whole.subnet)
    assert resumed.metrics == whole.metrics
    assert list(resumed.history) == list(whole.history)
    assert not list(tmp_path.glob("checkpoint-*"))


@dataclasses.dataclass(frozen=True)
class Draws(Search):
    """Candidates that torch's own generator and what the run remembers have a part in."""

    candidates: int = 6

    def propose(self, run, number):
        if number == self.candidates:
            return None
        run.state["drawn"] = run.state.get("drawn", 0.0) + float(torch.rand(()))
        return self.select(run, torch.rand(run.groups.count + 1) + run.state["drawn"])


@dataclasses.dataclass(frozen=True)
class Measured(ToyTask):
    """Counts how often the validation split was asked for."""

    asked: list[str] = dataclasses.field(default_factory=list)

    def evaluate(self, model, split="test", size=256):
        self.asked.append(split)
        return super().evaluate(model, split, size)


@pytest.mark.parametrize("at", [0, 1, 3, 5])
@pytest.mark.parametrize("how", ["raised", "signalled"])
def test_a_search_goes_on_with_the_candidates_it_has_measured(tmp_path, at, how):
    recipe = Recipe(epochs=0, batch=32, finetune_epochs=1)
    options = Options(folder=tmp_path, every=0 if how == "raised" else 60, measure=False)
    whole = prune(Draws(), recipe=recipe, options=Options(measure=False))
    stop = (stopping if how == "raised" else interrupting)("search", at)
    with pytest.raises(Stop if how == "raised" else KeyboardInterrupt):
        prune(Draws(), task=Measured(), recipe=recipe, options=options, progress=stop)
    task = Measured()
    resumed = prune(Draws(), task=task, recipe=recipe, options=options)
    # A signal is waited for until its candidate is measured.
    assert len(task.asked) == 6 - at - (how == "signalled")
    assert resumed.decision.removed == whole.decision.removed
    assert same(resumed.subnet, whole.subnet)
    assert resumed.state == whole.state
    assert resumed.data_used == whole.data_used == ("D1", "D2")
    assert list(resumed.history) == list(whole.history)


def test_a_search_that_was_finished_is_not_repeated(tmp_path):
    recipe, options = Recipe(epochs=0, batch=32, finetune_epochs=1), Options(folder=tmp_path, measure=False)
    with pytest.raises(Stop):
        prune(Draws(), recipe=recipe, options=options, progress=stopping("finetune", 2))
    task = Measured()
    resumed = prune(Draws(), task=task, recipe=recipe, options=options)
    assert not task.asked
    assert same(resumed.subnet, prune(Draws(), recipe=recipe, options=Options(measure=False)).subnet)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    options = Options(folder=tmp_path, every=0)
    with pytest.raises(Stop):
        prune(Fade(), options=options, progress=stopping("train", 3))
    with pytest.raises(UsageError, match=r"of another run.*budget"):
        prune(Fade(), budget=Budget("macs", 0.25), options=options)
    with pytest.raises(
        UsageError,
        match=r"of another run: it has recipe clip=1.0, lr=0.05, this one recipe clip=None, lr=0.1; give this one a folder",
    ):
        prune(Fade(), recipe=dataclasses.replace(RECIPE, lr=0.1, clip=None), options=options)
    with pytest.raises(UsageError, match=r"it has limits min_keep=1, this one limits min_keep=2"):
        prune(Fade(), limits=Limits(min_keep=2), options=options)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    options = Options(folder=tmp_path, every=0)
    with pytest.raises(Stop):
        prune(Fade(), options=options, progress=stopping("train", 3))
    path = tmp_path / "checkpoint-train.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"checkpoint-train\.safetensors cannot be read"):
        prune(Fade(), options=options)


@dataclasses.dataclass(frozen=True)
class Breaks(ToyTask):
    """Its loss is no number at one call of a run."""

    at: int = 3
    calls: list[int] = dataclasses.field(default_factory=list)

    def loss(self, output, target):
        self.calls.append(0)
        return super().loss(output, target) * (float("nan") if len(self.calls) == self.at + 1 else 1.0)


@dataclasses.dataclass(frozen=True)
class Counts(Fade):
    """Fade that counts the epochs it has seen begin, and moves a weight as one does."""

    def on_event(self, event, run):
        if event == "epoch_start":
            run.state["epochs"] = run.state.get("epochs", 0) + 1
            with torch.no_grad():
                run.model[0].bias += 0.01
        super().on_event(event, run)


@pytest.mark.parametrize("every", [0, 60])
@pytest.mark.parametrize("at", [0, 3, 4, 5])
def test_a_loss_that_is_no_number_stops_with_the_step_and_keeps_the_state_before(tmp_path, at, every):
    """4 steps an epoch, with batch norm and dropout: the pass that broke has moved statistics and the generator."""
    options = Options(folder=tmp_path, every=every)
    with pytest.raises(TrainingError, match=rf"the loss is nan at step {at} of train; the state before is in .*train"):
        prune(Counts(), task=Breaks(at=at), options=options)
    whole, asked = prune(Counts()), Breaks(at=-1)
    resumed = prune(Counts(), task=asked, options=options)
    # The generators of a step are as before it, too: dropout draws the same.
    assert same(resumed.model, whole.model)
    assert resumed.state["epochs"] == whole.state["epochs"] == 2
    assert len(asked.calls) == 8 - at


def test_a_state_that_training_has_ruined_is_not_kept(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Explodes(Fade):
        def on_event(self, event, run):
            super().on_event(event, run)
            if event == "after_step" and run.step == 2:
                with torch.no_grad():
                    run.model[0].weight.fill_(torch.inf)

    with pytest.raises(TrainingError, match=r"nan at step 3 of train$"):
        prune(Explodes(), options=Options(folder=tmp_path / "a"))
    with pytest.raises(TrainingError, match=r"nan at step 3 of train; the state before is in"):
        prune(Explodes(), options=Options(folder=tmp_path / "b", every=0))
    resumed = prune(Fade(), options=Options(folder=tmp_path / "b"))
    assert same(resumed.model, prune(Fade()).model)


@pytest.fixture(autouse=True)
def _python_handles_ctrl_c():
    """A process that a shell puts into the background is born with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(phase: str, step: int):
    def progress(what: str, done: int, total: int) -> None:
        if (what, done) == (phase, step):
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize(("phase", "step"), [("train", 0), ("train", 3), ("train", 7), ("finetune", 1)])
def test_an_interrupted_run_keeps_its_last_whole_step(tmp_path, phase, step):
    recipe, options = dataclasses.replace(RECIPE, finetune_epochs=1), Options(folder=tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        prune(Fade(), recipe=recipe, options=options, progress=interrupting(phase, step))
    assert signal.getsignal(signal.SIGINT) is handler
    whole, asked = prune(Fade(), recipe=recipe), Breaks(at=-1)
    resumed = prune(Fade(), recipe=recipe, task=asked, options=options)
    assert same(resumed.model, whole.model)
    assert same(resumed.subnet, whole.subnet)
    assert len(asked.calls) == 12 - (step + 1 + 8 * (phase == "finetune"))


def test_a_second_interrupt_ends_at_once_and_a_run_without_folder_at_the_first(tmp_path):
    def twice(what: str, done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    for folder in (tmp_path, None):
        asked = Breaks(at=-1)
        with pytest.raises(KeyboardInterrupt):
            prune(
                Fade(),
                task=asked,
                options=Options(folder=folder),
                progress=twice if folder else interrupting("train", 0),
            )
        assert not asked.calls


def test_history_has_a_row_a_step_and_is_written_as_it_comes(tmp_path):
    result = prune(Fade(), options=Options(folder=tmp_path))
    assert [row["step"] for row in result.history] == list(range(8))
    assert all(row["loss"] > 0 and row["lr"] >= 0 for row in result.history)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    merged = {step: {} for step in range(8)}
    for line in lines:
        merged[line["step"]] |= line
    assert list(merged.values()) == list(result.history)
    watched = [row for row in result.history if "sparsity" in row]
    assert [row["step"] for row in watched] == [3, 7]
    assert watched[-1]["sparsity"] == pytest.approx(result.removed["groups"])
    assert all(0 <= row["validation_accuracy"] <= 1 for row in watched)


def test_a_method_that_leaves_something_is_found_out():
    @dataclasses.dataclass(frozen=True)
    class Leaves(Fade):
        def on_event(self, event, run):
            super().on_event(event, run)
            if event == "after_step" and "removed" in run.state:
                with torch.no_grad():
                    run.model[1].bias += 1e-9

    with pytest.raises(NotExactlyZero, match=r"fade removed .* are not zero after training"):
        prune(Leaves())


@pytest.mark.parametrize("need", [DataNeed.NONE, DataNeed.UNLABELLED])
def test_data_above_what_is_declared_is_refused(need):
    @dataclasses.dataclass(frozen=True)
    class Peeks(Norm):
        facts = dataclasses.replace(Norm.facts, data=need)

        def score(self, run):
            run.data.labelled(1)
            return super().score(run)

    with pytest.raises(DataNeedError, match=f"declares {need.value} .* but asked for labelled batches"):
        prune(Peeks(), task=ToyTask())


@dataclasses.dataclass(frozen=True)
class Unlabelled(ToyTask):
    """Batches without targets, as of data that nobody has labelled."""

    def batches(self, *place, **named):
        return (batch.unlabelled() for batch in super().batches(*place, **named))


@pytest.mark.parametrize(
    ("name", "measure"),
    [(name, measure) for name in ("taylor", "obd", "hesso", "slimming") for measure in (True, False)]
    + [("random-search", True)],
)
def test_labels_that_are_missing_are_said(name, measure):
    needs = "training" if name in ("hesso", "slimming") else "labelled batches"
    with pytest.raises(UsageError, match=f"{name} needs {needs}, and the batches of the task toy have no targets"):
        prune(pc_method(name), task=Unlabelled(), options=Options(measure=measure))


def test_training_without_labels_is_refused_whatever_the_method():
    for recipe in (Recipe(batch=32, dense_epochs=1), Recipe(batch=32, finetune_epochs=1)):
        for measure in (True, False):
            with pytest.raises(UsageError, match="norm needs training, and the batches of the task toy have no"):
                prune(Norm(), task=Unlabelled(), recipe=recipe, options=Options(measure=measure))


def test_a_method_that_needs_no_labels_takes_a_task_without():
    @dataclasses.dataclass(frozen=True)
    class Looks(Norm):
        facts = dataclasses.replace(Norm.facts, data=DataNeed.UNLABELLED)

        def score(self, run):
            run.data.unlabelled(1)
            return super().score(run)

    assert prune(Looks(), task=Unlabelled(), options=Options(measure=False)).holds


def test_nobody_sees_the_test_split():
    @dataclasses.dataclass(frozen=True)
    class Peeks(Search):
        def propose(self, run, number):
            run.data.evaluate(run.model, "test")

    with pytest.raises(DataNeedError, match="test split"):
        prune(Peeks())


def test_unlabelled_batches_have_no_targets():
    @dataclasses.dataclass(frozen=True)
    class Looks(Norm):
        facts = dataclasses.replace(Norm.facts, data=DataNeed.UNLABELLED)

        def score(self, run):
            batches = run.data.unlabelled(3, 16)
            assert [batch.size for batch in batches] == [16] * 3
            assert all(batch.target is None for batch in batches)
            return super().score(run)

    assert prune(Looks(), task=ToyTask()).data_used == ("D1",)


def test_training_counts_as_data_used():
    """The method's own, not the fine-tuning that every method may have."""
    assert prune(Fade(), task=ToyTask(), recipe=RECIPE).data_used == ("D3",)
    assert prune(Norm(), task=ToyTask(), recipe=Recipe(epochs=0, finetune_epochs=1)).data_used == ()


def test_limits_reach_the_selection():
    result = prune(Norm(), budget=Budget("groups", 0.4), limits=Limits(round_to=4, ignore=("0",)))
    assert result.subnet[0].out_channels == 8
    assert result.subnet[3].out_channels % 4 == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("half", "is no budget"),
        ("macs=x", "is no budget"),
        ("macs=1.0", "at least 0 and below 1"),
        ("macs=-0.1", "at least 0 and below 1"),
        ("flops=0.5", "budgets are in groups, params, macs, latency"),
    ],
)
def test_bad_budgets_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        Budget.parse(text)


def test_an_unreachable_budget_names_the_range():
    with pytest.raises(UsageError, match=r"macs=0.99 cannot be reached: .* allow 0 to 0\.\d+"):
        prune(Norm(), budget=Budget("macs", 0.99))


def test_a_latency_budget_is_met_by_the_clock(monkeypatch):
    """The clock is one that counts multiply-adds: it says the same on every machine, however busy."""

    def by_work(one, other, **_):
        figures = []
        for call in (one, other):
            with FlopCounterMode(display=False) as counter:
                call()
            figures.append(np.array([float(counter.get_total_flops())]))
        return tuple(figures)

    monkeypatch.setattr("conformance.method.host.in_turns", by_work)
    result = prune(Norm(), budget=Budget("latency", 0.3))
    assert result.holds
    assert result.removed["latency"] == pytest.approx(result.removed["macs"])
    rung_below = prune(Norm(), budget=Budget("macs", 0.3)).removed
    assert 0.3 <= result.removed["latency"] == pytest.approx(rung_below["macs"])


def test_a_latency_budget_runs_on_the_real_clock():
    """How much leaves is the machine's to say; what leaves is exact, and its time was measured."""
    result = prune(Norm(), budget=Budget("latency", 0.0))
    assert result.holds
    assert result.removed["latency"] < 1
    with pytest.raises(UsageError, match=r"latency=0.999 cannot be reached"):
        prune(Norm(), budget=Budget("latency", 0.999))


def test_methods_that_need_data_want_a_task():
    with pytest.raises(UsageError, match="fade needs training: give it a task"):
        run(Fade(), convnet(), images(), budget=HALF)


def test_a_batch_that_the_data_does_not_fill_is_said():
    with pytest.raises(TrainingError, match="toy has 128 training samples, less than a batch of 200"):
        prune(Fade(), recipe=Recipe(batch=200))


def test_a_model_without_groups_is_refused():
    with pytest.raises(UsageError, match="nothing of this model can be pruned exactly"):
        run(Norm(), nn.Linear(3, 4), torch.randn(2, 3), budget=HALF)


def test_mixed_precision_trains_and_stays_exact():
    result = prune(Fade(), recipe=dataclasses.replace(RECIPE, amp="bfloat16"))
    assert result.holds
    assert all(parameter.dtype == torch.float32 for parameter in result.subnet.parameters())


class TestRecipe:
    def test_schedules(self):
        assert [Recipe(schedule="step", milestones=(0.5, 0.75)).factor(step, 8) for step in (0, 3, 4, 6)] == [
            1, 1, pytest.approx(0.1), pytest.approx(0.01),
        ]  # fmt: skip
        cosine = Recipe(schedule="cosine", warmup=0.25)
        assert cosine.factor(0, 8) == pytest.approx(0.5)
        assert cosine.factor(4, 8) == pytest.approx(0.5)
        assert Recipe().factor(5, 8) == 1

    @pytest.mark.parametrize(
        "wrong",
        [{"epochs": -1}, {"batch": 0}, {"lr": 0.0}, {"optimizer": "lion"}, {"schedule": "linear"}, {"warmup": 1.0}],
    )
    def test_what_cannot_be_is_refused(self, wrong):
        with pytest.raises(UsageError):
            Recipe(**wrong)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_base_optimizers(self, optimizer):
        made = Recipe(optimizer=optimizer, lr=0.3, weight_decay=0.1).base_optimizer(convnet())
        assert type(made).__name__.lower() == optimizer
        assert made.param_groups[0]["lr"] == 0.3
        assert made.param_groups[0]["weight_decay"] == 0.1

    def test_steps_count_instead_of_epochs(self):
        assert len(prune(Fade(), recipe=dataclasses.replace(RECIPE, steps=6)).history) == 6


def test_calibration_is_the_plain_average_over_batches():
    from conformance.method.run import calibrate

    model, batches = convnet().eval(), list(ToyTask().batches("train", 32))
    with torch.no_grad():
        seen = [model[0](batch.args[0]) for batch in batches]
    calibrate(model, batches)
    assert torch.allclose(model[1].running_mean, torch.stack([one.mean((0, 2, 3)) for one in seen]).mean(0), atol=1e-5)
    assert model[1].momentum == 0.1
    assert not any(module.training for module in model.modules())
