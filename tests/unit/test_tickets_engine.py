"""What tickets need of the engine: weights that may be masked, budgets in weights, masks held, runs that go on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from tickets_support import IMAGE, NETS, Blobs, Stopped, built, pruned, recipe, same_state, stopping_at
from torch import nn
from torch.nn import functional as F

import conformance as pc
from conformance.errors import UsageError
from conformance.method import Budget, Cost, DataNeed, Driver, Facts, Limits, Masks, Method, Options
from conformance.method.budget import KINDS
from conformance.method.weights import maskable, outermost

# -- weights that may be masked -------------------------------------------------------------------


def graph_of(model: nn.Module, *x: torch.Tensor):
    return pc.trace(model.eval(), x or (IMAGE,))


@pytest.mark.parametrize("name", NETS)
def test_maskable_are_the_weights_of_convolutions_and_linear_layers(name):
    model = built(name)
    wanted = [f"{path}.weight" for path, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    graph = graph_of(model)
    assert list(maskable(graph)) == wanted
    assert outermost(graph) == (wanted[-1],)


class Mixed(nn.Module):
    """A tied head, an embedding, a positional parameter, a standardised weight, attention, learned queries."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.place = nn.Parameter(torch.randn(5, 8))
        self.standard = nn.Parameter(torch.randn(8, 8))
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.query = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.table2 = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table2.weight

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.table(x) + self.table2(x) + self.place
        x = F.linear(x, self.standard - self.standard.mean(1, keepdim=True))
        x = x + self.query(self.queries)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(F.relu(self.first(x))), self.second(x)


def test_only_parameters_that_a_product_reads_as_they_are_may_be_masked():
    graph = graph_of(Mixed(), torch.randint(11, (2, 5)))
    assert set(maskable(graph)) == {
        "query.weight", "attention.in_proj_weight", "attention.out_proj.weight", "first.weight", "second.weight",
        "table2.weight",
    }  # fmt: skip
    assert set(outermost(graph)) == {"table2.weight", "second.weight"}


def test_ignored_weights_are_not_maskable():
    graph = graph_of(built("vgg"))
    everything = maskable(graph)
    assert maskable(graph, Limits(ignore=("0",))) == everything[1:]
    assert maskable(graph, Limits(ignore=("*.weight",))) == ()
    with pytest.raises(UsageError, match="matches 'fc'"):
        maskable(graph, Limits(ignore=("fc",)))


# -- budgets --------------------------------------------------------------------------------------


def test_a_budget_in_weights_is_for_methods_of_weights_alone():
    assert Budget.parse("weights=0.8") == Budget("weights", 0.8)
    assert "weights" not in KINDS
    about = {"name": "x", "summary": "x", "driver": Driver.POST, "data": DataNeed.NONE, "paper": "x"}
    Facts(**about, granularity="weight", budgets=("weights",))
    for wrong in ({"granularity": "weight"}, {"budgets": ("weights",)}, {"budgets": ("macs", "weights")}):
        with pytest.raises(ValueError, match="mask single weights"):
            Facts(**about, **wrong)


def test_masks_are_measured_in_weights_and_groups_are_not():
    groups = pc.partition(graph_of(built("vgg")))
    cost = Cost(groups)
    masks = Masks({"a": torch.tensor([True, False, False, False]), "b": torch.ones(2, dtype=torch.bool)})
    assert cost.removed("weights", masks) == 0.5
    with pytest.raises(UsageError, match="no share of macs"):
        cost.removed("macs", masks)
    with pytest.raises(UsageError, match="no share of weights"):
        cost.removed("weights", groups.select([1]))


# -- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half(Method):
    """Masks every other weight of the first convolution."""

    facts: ClassVar[Facts] = Facts(
        name="half", summary="x", driver=Driver.POST, data=DataNeed.NONE, paper="x", granularity="weight",
        exactness="masked", budgets=("weights",),
    )  # fmt: skip

    def decide(self, run):
        weight = run.model[0][0].weight
        return Masks({"0.0.weight": (torch.arange(weight.numel()) % 2 == 0).view(weight.shape)})


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_fine_tuning_holds_masks(optimizer):
    result = pruned(Half(), budget="weights=0.1", recipe=recipe(finetune_epochs=2, optimizer=optimizer, lr=0.01))
    assert result.decision.holds(result.subnet)
    kept = result.decision.kept["0.0.weight"]
    assert (result.subnet[0][0].weight[kept] != result.model[0][0].weight[kept]).all()


