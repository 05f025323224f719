"""The sparse optimizers as methods: through the host, resumed, and in two processes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oto_nets as on
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from conformance.errors import TooFewStepsError, UsageError
from conformance.method import Batch, Budget, Limits, Options, Recipe, run
from conformance.method.data import Data
from reference_impls.baselines.group_lasso import GroupLasso
from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, LHSPG, AdaHSPG, SparseOptimizer
from reference_impls.oto.methods.adahspg import AdaHspg
from reference_impls.oto.methods.dhspg import Dhspg
from reference_impls.oto.methods.hesso import Hesso
from reference_impls.oto.methods.hesso_cric import HessoCric
from reference_impls.oto.methods.hspg import Hspg
from reference_impls.oto.methods.lhspg import Lhspg
from reference_impls.tickets.slimming import Slimming
from reference_impls.tickets.structured import StructuredTicket

METHODS = {
    "hspg": Hspg(penalty=0.01, epsilon=0.9),
    "adahspg-reconstructed": AdaHspg(penalty=0.01, epsilon=0.5),
    "dhspg": Dhspg(penalty=0.01, epsilon=0.5),
    "hesso": Hesso(periods=4),
    "hesso-cric": HessoCric(cycles=3),
    "lhspg": Lhspg(periods=4, dropout=0.0),  # two processes would drop other samples' entries
}
names = pytest.mark.parametrize("name", METHODS)
RECIPE = Recipe(epochs=8, batch=16, lr=0.05, weight_decay=1e-4, schedule="cosine", clip=1.0)


class Blobs:
    """Pictures whose mean colour says the class."""

    name, shape, classes, metric, digest = "blobs", (3, 6, 6), 4, "accuracy", "1"

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        draw = torch.Generator().manual_seed(5)
        self.y = torch.randint(0, 4, (128,), generator=draw)
        centre = torch.randn(4, 3, generator=draw)
        self.x = (centre[self.y][:, :, None, None] + 0.5 * torch.randn(128, 3, 6, 6, generator=draw)).to(dtype)

    def count(self, split: str) -> int:
        return 128

    def batches(self, split: str, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        order = torch.arange(128)
        if seed is not None:
            order = torch.randperm(128, generator=torch.Generator().manual_seed(1000 * seed + epoch + 100))
        for start in range(0, 128, size):
            yield Batch((self.x[order[start : start + size]],), {}, self.y[order[start : start + size]])

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output, target)

    def evaluate(self, model: torch.nn.Module, split: str = "test", size: int = 256) -> dict[str, float]:
        modes = model.training
        with torch.no_grad():
            found = float((model.eval()(self.x).argmax(1) == self.y).float().mean())
        model.train(modes)
        return {"accuracy": found}


def go(method, model, *, budget="groups=0.5", recipe=RECIPE, **more):
    x = torch.randn(2, 3, 6, 6, dtype=next(model.parameters()).dtype)
    task = Blobs(x.dtype)
    return run(method, model, x, budget=Budget.parse(budget), task=task, recipe=recipe, **more)


@names
def test_a_run_ends_with_an_exact_subnet_of_the_budget(name):
    result = uninterrupted(name)
    assert result.verdict.equal
    assert len(result.decision) == 10
    assert result.metrics["masked"] == result.metrics["subnet"]
    # DHSPG takes six of the eight channels that everything goes through, and has a few steps to recover.
    assert result.metrics["subnet"]["accuracy"] > (0.4 if name == "dhspg" else 0.8)
    assert METHODS[name].facts.name == name


@names
def test_the_history_tells_the_sparsity_of_every_step(name):
    result = uninterrupted(name)
    told = [row["sparsity"] for row in result.history]
    assert len(told) == 64
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == pytest.approx(result.removed["groups"])


@names
def test_limits_and_macs_through_the_host(name):
    limits = Limits(round_to=2, ignore=("conv1",))
    result = go(METHODS[name], on.net(dtype=torch.float32), budget="macs=0.2", limits=limits)
    assert 0.2 <= result.removed["macs"] < 0.2 + 0.1  # two groups of twelve at most
    assert result.subnet.conv1.out_channels == 8
    assert result.subnet.conv2.out_channels % 2 == 0


def test_hesso_cric_says_how_many_steps_it_needs():
    method, model = HessoCric(cycles=3), on.net(dtype=torch.float32)
    with pytest.raises(TooFewStepsError, match="needs") as caught:
        go(method, model, recipe=dataclasses.replace(RECIPE, steps=5))
    needed = caught.value.needed
    with pytest.raises(TooFewStepsError):
        go(method, model, recipe=dataclasses.replace(RECIPE, steps=needed - 1))
    assert go(method, model, recipe=dataclasses.replace(RECIPE, steps=needed)).verdict.equal
    with pytest.raises(UsageError, match="leave no training"):
        go(HessoCric(start=0.5, sampling=0.4, fade=0.2), model)


class Interrupted(Exception):
    pass


@functools.cache
def uninterrupted(name):
    return go(METHODS[name], on.net(dtype=torch.float32))


@names
@pytest.mark.parametrize("stop", [9, 22, 52])
def test_an_interrupted_run_goes_on_bit_for_bit(name, stop, tmp_path, monkeypatch):
    """Saved after every step, and cut off in each phase."""
    whole = uninterrupted(name)
    kind = type(METHODS[name])
    original = kind.on_event

    def cut(self, event, state):
        original(self, event, state)
        if event == "after_step" and state.step == stop:
            raise Interrupted

    monkeypatch.setattr(kind, "on_event", cut)
    options = Options(folder=tmp_path, every=0.0)
    with pytest.raises(Interrupted):
        go(METHODS[name], on.net(dtype=torch.float32), options=options)
    monkeypatch.setattr(kind, "on_event", original)
    again = go(METHODS[name], on.net(dtype=torch.float32), options=options)
    assert again.decision.removed == whole.decision.removed
    assert on.same(on.state_of(again.model), on.state_of(whole.model))


def test_a_run_that_is_over_is_not_trained_again(tmp_path, monkeypatch):
    """Its checkpoint holds no optimizer; what has left is in the run's state."""
    kind = Hesso
    original = kind.decide

    def cut(self, state):
        raise Interrupted

    monkeypatch.setattr(kind, "decide", cut)
    options = Options(folder=tmp_path)
    with pytest.raises(Interrupted):
        go(METHODS["hesso"], on.net(dtype=torch.float32), options=options)
    monkeypatch.setattr(kind, "decide", original)
    monkeypatch.setattr(kind, "wrap_optimizer", lambda *_: pytest.fail("trained again"))
    assert len(go(METHODS["hesso"], on.net(dtype=torch.float32), options=options).decision) == 10


