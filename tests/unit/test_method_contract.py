"""The parts of the contract: the task that notices, the runs that are shared, the report, and what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.checks.subject import prepare
from conformance.errors import TooFewStepsError, UsageError
from conformance.method import Budget, Limits, Recipe, Task
from conformance.method.contract.registry import CheckSkipped, CheckUnsupported, checks
from conformance.method.contract.runner import described
from conformance.method.contract.snapshot import Snapshot
from conformance.method.contract.subject import Subject
from conformance.method.contract.synthetic import ROWS, Labels, Seen, synthetic
from conformance.report.schema import MethodReport, ModelReport, Outcome
from conformance.spec_loader import load
from reference_impls.baselines.l1 import L1
from reference_impls.baselines.l2 import L2
from reference_impls.baselines.random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "meta"))
from good_methods import Magnitude, Shrink, Ticket

MLP = "handmade:mlp"


def images(batch, generator):
    return (torch.randn(batch, 3, 4, 4, generator=generator),), {}


def net(last: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, last)).eval()


class TestTheTask:
    def test_it_is_a_task(self):
        task = synthetic(net(), images, 0)
        assert isinstance(task, Task)
        assert (task.shape, task.classes, task.count("train")) == ((3, 4, 4), 3, 48)
        batches = list(task.batches("train", 20))
        assert [batch.size for batch in batches] == [20, 20, 8]
        assert [batch.size for batch in task.batches("train", 20, seed=0)] == [20, 20]
        assert task.metric in task.evaluate(net(), "validation")

    def test_seed_and_epoch_order_it_and_splits_share_nothing(self):
        task = synthetic(net(), images, 0)

        def rows(split, **order):
            return torch.cat([batch.args[0] for batch in task.batches(split, 8, **order)])

        assert torch.equal(rows("train", seed=1, epoch=2), rows("train", seed=1, epoch=2))
        assert not torch.equal(rows("train", seed=1, epoch=2), rows("train", seed=1, epoch=3))
        assert not torch.equal(rows("train", seed=1), rows("train", seed=2))
        every = torch.cat([rows(split) for split in ROWS]).flatten(1)
        assert every.unique(dim=0).shape[0] == sum(ROWS.values())

    def test_the_same_seed_gives_the_same_data(self):
        assert synthetic(net(), images, 0).digest == synthetic(net(), images, 0).digest
        assert synthetic(net(), images, 0).digest != synthetic(net(), images, 1).digest

    def test_what_is_asked_is_noted(self):
        task = synthetic(net(), images, 0)
        assert not task.seen.asked
        batch = next(task.batches("train", 4, seed=0))
        task.loss(net()(*batch.args), batch.target)
        task.evaluate(net(), "validation")
        assert task.seen.asked == {"batches train", "loss", "evaluate validation"}
        assert task.seen.splits == {"train", "validation"}
        assert not task.seen.labels  # the task itself looked

    @pytest.mark.parametrize(
        "read",
        [
            lambda t: t + 1, lambda t: t.tolist(), lambda t: int(t[0]), lambda t: t == 1, lambda t: t.numpy(), print,
            lambda t: nn.functional.one_hot(t), lambda t: torch.stack([t, t]), lambda t: t.as_subclass(torch.Tensor),
            lambda t: t.data, lambda t: t.clone(), lambda t: torch.zeros(9)[t],
        ],
    )  # fmt: skip
    def test_reading_labels_is_noted(self, read):
        seen = Seen()
        read(Labels.of(torch.tensor([1, 2, 0]), seen))
        assert seen.labels

    def test_moving_and_cutting_labels_is_free_and_what_comes_of_it_tells(self):
        task = synthetic(net(), images, 0)
        batch = next(task.batches("train", 4)).to("cpu")
        assert batch.target.shape == (4,)
        part = batch.target[1:3].to(torch.device("cpu"))
        assert part.ndim == 1
        assert not task.seen.labels
        assert part.sum() >= 0
        assert task.seen.labels

    def test_outputs_with_a_middle_have_a_class_each(self):
        model = nn.Conv1d(3, 5, 1)
        task = synthetic(model, lambda n, g: ((torch.randn(n, 3, 7, generator=g),), {}), 0)
        assert (task.classes, tuple(task.targets.shape)) == (7, (80, 5))
        batch = next(task.batches("train", 4))
        assert task.loss({"first": model(*batch.args)}, batch.target).ndim == 0

    def test_models_without_classes_and_inputs_without_samples_are_refused(self):
        with pytest.raises(UsageError, match="no classes"):
            synthetic(net(1), images, 0)
        with pytest.raises(UsageError, match="first dimension is the batch"):
            synthetic(net(), lambda n, g: ((torch.randn(2, 3, 4, 4, generator=g),), {}), 0)


def subject(method, **more) -> Subject:
    return Subject(method, prepare(load(MLP), 0, "cpu", None), 0, **more)


class TestTheSubject:
    def test_runs_are_shared_and_repeated_on_request(self):
        one = subject(L1())
        assert one.plan() is one.plan(one.budget)
        assert one.result() is not one.result(again=1)

    def test_what_a_method_keeps_in_itself_does_not_reach_the_next_run(self):
        one = subject(Shrink())
        first, second = one.method(), one.method()
        object.__setattr__(first, "kept", 1)
        assert not hasattr(second, "kept")

    def test_a_base_budget_that_the_model_cannot_give_is_halved(self):
        small = Subject(L2(), prepare(load("handmade:select-channels"), 0, "cpu", None), 0)
        most = small.most("params", Limits())
        assert small.modest("params", 0.3).remove == pytest.approx(most / 2)
        assert small.modest("groups", 0.3).remove == 0.3

    def test_the_largest_budget_is_what_limits_allow(self):
        found = subject(Magnitude()).largest(Limits(min_keep=3))
        kept = [int((~found.decision.gone[1:])[found.decision.groups.axis_of[1:] == axis].sum()) for axis in (0, 1)]
        assert kept == [3, 3]
        with pytest.raises(CheckSkipped, match="nothing of this model may leave"):
            subject(Magnitude()).largest(Limits(min_keep=999))

    def test_a_model_without_a_task_is_unsupported(self):
        one = subject(Shrink())
        one.base.backend = dataclasses.replace(one.base.backend, inputs=lambda n, g: ((torch.randn(2, 12),), {}))
        with pytest.raises(CheckUnsupported):
            _ = one.task

    def test_a_snapshot_sees_hooks_modes_gradients_and_state(self):
        model, given = net(), (images(2, torch.Generator()))
        before = Snapshot.of(model, given)
        assert before.changed(Snapshot.of(model, given)) == ""
        for change, name in (
            (lambda m: m[0].train(), "training mode of 0"),
            (lambda m: m[0].register_forward_hook(lambda *_: None), "the hooks of 0"),
            (lambda m: m[3].bias.requires_grad_(False), "requires_grad of 3.bias"),
            (lambda m: m[3].bias.data.add_(1), "3.bias"),
            (lambda m: m(*given[0]).sum().backward(), "the gradient of 0.weight"),
        ):
            other = net()
            change(other)
            assert before.changed(Snapshot.of(other, given)).endswith(name)


class TestTheDoor:
    def test_a_module_at_hand(self):
        model, x = net(), torch.randn(2, 3, 4, 4)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        report = pc.check_method(L1(), (model, x), budget=Budget("params", 0.2), only=("M.budget", "M.zero"))
        assert isinstance(report, MethodReport)
        assert [result.id for result in report.checks] == ["M.declares", "M.runs", "M.budget", "M.zero"]
        assert report.outcome is Outcome.PASS
        assert report.title == "l1 on Sequential"
        assert report.method.budget == "params=0.2"
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())

    def test_a_report_survives_its_json(self):
        report = pc.check_method(Random(), MLP, only=("M.zero",))
        assert ModelReport.model_validate_json(report.model_dump_json()).title == "random on handmade:mlp"

    def test_progress_names_every_check(self):
        told = []
        report = pc.check_method(L2(), MLP, only=("M.k*",), progress=lambda *step: told.append(step))
        assert [title for title, _, _ in told] == [result.title for result in report.checks]
        assert [(done, total) for _, done, total in told] == [(0, 3), (1, 3), (2, 3)]

    def test_a_recipe_of_ones_own(self):
        report = pc.check_method(Ticket(), MLP, recipe=Recipe(steps=3, batch=8, lr=0.01), only=("M.resume",))
        (resumed,) = (result for result in report.checks if result.id == "M.resume")
        assert resumed.outcome is Outcome.PASS
        assert "round-2" in resumed.details["broken_off_at"]

    def test_what_is_wrong_is_said(self, tmp_path):
        with pytest.raises(UsageError, match=r"no check of the contract matches 'M\.nothing'"):
            pc.check_method(L1(), MLP, only=("M.nothing",))
        with pytest.raises(UsageError, match="no method named 'l11'; did you mean"):
            pc.check_method("l11", MLP)
        (tmp_path / "mine.py").write_text("class Mine:\n    pass\n")
        with pytest.raises(UsageError, match="is no class derived from"):
            pc.check_method(f"{tmp_path}/mine.py:Mine", MLP)

    def test_a_model_that_cannot_be_used(self):
        class Broken(nn.Module):
            def forward(self, x):
                raise ValueError("no")

        report = pc.check_method(L1(), (Broken(), torch.randn(2, 3)))
        assert report.outcome is Outcome.ERROR
        assert "the model cannot be used" in report.reason
        fixed = pc.check_method(L1(), (nn.Linear(3, 2), torch.randn(2, 3)))
        assert fixed.outcome is Outcome.UNSUPPORTED

    def test_a_method_that_raises_fails_and_leaves_the_rest_to_be_skipped(self):
        class Raising(Magnitude):
            def score(self, run):
                raise RuntimeError("no scores today")

        report = pc.check_method(Raising(), MLP)
        assert report.outcome is Outcome.FAIL
        outcomes = {result.id: result.outcome for result in report.checks}
        assert outcomes["M.runs"] is Outcome.FAIL
        assert outcomes["M.data"] is Outcome.FAIL  # has something to say without a decision
        assert outcomes["M.zero"] is Outcome.SKIPPED
        assert "no scores today" in report.reason

    def test_a_method_that_refuses_the_model_is_unsupported(self):
        class Picky(Magnitude):
            def score(self, run):
                raise UsageError("there is no batch norm to rank by")

        report = pc.check_method(Picky(), MLP)
        assert report.outcome is Outcome.UNSUPPORTED
        assert "refuses this model or budget: there is no batch norm" in report.reason
        outcomes = {result.id: result.outcome for result in report.checks}
        assert {outcomes[name] for name in outcomes if name not in ("M.declares", "M.runs")} == {Outcome.SKIPPED}

    def test_a_method_that_needs_more_steps_gets_them(self):
        totals = []

        class Long(Shrink):
            def wrap_optimizer(self, run, optimizer):
                if run.total < 31:
                    raise TooFewStepsError(f"31 steps, not {run.total}", 31)
                totals.append(run.total)
                return super().wrap_optimizer(run, optimizer)

        report = pc.check_method(Long(), MLP, only=("M.same-seed",))
        assert report.outcome is Outcome.PASS
        assert set(totals) == {36}  # whole epochs
        asked = pc.check_method(Long(), MLP, only=("M.same-seed",), recipe=Recipe(epochs=2, batch=8))
        assert asked.outcome is Outcome.UNSUPPORTED
        assert "31 steps, not 12" in asked.reason

    def test_ids_are_unique_and_the_first_two_come_first(self):
        ids = [item.id for item in checks()]
        assert ids[:2] == ["M.declares", "M.runs"]
        assert len(set(ids)) == len(ids)
        assert all(item.id.startswith("M.") and item.title for item in checks())

    def test_a_method_is_described_also_without_facts(self):
        class Bare(Magnitude):
            facts = None

        assert described(Bare()).name == "Bare"
        assert described(L1()).options["ranking"] == "global"
