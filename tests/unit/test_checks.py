"""Every check has a subject bad enough to fail it, and bad input ends in a report, not in an exception."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import conformance as pc
from conformance.backend import Backend
from conformance.checks import activity
from conformance.checks.registry import Check, checks
from conformance.checks.runner import check, describe_groups, explain, run_check
from conformance.checks.subject import Pair, Subject, prepare
from conformance.deploy.routes import missing_for_onnx
from conformance.equivalence.compare import equivalent
from conformance.errors import UsageError
from conformance.report.schema import CheckResult, ModelReport, Outcome
from conformance.subnet.extract import GRAPH, Candidate
from conformance.subnet.zero import zero_

SPEC = Path(__file__).resolve().parents[2] / "docs" / "spec.md"
BY_ID = {item.id: item for item in checks()}


# -- models ---------------------------------------------------------------------------------------


class Net(nn.Module):
    """The good one: every check passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.bn = nn.BatchNorm2d(12)
        self.mix = nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(10, 4)

    def features(self, x):
        return self.mix(torch.nn.functional.gelu(self.bn(self.conv(x)))).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def made(forward: Callable, prepare: Callable | None = None) -> type[Net]:
    """A net with another forward, and with something done to it when it is built."""

    class Changed(Net):
        def __init__(self) -> None:
            super().__init__()
            if prepare is not None:
                with torch.no_grad():
                    prepare(self)

    Changed.forward = forward
    return Changed


def images(batch, generator):
    return (torch.randn(batch, 3, 6, 6, generator=generator),), {}


def backend_of(build, inputs=images) -> Backend:
    return Backend("test:net", build, inputs)


def subject_of(build, kind=Subject) -> Subject:
    plain = prepare(backend_of(build), 0, "cpu", None)
    return kind(plain.backend, plain.model, plain.seed)


def reports(build, inputs=images, **options) -> ModelReport:
    return check(backend_of(build, inputs), **options)


def result(report: ModelReport, identifier: str) -> CheckResult:
    return next(item for item in report.checks if item.id == identifier)


# -- one bad subject for each check ---------------------------------------------------------------


class Spoilt(Subject):
    """A subject whose subnets are spoilt when `when` says so of the selection."""

    when: Callable[[Subject, pc.Selection], bool] = staticmethod(lambda subject, choice: True)
    how: Callable[[nn.Module], None] = staticmethod(lambda subnet: subnet.head.bias.data.add_(1))

    def _build(self, choice, full):
        pair = super()._build(choice, full)
        if not type(self).when(self, choice):
            return pair
        with torch.no_grad():
            type(self).how(pair.subnet.module)
        return self.judged(choice, full, pair.subnet.module)

    def judged(self, choice, full, module):
        verdict = equivalent(full, module, *self.inputs(), oracle="field", seed=self.seed)
        return Pair(choice, full, Candidate(module, "same class"), verdict)


def spoilt(when: Callable | None = None, how: Callable | None = None) -> type[Spoilt]:
    members = {name: staticmethod(value) for name, value in (("when", when), ("how", how)) if value is not None}
    return type("SpoiltHere", (Spoilt,), members)


def removes(fraction: float) -> Callable[[Subject, pc.Selection], bool]:
    """Whether the selection is that of one check, by how much it removes."""
    return lambda subject, choice: bool(choice.removed) and abs(len(choice) / subject.groups.count - fraction) < 0.12


def of_one_kind(subject: Subject, choice: pc.Selection) -> bool:
    return choice.removed == subject.groups.sample(0.5, subject.seed + 3, kinds=("channel",)).removed


class Reordered(Spoilt):
    """Subnets that compute the right thing with their channels in another order."""

    def _build(self, choice, full):
        pair = super(Spoilt, self)._build(choice, full)
        net = pair.subnet.module
        with torch.no_grad():
            for name in ("conv.weight", "bn.weight", "bn.bias", "conv.bias", "bn.running_mean", "bn.running_var"):
                tensor = net.state_dict()[name]
                tensor.copy_(tensor.flip(0))
            net.mix.weight.copy_(net.mix.weight.flip(1))
        return self.judged(choice, full, net)


class Greedy(Subject):
    """Making a subnet changes the original."""

    def _build(self, choice, full):
        pair = super()._build(choice, full)
        if choice.removed:
            self.model.head.bias.data.add_(1)
        return pair