@names
def test_what_cannot_be_is_said_before_training(name):
    model = on.net(dtype=torch.float32)
    with pytest.raises(UsageError, match="cannot be reached"):
        go(METHODS[name], model, budget="groups=0.95")
    with pytest.raises(UsageError, match=r"steps|step of"):
        go(METHODS[name], model, recipe=dataclasses.replace(RECIPE, steps=0))
    with pytest.raises(UsageError, match="share of training"):
        dataclasses.replace(METHODS[name], **{"phase" if isinstance(METHODS[name], AdaHspg) else "start": 2.0})


TOGETHER = METHODS | {
    "group-lasso": GroupLasso(),
    "slimming": Slimming(),
    "structured-ticket": StructuredTicket(rounds=2),
}


def shared(method, folder=None):
    return go(
        method,
        on.net(),
        recipe=dataclasses.replace(RECIPE, epochs=4),
        options=Options(measure=False, folder=folder),
    )


class Uneven(Blobs):
    """127 samples, of which batches of 18 leave a single one."""

    def count(self, split):
        return 127

    def batches(self, split, size, *, seed=None, epoch=0):
        order = torch.arange(127)
        if seed is not None:
            order = torch.randperm(127, generator=torch.Generator().manual_seed(1000 * seed + epoch + 100))
            order = order[: 127 - 127 % size]
        for part in torch.split(order, size):
            yield Batch((self.x[part],), {}, self.y[part])


def corrections(monkeypatch, recipe, task, model, *, penalty):
    """For every step of AdaHSPG+ through the host, its place in the phase, the corrected gradients, and mu."""
    seen = []
    original = AdaHSPG.correct

    def correct(self, closure):
        original(self, closure)
        if self.reducing:
            gradients = [tensor.grad.clone() for tensor in self._trained()]
            seen.append((self.place, gradients, self._mu))

    monkeypatch.setattr(AdaHSPG, "correct", correct)
    method = AdaHspg(penalty=penalty)
    x = torch.randn(2, 3, 6, 6, dtype=next(model.parameters()).dtype)
    run(method, model, x, budget=Budget.parse("groups=0.5"), task=task, recipe=recipe, options=Options(measure=False))
    return seen