def test_fine_tuning_sees_no_gradient_of_what_is_masked_and_puts_it_back_to_zero(monkeypatch):
    @dataclass(frozen=True)
    class Spoilt(Half):
        def finalize(self, run, decision):
            with torch.no_grad():
                run.model[0][0].weight.fill_(0.1)

    looked, clip = [], nn.utils.clip_grad_norm_

    def looking(parameters, norm):
        parameters = list(parameters)
        looked.append(parameters[0].grad.clone())
        return clip(parameters, norm)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", looking)
    result = pruned(Spoilt(), budget="weights=0.1", recipe=recipe(finetune_epochs=1, clip=0.1))
    kept = result.decision.kept["0.0.weight"]
    assert len(looked) == 3
    assert all(not grad[~kept].any() and grad[kept].all() for grad in looked)
    assert result.decision.holds(result.subnet)


@dataclass(frozen=True)
class Late(Method):
    """Trains three times, the later ones from step 2 on at a rate of its own; removes nothing."""

    facts: ClassVar[Facts] = Facts(name="late", summary="x", driver=Driver.ROUNDS, data=DataNeed.TRAINING, paper="x")
    rounds: int = 2

    @property
    def trainings(self):
        return self.rounds + 1

    def begins(self, run):
        return (2, 0.5) if run.round > 1 else (0, None)

    def on_event(self, event, run):
        if event == "after_step":
            image = float(run.batch.args[0].sum())
            row = {"image": image, "rate": run.optimizer.param_groups[0]["lr"], "epoch": run.epoch}
            run.log({"phase": run.phase, "step": run.step, **row})

    def decide(self, run):
        return run.groups.select([])


def test_a_training_may_begin_in_the_middle():
    result = pruned(Late(), recipe=recipe(schedule="step", milestones=(0.5,), gamma=0.1))
    rows = {(row["phase"], row["step"]): row for row in result.history}
    assert list(rows) == [
        *(("round-1", step) for step in range(6)),
        *((f"round-{number}", step) for number in (2, 3) for step in range(2, 6)),
    ]
    for number in (2, 3):
        for step in range(2, 6):
            first, again = rows["round-1", step], rows[f"round-{number}", step]
            assert (again["image"], again["epoch"]) == (first["image"], first["epoch"])
            assert again["rate"] == pytest.approx(first["rate"] * 10)  # 0.5 for 0.05


@dataclass(frozen=True)
class Counting(Method):
    """Trains, and says at the end where the run is."""

    facts: ClassVar[Facts] = Facts(name="counting", summary="x", driver=Driver.TRAIN, data=DataNeed.TRAINING, paper="x")

    def decide(self, run):
        run.state["end"] = [run.phase, run.epoch, run.step, run.total]
        return run.groups.select([])


def test_a_run_that_goes_on_after_training_knows_where_it_is(tmp_path):
    options = Options(folder=tmp_path, measure=False)
    with pytest.raises(Stopped):
        pruned(Counting(), recipe=recipe(finetune_epochs=1), options=options, progress=stopping_at("finetune", 1))
    result = pruned(Counting(), recipe=recipe(), options=Options(measure=False))
    assert result.state["end"] == ["train", 2, 6, 6]
    again = pruned(Counting(), recipe=recipe(finetune_epochs=1), options=options)
    assert again.state["end"] == ["train", 2, 6, 6]


def test_what_is_logged_of_a_step_is_one_row_after_a_resume_as_well(tmp_path):
    options = Options(folder=tmp_path, every=0.0, measure=False)
    with pytest.raises(Stopped):
        pruned(Late(), options=options, progress=stopping_at("round-2", 4))
    result = pruned(Late(), options=options)
    assert result.history == pruned(Late()).history
    assert all({"image", "loss"} <= set(row) for row in result.history)


def test_a_row_that_a_kill_cut_off_takes_no_other_with_it(tmp_path):
    options = Options(folder=tmp_path, every=0.0, measure=False)
    for step in (2, 4):
        with pytest.raises(Stopped):
            pruned(Counting(), options=options, progress=stopping_at("train", step))
        path = tmp_path / "history.jsonl"
        path.write_text(path.read_text()[:-5])
    result = pruned(Counting(), options=options)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
    assert {2, 4, 5} <= set(steps)
    assert {row["step"] for row in result.history} >= {0, 2, 4, 5}


def test_stilled_groups_have_no_gradient():
    model = built("resnet").train()
    groups = pc.partition(graph_of(model))
    from conformance.method import units

    slices = units(model, groups)
    choice = groups.sample(0.5, seed=1)
    model.train()
    F.cross_entropy(model(Blobs().images), Blobs().targets).backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    slices.still_(choice.removed)
    twin = built("resnet")
    twin.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():  # what `zero` sets to zero in a copy whose weights are all one
        for parameter in twin.parameters():
            parameter.fill_(1)
    hit = dict(pc.zero(twin, choice).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, before[name] * hit[name])
    assert not same_state(twin, pc.zero(twin, choice))