class Zeroing(Subject):
    """As Greedy, but the same selection does no more harm the second time."""

    def _build(self, choice, full):
        zero_(self.model, choice)
        return super()._build(choice, full)


class Waking(Subject):
    """Making a subnet puts the original into training mode."""

    def _build(self, choice, full):
        pair = super()._build(choice, full)
        self.model.bn.train()
        return pair


class Whole(Subject):
    """Nothing is cut out of the subnets."""

    def _build(self, choice, full):
        return dataclasses.replace(super()._build(choice, full), subnet=Candidate(full, "same class"))


def after_counts(kind) -> Subject:
    """A subject of which an earlier check has made the same subnet."""
    subject = subject_of(Net, kind)
    subject.pair(subject.groups.sample(0.5, subject.seed))
    return subject


def with_groups(change: Callable[[pc.Groups], pc.Groups], subject: Subject | None = None) -> Subject:
    """The good net, or another, with a partition that is wrong in one place."""
    subject = subject or subject_of(Net)
    subject.groups = change(subject.groups)
    return subject


def _another_order(groups: pc.Groups) -> pc.Groups:
    index = groups.graph.names["conv.weight"]
    return dataclasses.replace(groups, dims={**groups.dims, index: [d[::-1].copy() for d in groups.dims[index]]})


def _wide() -> Subject:
    """More groups than a check draws."""
    return subject_of(lambda: nn.Sequential(nn.Conv2d(3, 300, 1), nn.ReLU(), nn.Conv2d(300, 2, 1)))


def _an_empty_group(groups: pc.Groups) -> pc.Groups:
    return dataclasses.replace(
        groups, count=groups.count + 1, modes=(*groups.modes, "producers"), kinds=(*groups.kinds, "channel")
    )


def _unaccounted(groups: pc.Groups) -> pc.Groups:
    key = (groups.graph.names["head.weight"], 0)
    return dataclasses.replace(groups, held={**groups.held, key: np.full_like(groups.held[key], -1)})


def _shy(self, x):
    """Does not run while somebody looks."""
    if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
        raise RuntimeError("seen")
    return Net.forward(self, x)


def _by_batch(self, x):
    """Right at the traced batch only: elsewhere the width is a number in the code."""
    y = torch.nn.functional.gelu(self.bn(self.conv(x)))
    width = self.conv.out_channels if x.shape[0] == 2 else 12
    return self.head(self.mix(y.reshape(x.shape[0], width, 4, 4)).mean((2, 3)))


def _literal(self, x):
    y = torch.nn.functional.gelu(self.bn(self.conv(x)))
    return self.head(self.mix(y.reshape(x.shape[0], 12, 16).reshape(x.shape[0], 12, 4, 4)).mean((2, 3)))


def grouped() -> Net:
    """6 inputs and 5 outputs in each of 2 groups: left alone, channels inside the groups go."""
    net = Net()
    net.mix = nn.Conv2d(12, 10, 1, groups=2)
    return net


class Shuffling(Net):
    """2 x 6 channels become 6 x 2: left alone, the six go."""

    def features(self, x):
        y = self.conv(x)
        return self.mix(y.unflatten(1, (6, 2)).transpose(1, 2).flatten(1, 2)).mean((2, 3))


def _deaf_gradient(net: Net) -> None:
    """Forward as it was; nothing reaches what stands before `mix`."""
    net.mix.register_forward_pre_hook(lambda module, args: (args[0].detach(),))


def _when_exported(module, args):
    """A hook of a module that does not go through torch.export."""
    if torch.compiler.is_exporting():
        raise RuntimeError("not for export")


def _when_compiled(module, args):
    """A hook of a module that computes something else when it is compiled."""
    return (args[0] + 1,) if torch.compiler.is_compiling() else None


def _not_exportable(self, x):
    _when_exported(self, (x,))
    return Net.forward(self, x)


def _other_compiled(self, x):
    y = Net.forward(self, x)
    return y + 1 if torch.compiler.is_compiling() else y


class Sizes:
    """A config as libraries have them."""

    def __init__(self, conv=12, mix=10):
        self.conv, self.mix = conv, mix

    def to_dict(self):
        return dict(vars(self))