def test_adahspg_anchors_have_the_mean_gradient_of_every_training_sample(monkeypatch):
    task, model = Uneven(torch.float64), on.net(norm=False)
    torch.nn.functional.cross_entropy(model(task.x[:127]), task.y[:127]).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    recipe = dataclasses.replace(RECIPE, epochs=2, batch=18, weight_decay=0.0)
    place, _, mu = corrections(monkeypatch, recipe, task, model, penalty=0.01)[0]
    assert place == 0
    for one, other in zip(mu, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("size", "expected"), [(18, 19), (16, 16), (126, 127), (200, 127), (1, 1)])
def test_all_training_data_come_once_and_no_sample_alone(size, expected):
    task = Uneven()
    found = list(Data(task, AdaHspg(), 0, torch.device("cpu")).training(size))
    assert torch.equal(torch.cat([batch.args[0] for batch in found]), task.x[:127])
    assert {batch.size for batch in found[:-1]} <= {expected}
    assert expected == 1 or found[-1].size > 1


@pytest.mark.parametrize("amp", ["", "bfloat16", "float16"])
def test_adahspg_computes_at_the_anchor_as_training_does(amp, monkeypatch):
    """With an lr that moves nothing, both gradients of a batch are the same bits, and mu is what is left."""
    recipe = dataclasses.replace(RECIPE, epochs=2, lr=1e-30, weight_decay=0.0, clip=None, amp=amp)
    seen = corrections(monkeypatch, recipe, Blobs(), on.net(dtype=torch.float32, norm=False), penalty=0.0)
    later = [one for one in seen if one[0]]
    assert later
    for _, gradients, mu in later:
        # In float16 the batch's gradient is scaled here, and on a CPU not in training: the last bits may differ.
        close = {"rtol": 0, "atol": 1e-3} if amp == "float16" else {"rtol": 0, "atol": 0}
        for one, other in zip(gradients, mu, strict=True):
            torch.testing.assert_close(one, other, **close)


def distributed(rank: int, folder: str) -> None:
    """One of two processes: every method after the other, results in files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name, method in TOGETHER.items():
        result = shared(method, Path(folder) / name)
        torch.save((result.decision.removed, on.state_of(result.model)), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    """The same global batch, so the same gradients and batch norms' statistics up to rounding (float64): the same
    plan, and weights and statistics within 1e-9. Both processes agree to the bit."""
    mp.spawn(distributed, args=(str(tmp_path),), nprocs=2)
    for name, method in TOGETHER.items():
        alone = shared(method)
        lines = (tmp_path / name / "history.jsonl").read_text().splitlines()
        steps = [(row["phase"], row["step"]) for row in map(json.loads, lines) if "loss" in row]
        assert len(steps) == len(set(steps)) >= 32  # one process writes
        one, other = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert one[0] == other[0] == alone.decision.removed, name
        assert on.same(one[1], other[1])
        for key, value in on.state_of(alone.model).items():
            torch.testing.assert_close(one[1][key], value, rtol=1e-9, atol=1e-9)


OPTIMIZERS = (HESSO, HESSOCRIC, HSPG, AdaHSPG, DHSPG, LHSPG)


@pytest.mark.parametrize("kind", [*(type(method) for method in METHODS.values()), *OPTIMIZERS])
def test_a_class_says_what_it_computes_and_takes(kind):
    """Its own docstring: a formula of figures with their shape, the data need, every option, errors and source."""
    text = vars(kind)["__doc__"]
    if issubclass(kind, SparseOptimizer):
        options = [
            one.name
            for one in inspect.signature(kind).parameters.values()
            if one.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        assert options
    else:
        options = [one.name for one in dataclasses.fields(kind)]
        authors, year = re.match(r"(\w+)", kind.facts.paper)[1], re.search(r"20\d\d", kind.facts.paper)[0]
        assert re.search(rf"Source: {authors} et al\..*{year}", text, re.DOTALL)
    missing = [option for option in options if not re.search(rf"\b{option}\b", text)]
    assert not missing
    for said in ("(count + 1,)", "Data need: D3", "Raises UsageError", "Source:", "Deviations:", "et al."):
        assert said in text, said