class Kept(Net):
    """A net that is built from a config and knows how to be saved."""

    def __init__(self, config=None):
        super().__init__()
        self.config = config or Sizes()
        self.conv = nn.Conv2d(3, self.config.conv, 3)
        self.bn = nn.BatchNorm2d(self.config.conv)
        self.mix = nn.Conv2d(self.config.conv, self.config.mix, 1)
        self.head = nn.Linear(self.config.mix, 4)

    def save_pretrained(self, folder):
        (Path(folder) / "config.json").write_text(json.dumps(self.config.to_dict()))
        safetensors.torch.save_model(self, f"{folder}/model.safetensors")

    @classmethod
    def from_pretrained(cls, folder, local_files_only):
        assert local_files_only
        made = cls(Sizes(**json.loads((Path(folder) / "config.json").read_text())))
        safetensors.torch.load_model(made, f"{folder}/model.safetensors")
        return made


class Forgets(Kept):
    """What is loaded is not what was saved."""

    @classmethod
    def from_pretrained(cls, folder, local_files_only):
        made = super().from_pretrained(folder, local_files_only)
        made.head.bias.data[0] = torch.nextafter(made.head.bias.data[0], torch.tensor(9.0))
        return made


class Pickles(Kept):
    def save_pretrained(self, folder):
        torch.save(self.state_dict(), f"{folder}/model.bin")


class Locked(Kept):
    """Is saved at its first size only, or not at all."""

    only = 12

    def save_pretrained(self, folder):
        if self.config.conv != self.only:
            raise OSError("locked")
        super().save_pretrained(folder)


class Closed(Locked):
    only = 0


class Deaf(Kept):
    """Its config has the numbers, and the class does not read them."""

    def __init__(self, config=None):
        super().__init__(Sizes())


def _deaf(self, x):
    return self.head(self.features(x) * 0)


FAIL, UNSUPPORTED = Outcome.FAIL, Outcome.UNSUPPORTED
BAD: dict[str, list[tuple[Callable[[], Subject], Outcome, str]]] = {
    "L0.state": [
        (lambda: subject_of(made(Net.forward, lambda n: n.mix.weight.view(-1)[3].fill_(float("nan")))), FAIL, "mix.weight holds NaN"),
        (lambda: subject_of(made(Net.forward, lambda n: n.bn.running_var[1].fill_(float("nan")))), FAIL, "bn.running_var holds NaN"),
        (lambda: subject_of(made(Net.forward, lambda n: n.head.bias[1].fill_(float("inf")))), FAIL, "head.bias holds infinite"),
        (lambda: subject_of(nn.Flatten), FAIL, "no parameters"),
    ],
    "L0.forward": [
        (lambda: subject_of(made(lambda self, x: 1 / 0)), FAIL, "forward pass raised ZeroDivisionError"),
        (lambda: subject_of(made(lambda self, x: Net.forward(self, x.mul_(2)))), FAIL, "changes its own input"),
        (lambda: subject_of(made(lambda self, x: Net.forward(self, x) + self.bn.running_mean.add_(1).sum())), FAIL, "bn.running_mean"),
        (lambda: subject_of(made(lambda self, x: "words")), FAIL, "returns no tensors"),
        (lambda: subject_of(made(lambda self, x: Net.forward(self, x) / 0 * 0)), FAIL, "outputs hold NaN"),
    ],
    "L0.deterministic": [
        (lambda: subject_of(made(lambda self, x: Net.forward(self, x + torch.rand(1)))), UNSUPPORTED, "output 0 depends on the random state"),
        (lambda: subject_of(made(lambda self, x: Net.forward(self, x) + random.random())), FAIL, "output 0 differs"),
        (lambda: subject_of(made(lambda self, x: Net.forward(self, torch.nn.functional.dropout(x)))), UNSUPPORTED, "output 0 depends on the random state"),
    ],
    "L0.traceable": [(lambda: subject_of(made(_shy)), FAIL, "the model's forward raised RuntimeError: seen")],
    "L1.groups": [
        (lambda: subject_of(lambda: nn.Conv2d(3, 4, 1)), UNSUPPORTED, "everything is held back, most by this"),
        (lambda: with_groups(_another_order), FAIL, "two partitions of the same graph differ"),
    ],
    "L1.disjoint": [
        (lambda: with_groups(_an_empty_group), FAIL, "has no slices"),
        (lambda: with_groups(_an_empty_group, _wide()), FAIL, "group 301 has no slices"),
    ],
    "L1.accounted": [(lambda: with_groups(_unaccounted), FAIL, "head.weight dimension 0 is unaccounted for")],
    "L1.counts": [(lambda: subject_of(Net, Whole), FAIL, "subnet parameters: predicted")],
    "L2.identity": [
        (lambda: subject_of(Net, spoilt(lambda subject, choice: not choice.removed)), FAIL, "an empty selection"),
        (lambda: subject_of(Net, Greedy), FAIL, "changed head.bias of the original model"),
        (lambda: after_counts(Zeroing), FAIL, "of the original model"),
        (lambda: after_counts(Waking), FAIL, "changed the training mode of bn of the original model"),
    ],
    "L2.random-50": [
        (lambda: subject_of(Net, spoilt(removes(0.5))), FAIL, "a random 50 % selection"),
        (lambda: subject_of(made(_deaf)), FAIL, "does not change the outputs"),
    ],
    "L2.batch": [(lambda: subject_of(made(_by_batch)), FAIL, "batch 3")],
    "L2.same-class": [(lambda: subject_of(made(_literal)), UNSUPPORTED, "the subnet is a traced graph")],
    # 2**19 is one modulo the first prime: exact there, far off in floats.
    "L2.native": [(lambda: subject_of(Net, spoilt(how=lambda n: n.head.weight.mul_(2.0**19))), FAIL, "the deployed dtype")],
    "L2.gradient": [
        (lambda: subject_of(Net, spoilt(how=_deaf_gradient)), FAIL, "training: different by the gradient oracle: gradient of"),
        (lambda: subject_of(made(lambda self, x: Net.forward(self, x).detach())), UNSUPPORTED, "the full model does not train"),
    ],
    "L2.random-10": [(lambda: subject_of(Net, spoilt(removes(0.1))), FAIL, "a random 10 % selection")],
    "L2.random-90": [(lambda: subject_of(Net, spoilt(removes(0.82))), FAIL, "a random 90 % selection")],
    "L2.extreme": [(lambda: subject_of(Net, spoilt(lambda s, c: c.removed == s.groups.sample(1.0, s.seed).removed)), FAIL, "the extreme selection")],
    "L2.kinds": [(lambda: subject_of(Net, spoilt(of_one_kind)), FAIL, "channel groups zeroed by producers alone")],
    "L2.factors": [
        (lambda: subject_of(grouped, spoilt(lambda s, c: c.groups.carry == "outer")), FAIL, "carried by the outer factors"),
        (lambda: subject_of(Shuffling, spoilt(lambda s, c: c.groups.carry == "inner")), FAIL, "by the inner factors"),
    ],
    "L2.compose": [(lambda: subject_of(Net, Reordered), FAIL, "")],
    "L3.rebuild": [
        (lambda: subject_of(Net, spoilt(how=lambda n: setattr(n.conv, "note", "changed"))), FAIL, "conv.note of the subnet is 'changed'"),
        (lambda: subject_of(Net, spoilt(removes(0.5))), UNSUPPORTED, "no subnet was found to be equal"),
    ],
    "L3.export": [
        (lambda: subject_of(Net, spoilt(how=lambda n: n.mix.register_forward_pre_hook(_when_exported))), FAIL, "not for its subnet: RuntimeError: not for export"),
        (lambda: subject_of(made(_not_exportable)), UNSUPPORTED, "torch.export does not work for the full model either: RuntimeError: not for export"),
    ],
    "L3.compile": [
        (lambda: subject_of(Net, spoilt(how=lambda n: n.mix.register_forward_pre_hook(_when_compiled))), FAIL, "not for its subnet: output 0 is not close"),
        (lambda: subject_of(made(_other_compiled)), UNSUPPORTED, "torch.compile does not work for the full model either: output 0 is not close"),
    ],
    "L3.onnx": [
        (lambda: subject_of(Net, spoilt(how=lambda n: n.mix.register_forward_pre_hook(_when_exported))), FAIL, "ONNX works for the full model, but not for its subnet"),
        (lambda: subject_of(made(_not_exportable)), UNSUPPORTED, "ONNX does not work for the full model either"),
    ],
    "L3.save-pretrained": [
        (lambda: subject_of(Net), UNSUPPORTED, "the model has no save_pretrained"),
        (lambda: subject_of(Forgets), FAIL, "what from_pretrained made: different by the field oracle"),
        (lambda: subject_of(Pickles), UNSUPPORTED, "save_pretrained writes model.bin, and nothing but JSON and safetensors is loaded"),
        (lambda: subject_of(Locked), FAIL, "save_pretrained works for the full model, but not here: OSError: locked"),
        (lambda: subject_of(Closed), UNSUPPORTED, "save_pretrained does not work for the full model either: OSError: locked"),
        (lambda: subject_of(Deaf), UNSUPPORTED, "no values tried for config.conv, config.mix make conv.weight of shape"),
    ],
}  # fmt: skip


GOOD = {"L3.save-pretrained": Kept}  # Net for the others
NEEDS_ONNX = pytest.mark.skipif(bool(missing_for_onnx()), reason="needs the extra `deploy`")


def marked(identifier: str) -> tuple:
    """What a test of this check needs besides torch."""
    return (NEEDS_ONNX,) if identifier == "L3.onnx" else ()


class TestEveryCheck:
    def test_has_a_bad_subject(self):
        assert set(BAD) == set(BY_ID)

    @pytest.mark.parametrize("identifier", [pytest.param(name, marks=marked(name)) for name in BY_ID])
    def test_passes_the_good_one_and_counts(self, identifier):
        found = run_check(BY_ID[identifier], subject_of(GOOD.get(identifier, Net)))
        assert found.outcome is Outcome.PASS, found.message
        assert found.exercised > 0
        assert found.seconds > 0

    @pytest.mark.parametrize(
        ("identifier", "subject", "outcome", "words"),
        [
            pytest.param(identifier, *case, id=f"{identifier}-{number}", marks=marked(identifier))
            for identifier, cases in BAD.items()
            for number, case in enumerate(cases)
        ],
    )
    def test_fails_the_bad_one(self, identifier, subject, outcome, words):
        found = run_check(BY_ID[identifier], subject())
        assert found.outcome is outcome, found.message
        assert words in found.message
        assert len(found.message.splitlines()) == 1

    @pytest.mark.parametrize(
        ("identifier", "kind"),
        [("L2.random-10", spoilt(removes(0.1))), ("L2.compose", Reordered), ("L2.kinds", spoilt(of_one_kind))],
    )
    def test_and_these_alone_notice_it(self, identifier, kind):
        # Gradients are compared position by position, so that check notices most things too.
        others = [item for item in checks() if item.level == 2 and item.id not in (identifier, "L2.gradient")]
        assert [run_check(item, subject_of(Net, kind)).outcome for item in others] == [Outcome.PASS] * len(others)

    @pytest.mark.parametrize("identifier", BY_ID)
    def test_is_stated_in_the_specification(self, identifier):
        anchor = BY_ID[identifier].spec.partition("#")[2]
        assert anchor == identifier.lower().replace(".", "")
        assert f'<a id="{anchor}">' in SPEC.read_text(encoding="utf-8")

    @pytest.mark.parametrize("identifier", BY_ID)
    def test_is_described(self, identifier):
        item = BY_ID[identifier]
        assert item.title
        assert item.level == int(identifier[1])
        assert item.severity in {"MUST", "SHOULD"}

    def test_one_that_exercises_nothing_fails(self):
        from conformance.checks.registry import Finding

        idle = Check("L2.idle", "idle", 2, "MUST", lambda subject: Finding(0))
        found = run_check(idle, subject_of(Net))
        assert found.outcome is Outcome.FAIL
        assert found.message == "the check exercised nothing"

    def test_an_error_of_ours_is_no_finding_about_the_model(self):
        def broken(subject):
            raise KeyError("ours")

        found = run_check(Check("L2.broken", "broken", 2, "MUST", broken), subject_of(Net))
        assert found.outcome is Outcome.ERROR

    def test_details_say_how_to_repeat(self):
        subject = subject_of(Net, spoilt())
        subject.command = "conformance check test:net --level 2 --seed 0"
        found = run_check(BY_ID["L2.random-50"], subject)
        assert found.details["repeat"] == f"{subject.command} --only L2.random-50"
        assert found.details["oracle"] == "field"
        assert found.details["selection_size"] == len(subject.groups.sample(0.5, 0))


# -- bad input through the front door -------------------------------------------------------------


class TestGoodReports:
    def test_pass(self):
        seen = []
        report = reports(Net, progress=lambda *given: seen.append(given))
        assert report.outcome is Outcome.PASS, report.reason
        default = [name for name, item in BY_ID.items() if item.level <= 2]
        assert [item.id for item in report.checks] == default
        assert report.parameters == sum(parameter.numel() for parameter in Net().parameters())
        assert report.groups
        assert report.held_back
        assert 0 < report.removable_parameters < 1
        assert 0 < report.removable_flops < 1
        assert report.kinds == {"channel": 22}
        assert set(report.subnets) == {"same class"}
        assert [number for _, number, _ in seen] == list(range(len(default)))
        assert ModelReport.model_validate(report.model_dump(mode="json")) == report

    def test_the_same_twice(self):
        first, second = (reports(Net, seed=3).model_dump(mode="json") for _ in range(2))
        for report in (first, second):
            report["seconds"] = 0
            for item in report["checks"]:
                item["seconds"] = 0
        assert first == second

    @pytest.mark.parametrize("level", [0, 1, 2])
    def test_levels(self, level):
        assert {item.level for item in reports(Net, level=level).checks} == set(range(level + 1))

    def test_bad_options(self):
        with pytest.raises(UsageError, match="levels go from 0 to 3, not 4"):
            reports(Net, level=4)
        with pytest.raises(UsageError, match=r"no check of level 2 matches \'L2\.none\'"):
            reports(Net, only=("L2.none",))
        with pytest.raises(UsageError, match=r"no check of level 2 matches \'L3\.\*\'"):
            reports(Net, only=("L3.*",))

    def test_level_3_runs_when_it_is_asked_for(self):
        report = reports(Net, level=3, only=("L3.rebuild",))
        assert [item.id for item in report.checks if item.level > 1] == ["L3.rebuild"]
        assert result(report, "L3.rebuild").outcome is Outcome.PASS
        assert result(report, "L3.rebuild").details["around"] == "meta"

    def test_the_callers_random_state_stays(self):
        torch.manual_seed(5)
        held = torch.random.get_rng_state()
        reports(Net, level=1)
        assert torch.equal(held, torch.random.get_rng_state())


class TestBadModels:
    """The outcome, the check that found it, and the words of the reason."""

    @pytest.mark.parametrize(
        ("build", "outcome", "words"),
        [
            (made(lambda self, x: int("x")), FAIL, "L0.forward: the forward pass raised ValueError: invalid literal"),
            (made(lambda self, x: None), FAIL, "L0.forward: the model returns no tensors"),
            (made(lambda self, x: {"score": 0.5, "word": "no"}), FAIL, "L0.forward: the model returns no tensors"),
            (nn.Flatten, FAIL, "L0.state: the model has no parameters"),
            (made(Net.forward, lambda n: n.conv.weight.view(-1)[0].fill_(float("nan"))), FAIL, "L0.state: conv.weight holds NaN"),
            (made(Net.forward, lambda n: n.conv.weight.fill_(float("nan"))), FAIL, "L0.state: conv.weight holds NaN"),
            (made(lambda self, x: Net.forward(self, x.add_(1))), FAIL, "L0.forward: the forward pass changes its own input"),
            (made(lambda self, x: Net.forward(self, x) * self.bn.running_var.mul_(0.9).sum()), FAIL, "L0.forward: the forward pass changes the model's state"),
            (made(lambda self, x: Net.forward(self, x + torch.rand_like(x))), UNSUPPORTED, "L0.deterministic: output 0 depends on the random state"),
            (lambda: nn.Conv2d(3, 4, 3), UNSUPPORTED, "L1.groups: no group was found: everything is held back, most by this: "),
            (lambda: 1 / 0, Outcome.ERROR, "the model could not be built: ZeroDivisionError: division by zero"),
        ],
    )  # fmt: skip
    def test_ends_in_a_report(self, build, outcome, words):
        report = reports(build)
        assert report.outcome is outcome, report.reason
        assert report.reason.startswith(words)
        assert len(report.reason.splitlines()) == 1
        assert ModelReport.model_validate(report.model_dump(mode="json")) == report

    def test_inputs_that_do_not_fit(self):
        report = reports(Net, lambda batch, generator: ((torch.randn(batch, 5, 6, 6),), {}))
        assert report.outcome is FAIL
        assert report.reason.startswith("L0.forward: the forward pass raised RuntimeError: ")
        assert "channels" in report.reason

    def test_too_many_inputs(self):
        report = reports(Net, lambda batch, generator: ((torch.randn(batch, 3, 6, 6), 1), {}))
        assert report.reason.startswith("L0.forward: the forward pass raised TypeError: ")

    def test_buffers_that_are_not_saved_count_as_state(self):
        def count(self, x):
            self.seen.add_(1)
            return Net.forward(self, x)

        build = made(count, lambda n: n.register_buffer("seen", torch.zeros(1), persistent=False))
        assert "changes the model's state in evaluation mode: seen" in reports(build).reason

    def test_a_counter_in_an_attribute(self):
        def count(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return Net.forward(self, x) * self.calls

        assert reports(made(count)).reason.startswith("L0.deterministic: output 0 differs")

    def test_nothing_is_run_on_what_failed_below(self):
        report = reports(made(lambda self, x: 1 / 0))
        assert result(report, "L0.deterministic").outcome is Outcome.SKIPPED
        assert {item.outcome for item in report.checks if item.level} == {Outcome.SKIPPED}
        assert result(report, "L2.random-50").message == "not run because L0.forward did not pass"
        report = reports(lambda: nn.Conv2d(3, 4, 3))
        assert {item.outcome for item in report.checks if item.level == 2} == {Outcome.SKIPPED}

    def test_zero_groups_name_what_holds_most_back(self):
        report = reports(lambda: nn.Conv2d(3, 4, 3))
        assert report.outcome is UNSUPPORTED
        assert report.held_back
        assert report.held_back[0].reason.startswith("is a kernel extent")
        assert report.reason.endswith("most by this: is an output of the model"), "a kernel is no reason"
        assert not report.groups

    def test_an_operation_without_an_exact_rule_is_no_pass(self):
        """Groups are found, and nothing could be shown about them."""
        report = reports(made(lambda self, x: self.head(self.features(x)).cumprod(1)))
        assert report.outcome is UNSUPPORTED
        assert report.reason.startswith("L1.counts: ") or "aten.cumprod" in report.reason

    def test_state_and_inputs_are_put_back_for_the_next_check(self):
        subject = subject_of(made(lambda self, x: Net.forward(self, x.mul_(2)) + self.bn.running_mean.add_(1).sum()))
        state = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
        given = subject.inputs()[0][0].clone()
        run_check(BY_ID["L0.forward"], subject)
        assert torch.equal(subject.inputs()[0][0], given)
        changing = subject_of(made(lambda self, x: Net.forward(self, x) + self.bn.running_mean.add_(1).sum()))
        run_check(BY_ID["L0.forward"], changing)
        assert torch.equal(changing.model.state_dict()["bn.running_mean"], state["bn.running_mean"])

    def test_an_internal_error_in_the_partition_is_a_report_too(self, monkeypatch):
        from conformance.checks import subject

        def broken(graph):
            raise KeyError("ours")

        monkeypatch.setattr(subject, "partition", broken)
        report = reports(Net)
        assert report.outcome is Outcome.ERROR
        assert report.reason == "L1.groups: KeyError: 'ours'"

    def test_activity_that_cannot_be_measured_does_not_undo_a_pass(self, monkeypatch):
        from conformance.checks import runner

        def broken(groups):
            raise KeyError("ours")

        monkeypatch.setattr(runner, "silent_groups", broken)
        report = reports(Net, level=1)
        assert report.outcome is Outcome.PASS
        assert report.unverified == ["which groups never fire could not be measured: KeyError: 'ours'"]

    def test_dead_units_are_named(self):
        def kill(net):
            net.bn.weight[2] = 0
            net.bn.bias[2] = -5

        def forward(self, x):
            return self.head(self.mix(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))

        report = reports(made(forward, kill), level=1)
        assert any("1 of 12 never fire" in line for line in report.unverified), report.unverified


class TestLooking:
    def test_describe_groups(self):
        report = describe_groups(backend_of(Net))
        assert [row.size for row in report.groups] == [12, 10]
        empty = describe_groups(backend_of(lambda: nn.Conv2d(3, 4, 1)))
        assert (empty.groups, empty.reason) == ([], "no group was found: nothing can be pruned")

    def test_explain(self):
        assert explain(backend_of(Net), parameter="conv.weight", dim=0)
        with pytest.raises(UsageError):
            explain(backend_of(Net), parameter="conv.wight")


class TestLibraryDoor:
    def test_check_model(self):
        torch.manual_seed(0)
        net = Net()
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        report = pc.check_model(net, (torch.randn(2, 3, 6, 6),))
        assert report.outcome is Outcome.PASS, report.reason
        assert report.spec == "Net"
        assert net.training
        assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())

    def test_without_inputs(self):
        with pytest.raises(UsageError, match="at least one tensor"):
            pc.check_model(Net())

    def test_a_graph_subnet_is_exact_at_another_batch_too(self):
        report = pc.check_model(made(_literal)().eval(), (torch.randn(2, 3, 6, 6),))
        assert result(report, "L2.same-class").outcome is UNSUPPORTED
        assert result(report, "L2.batch").outcome is Outcome.PASS, result(report, "L2.batch").message
        assert report.outcome is Outcome.PASS, report.reason
        assert set(report.subnets) >= {GRAPH}


class TestSilentGroups:
    """Channels that are zero wherever they are read, also where a transposed weight stands beside them."""

    @pytest.mark.parametrize(
        ("layers", "x"),
        [
            ((nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.ones(2, 6)),
            ((nn.Conv1d(6, 8, 1), nn.ReLU(), nn.Conv1d(8, 3, 1)), torch.ones(2, 6, 5)),
        ],
    )
    def test_are_found(self, layers, x):
        net = nn.Sequential(*layers)
        with torch.no_grad():
            net[0].weight.abs_().add_(0.1)
            net[0].bias[[1, 4]] = -1000
        groups = pc.partition(pc.trace(net.eval(), x))
        assert activity.silent_groups(groups).tolist() == [2, 5]


def test_what_to_type_to_see_it_again():
    backend = dataclasses.replace(backend_of(made(_deaf)), input_shape=(3, 6, 6))
    report = check(backend, seed=4, dtype="float64", only=("L2.random-50",))
    told = result(report, "L2.random-50").details["repeat"]
    assert told == (
        "conformance check test:net --level 2 --seed 4 --input-shape 3,6,6 --dtype float64 --only L2.random-50"
    )


@pytest.mark.parametrize("seed", range(8))
def test_dead_units_are_no_failure(seed):
    """Few units, many of them dead: removing those changes nothing in floating point, and is exact all the same."""

    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    report = reports(build, lambda batch, g: ((torch.randn(batch, 3, generator=g),), {}), seed=seed)
    assert report.outcome is Outcome.PASS, report.reason


class TestBuffersThatAreNotSaved:
    class Cached(Net):
        """Holds a table whose size it learns from its first input, and counts its calls if asked to."""

        def __init__(self, count=False):
            super().__init__()
            self.count = count
            self.register_buffer("table", torch.zeros(1), persistent=False)

        def forward(self, x):
            if self.table.shape != x.shape[-1:]:
                self.table = torch.arange(float(x.shape[-1]))
            if self.count:
                self.table += 1
            return super().forward(x + self.table)

    def test_a_cache_is_no_change(self):
        report = reports(self.Cached)
        assert report.outcome is Outcome.PASS, report.reason

    def test_a_counter_is_one(self):
        report = reports(lambda: self.Cached(count=True))
        assert report.reason == "L0.forward: the forward pass changes the model's state in evaluation mode: table"


class Routed(nn.Module):
    """Rows go to one of two experts, sorted by it and cut by how many there are: numbers read from a tensor."""

    def __init__(self):
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Linear(8, 6) for _ in range(2))

    def forward(self, x):
        rows = self.stem(x).relu().flatten(0, 1)
        chosen = self.router(rows).argmax(1)
        parts = rows[chosen.argsort(stable=True)].split(chosen.bincount(minlength=2).tolist())
        made = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        return self.head(made).view(*x.shape[:2], 2)


def test_code_that_goes_by_computed_values_is_pruned_in_its_own_class():
    torch.manual_seed(0)
    report = pc.check_model(Routed(), torch.randn(2, 12, 3))
    assert report.outcome is Outcome.PASS, report.reason
    assert set(report.subnets) == {"same class"}


class RoutedByConstant(Routed):
    """No attribute says how wide the stem is: its subnet can only be a traced graph."""

    def forward(self, x):
        rows = self.stem(x).relu().view(-1, 8)
        chosen = self.router(rows).argmax(1)
        parts = rows[chosen.argsort(stable=True)].split(chosen.bincount(minlength=2).tolist())
        made = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        return self.head(made).view(*x.shape[:2], 2)


def test_where_only_a_graph_is_left_it_is_unsupported_and_not_wrong():
    torch.manual_seed(0)
    report = pc.check_model(RoutedByConstant(), torch.randn(2, 12, 3))
    assert report.outcome is Outcome.UNSUPPORTED
    assert report.reason.startswith("L2.")
    assert "the model's code goes by computed values, a traced graph cannot follow it" in report.reason
