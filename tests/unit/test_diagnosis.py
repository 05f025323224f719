"""Failing comparisons say where, why and how to see it again, and the verdict never depends on it."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.checks import diagnose, runner, subject
from conformance.checks.registry import checks
from conformance.checks.runner import check
from conformance.cli.app import main
from conformance.diagnosis import assertion
from conformance.diagnosis.align import events_of
from conformance.diagnosis.finding import CUT_OFF, Diagnosis, Divergence, Smallest
from conformance.diagnosis.locate import Comparison, locate
from conformance.diagnosis.watch import ENTER, LEAVE
from conformance.errors import SelectionError, UsageError
from conformance.partition.words import from_words, to_words
from conformance.report.build import build_report, detail_lines
from conformance.report.markdown import report_markdown
from conformance.report.schema import ModelReport, Outcome, Report
from conformance.subnet.extract import candidates
from conformance.subnet.tape_module import GraphSubnet

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
BY_ID = {item.id: item for item in checks()}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.bn = nn.BatchNorm2d(12)
        self.mix = nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(torch.relu(self.mix(torch.relu(self.bn(self.conv(x))))).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return pc.randomised(Net().eval())


def groups_of(net):
    return pc.partition(pc.trace(net, X))


def spoils(culprits):
    """Extraction with a bug that shows when all of these groups leave."""

    def wrong(model, choice):
        for candidate in candidates(model, choice):
            if set(culprits) <= set(choice.removed):
                with torch.no_grad():
                    candidate.module.mix.bias.add_(1)
            yield candidate

    return wrong


def spoilt_extract(culprits):
    return lambda model, choice: next(iter(spoils(culprits)(model, choice))).module


def failing(report: ModelReport):
    return [result for result in report.checks if result.outcome is Outcome.FAIL]


# -- assert_equivalent ----------------------------------------------------------------------------


class TestAssertion:
    def message(self, *args, **kwargs):
        with pytest.raises(AssertionError) as caught:
            pc.assert_equivalent(*args, **kwargs)
        return str(caught.value)

    def test_it_names_the_module_without_being_told_the_selection(self, net):
        choice = groups_of(net).sample(0.5, 0)
        full, subnet = pc.zero(net, choice), pc.extract(net, choice)
        with torch.no_grad():
            subnet.mix.weight[1, 0] += 1
        lines = self.message(full, subnet, X).splitlines()
        assert lines[0].startswith("different by the field oracle: output 0 of shape (2, 4) differs in ")
        assert lines[1].startswith("  first diverging module: mix (Conv2d): aten.convolution at nn/modules/conv.py:")
        assert lines[1].endswith("; its weight differs in 1 of 30 elements")
        assert lines[2] == "  repeat with: oracle='field', seed=0"

    @pytest.mark.parametrize("culprits", [(3,), (2, 17)])
    def test_it_finds_the_groups_at_fault(self, net, culprits):
        groups = groups_of(net)
        choice = groups.select(sorted({*culprits, 5, 6, 9, 14, 20}))
        extract = spoilt_extract(culprits)
        full, subnet = pc.zero(net, choice), extract(net, choice)
        text = self.message(full, subnet, X, model=net, choice=choice, extract=extract, seed=4)
        words = ", ".join(to_words(groups.select(list(culprits))))
        assert f"  smallest selection: {len(culprits)} of {len(choice)} removed groups: {words} (" in text
        assert f"  repeat with: oracle='field', seed=4, choice=groups.select({list(culprits)})" in text
        assert "first diverging module: mix (Conv2d)" in text
        again = groups.select(list(culprits))
        assert not pc.equivalent(pc.zero(net, again), extract(net, again), X, seed=4)

    def test_a_graph_subnet(self, net):
        choice = groups_of(net).sample(0.5, 0)
        subnet = GraphSubnet(choice.groups.graph, choice)
        with torch.no_grad():
            subnet.bn.running_var[1] += 1
        text = self.message(pc.zero(net, choice), subnet, X)
        assert "first diverging module: bn (BatchNorm2d): aten." in text
        assert "its running_var differs in 1 of 6 elements" in text

    def test_which_of_several_calls(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.act, self.last = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

            def forward(self, x):
                return self.last(self.act(self.act(self.first(x)) - 1))

        net, x = pc.randomised(Twice().eval()), torch.randn(2, 4)
        wrong = pc.randomised(net)
        calls = []

        def second(self, args, output):
            calls.append(None)
            return output + 1 if len(calls) % 2 == 0 else output

        wrong.act.forward = lambda y: second(None, None, torch.relu(y))
        assert "first diverging module: act (ReLU, call 2 of 2): the output" in self.message(net, wrong, x)

    def test_a_parent_that_hands_on_a_wrong_view(self, net):
        class Flipped(Net):
            def forward(self, x):
                y = torch.relu(self.mix(torch.relu(self.bn(self.conv(x)))))
                return self.head(y.mean((2, 3)).unsqueeze(1)[:, 0].view(2, 2, 5).transpose(0, 1).reshape(2, 10))

        other = Flipped()
        other.load_state_dict(net.state_dict())
        text = self.message(net, other.eval(), X)
        assert "first diverging module: the model itself (Net): what it hands to head at " in text

    def test_a_subnet_that_raises(self, net):
        other = pc.randomised(net)
        other.mix = nn.Conv2d(11, 10, 1)
        choice = groups_of(net).select([])
        text = self.message(net, other, X, choice=choice)
        assert "first diverging module: mix (Conv2d): its code" in text
        assert "raised RuntimeError: " in text
        assert "its weight has shape (10, 11, 1, 1), not (10, 12, 1, 1)" in text

    def test_a_parameter_that_is_not_a_number(self, net):
        choice = groups_of(net).select([])
        other = pc.randomised(net)
        with torch.no_grad():
            other.mix.bias[2] = float("nan")
        text = self.message(net, other, X, choice=choice)
        assert "first diverging module: mix (Conv2d): mix.bias holds NaN or infinity" in text

    def test_what_was_removed_must_be_known(self, net):
        choice = groups_of(net).sample(0.5, 0)
        text = self.message(net, pc.extract(net, choice), X)
        assert "cannot be named: give the selection that made the subnet to see where they part" in text

    def test_models_that_have_nothing_in_common(self, net):
        other = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
        text = self.message(net, other, X)
        assert "diagnosis: " in text
        assert text.startswith("different by the field oracle")

    def test_an_extraction_that_is_right_is_said_to_be(self, net):
        choice = groups_of(net).sample(0.5, 0)
        subnet = pc.extract(net, choice)
        with torch.no_grad():
            subnet.head.bias.add_(1)
        text = self.message(pc.zero(net, choice), subnet, X, model=net, choice=choice)
        assert "diagnosis: a subnet that is extracted anew is equal" in text
        assert "first diverging module: head (Linear)" in text

    def test_float64(self, net):
        choice = groups_of(net).sample(0.5, 0)
        subnet = pc.extract(net, choice)
        with torch.no_grad():
            subnet.conv.weight.mul_(1 + 1e-3)
        text = self.message(pc.zero(net, choice), subnet, X, oracle="float64")
        assert text.startswith("different by the float64 oracle")
        assert "first diverging module: conv (Conv2d)" in text

    def test_gradients_alone(self, net):
        choice = groups_of(net).sample(0.5, 0)
        subnet = pc.extract(net, choice)
        subnet.mix.register_forward_pre_hook(lambda module, args: (args[0].detach(),))
        text = self.message(pc.zero(net, choice), subnet, X, oracle="gradient", choice=choice)
        assert "cannot be named: the forward pass agrees in every module: the gradients differ" in text

    def test_a_diagnosis_that_fails_hides_nothing(self, net, monkeypatch):
        def broken(comparison):
            raise KeyError("ours")

        monkeypatch.setattr(assertion, "locate", broken)
        choice = groups_of(net).sample(0.5, 0)
        subnet = pc.extract(net, choice)
        with torch.no_grad():
            subnet.head.bias.add_(1)
        lines = self.message(pc.zero(net, choice), subnet, X, choice=choice).splitlines()
        assert lines[0].startswith("different by the field oracle: output 0")
        assert lines[1] == "  diagnosis: the diagnosis failed: KeyError: 'ours'"

    def test_nothing_is_done_where_all_is_equal(self, net, monkeypatch):
        monkeypatch.setattr(assertion, "_diagnosed", lambda *args: pytest.fail("a diagnosis"))
        choice = groups_of(net).sample(0.5, 0)
        pc.assert_equivalent(pc.zero(net, choice), pc.extract(net, choice), X, model=net, choice=choice)

    def test_models_and_random_state_stay(self, net):
        choice = groups_of(net).select([2, 3, 17])
        full, subnet = pc.zero(net, choice), spoilt_extract((3,))(net, choice)
        held = [{name: t.clone() for name, t in m.state_dict().items()} for m in (net, full, subnet)]
        random, training = torch.random.get_rng_state(), subnet.train().training
        self.message(full, subnet, X, model=net, choice=choice, extract=spoilt_extract((3,)))
        assert torch.equal(torch.random.get_rng_state(), random)
        assert subnet.training is training
        for before, model in zip(held, (net, full, subnet), strict=True):
            assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class TestAlignment:
    def test_events_of_a_model_that_catches_an_exception(self):
        class Careful(Net):
            def __init__(self):
                super().__init__()
                self.broken = nn.Linear(1, 1)

            def forward(self, x):
                try:
                    self.broken(x)
                except RuntimeError:
                    return super().forward(x)

        net = pc.randomised(Careful().eval())
        found = events_of(pc.trace(net, X))
        assert sum(event.kind == LEAVE for event in found) == sum(event.kind == ENTER for event in found)
        other = pc.randomised(net)
        with torch.no_grad():
            other.mix.bias.add_(1)
        choice = pc.partition(pc.trace(net, X)).select([])
        assert locate(Comparison(net, other, ((X,), {}), choice)).module == "mix"

    def test_every_call_begins_and_ends_around_its_operations(self, net):
        graph = pc.trace(net, X)
        running = []
        for event in events_of(graph):
            if event.kind == ENTER:
                running.append(event.call)
            elif event.kind == LEAVE:
                assert running.pop() == event.call
            else:
                assert graph.calls[running[-1]].module == graph.nodes[event.node].module
        assert running == []


# -- reports --------------------------------------------------------------------------------------


class TestReports:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch):
        monkeypatch.setattr(runner, "SECONDS", 3600.0)  # the machine may be busy

    @pytest.fixture
    def report(self, net, monkeypatch):
        monkeypatch.setattr(subject, "candidates", spoils((3, 15)))
        return pc.check_model(net, X, name="test:net")

    def culprits(self, net):
        return groups_of(net).select([3, 15])

    def test_every_failing_check_has_one(self, net, report):
        found = failing(report)
        assert {"L2.random-90", "L2.extreme"} <= {result.id for result in found}
        assert report.outcome is Outcome.FAIL
        assert all(result.diagnosis is None for result in report.checks if result not in found)
        for result in found:
            told = result.diagnosis
            assert told.problem == "", result.id
            assert told.divergence.module == "mix", result.id
            assert told.smallest.minimal
            assert told.smallest.words == to_words(self.culprits(net)), result.id
            assert told.smallest.slices == self.culprits(net).slices()

    def test_the_outcome_is_that_of_the_check_alone(self, net, report, monkeypatch):
        monkeypatch.setattr(runner, "_diagnose", lambda *args: None)
        plain = pc.check_model(net, X, name="test:net")
        assert [(c.id, c.outcome, c.message) for c in plain.checks] == [
            (c.id, c.outcome, c.message) for c in report.checks
        ]
        assert (plain.outcome, plain.reason) == (report.outcome, report.reason)

    def test_all_renderings_hold_it(self, net, report):
        whole = build_report([report], command=["conformance"], environment={})
        data = json.loads(whole.model_dump_json())
        assert data["schema_version"] == "1.2"
        told = next(c for c in data["models"][0]["checks"] if c["id"] == "L2.extreme")["diagnosis"]
        assert told["divergence"]["module"] == "mix"
        assert told["smallest"]["words"] == list(to_words(self.culprits(net)))
        assert Report.model_validate(data) == whole
        names = [name for name, _ in detail_lines(failing(report)[0])]
        at = names.index("first diverging module")
        assert names[at : at + 3] == ["first diverging module", "smallest selection", "repeat with"]
        assert "- first diverging module: `mix (Conv2d)" in report_markdown(whole)

    def test_a_call_repeats_it(self, net, report):
        told = next(result for result in report.checks if result.id == "L2.random-90")
        call = told.details["repeat"]
        assert call.startswith(
            "pc.check_model(model, args, level=2, seed=0, only=('L2.random-90',), remove=('conv.weight:0:2',"
        )
        again = eval(call, {"pc": pc, "model": net, "args": X})
        assert again.checks[-1].id == "L2.random-90"
        assert again.checks[-1].outcome is Outcome.FAIL
        assert again.checks[-1].details["selection_size"] == 2

    def test_of_groups_that_only_the_other_factor_makes(self, monkeypatch):
        """The words name positions; the check finds their groups in its own partition."""
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv1d(3, 12, 1), nn.ReLU(), nn.Conv1d(12, 12, 1, groups=3), nn.ReLU(), nn.Conv1d(12, 2, 1)
        ).eval()
        inputs = torch.randn(2, 3, 5)
        plain = subject.candidates

        def spoiled(model, choice):
            for candidate in plain(model, choice):
                if choice.groups.carry == "outer" and choice.removed:
                    with torch.no_grad():
                        list(candidate.module.parameters())[-1].add_(1)
                yield candidate

        monkeypatch.setattr(subject, "candidates", spoiled)
        report = pc.check_model(net, inputs, name="test:net")
        (result,) = failing(report)
        assert result.id == "L2.factors"
        assert result.diagnosis.smallest.groups == 1
        again = eval(result.details["repeat"], {"pc": pc, "model": net, "args": inputs})
        assert again.checks[-1].id == "L2.factors"
        assert again.checks[-1].outcome is Outcome.FAIL
        assert again.checks[-1].details["selection_size"] == 1

    def test_a_report_without_diagnoses_can_still_be_read(self, report):
        data = json.loads(report.model_dump_json())
        for item in data["checks"]:
            del item["diagnosis"]
        assert ModelReport.model_validate(data).outcome is Outcome.FAIL

    def test_one_that_fails_says_so_and_the_verdict_stays(self, net, monkeypatch):
        def broken(*args):
            raise KeyError("ours")

        monkeypatch.setattr(subject, "candidates", spoils((3,)))
        monkeypatch.setattr(diagnose, "locate", broken)
        report = pc.check_model(net, X)
        assert report.outcome is Outcome.FAIL
        told = failing(report)[0].diagnosis
        assert told.problem == "the first diverging module cannot be named: KeyError: 'ours'"
        assert told.smallest.groups == 1
        monkeypatch.setattr(diagnose, "shrink", broken)
        report = pc.check_model(net, X)
        assert report.outcome is Outcome.FAIL
        assert failing(report)[0].diagnosis.problem == "the diagnosis failed: KeyError: 'ours'"

    def test_time_that_is_spent_is_said(self, net, monkeypatch):
        monkeypatch.setattr(subject, "candidates", spoils((3,)))
        monkeypatch.setattr(runner, "SECONDS", 0.0)
        report = pc.check_model(net, X)
        assert {result.diagnosis.problem for result in failing(report)} == {
            "the 0 s for diagnoses were spent on other checks"
        }

    def test_nothing_is_done_where_all_is_equal(self, net, monkeypatch):
        monkeypatch.setattr(runner, "diagnose", lambda *args: pytest.fail("a diagnosis"))
        settled = []
        backend = _backend(net)
        assert check(backend, settled=settled.append).outcome is Outcome.PASS
        assert settled == []

    def test_an_exception_of_extraction_is_shrunk_too(self, net, monkeypatch):
        groups = groups_of(net)
        culprit = next(n for n in range(1, 13) if n not in groups.sample(0.5, 0).removed)  # level 1 looks at that

        def raising(model, choice):
            if culprit in choice.removed:
                raise IndexError("no such slice")
            yield from candidates(model, choice)

        monkeypatch.setattr(subject, "candidates", raising)
        report = pc.check_model(net, X)
        found = next(c for c in report.checks if c.id == "L2.extreme")
        assert found.outcome is Outcome.ERROR
        assert found.diagnosis.smallest.words == to_words(groups.select([culprit]))
        assert "there are no two models to compare" in found.diagnosis.problem

    def test_the_verdict_is_settled_before_any_diagnosis(self, net, monkeypatch):
        monkeypatch.setattr(subject, "candidates", spoils((3,)))
        settled = []
        final = check(_backend(net), settled=settled.append)
        assert settled[0].outcome is Outcome.FAIL
        assert {result.diagnosis.problem for result in failing(settled[0])} == {CUT_OFF}
        assert any(result.diagnosis.smallest for result in failing(settled[-1]))
        assert not any(CUT_OFF in result.diagnosis.problem for result in failing(final))


def _backend(net):
    from conformance.backend import Backend

    return Backend("test:net", lambda: net, lambda batch, g: ((torch.randn(batch, 3, 6, 6, generator=g),), {}))


# -- one command ----------------------------------------------------------------------------------

FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        width = self.stem.out_channels if x.shape[0] == 2 else 8
        return self.out(torch.relu(self.stem(x)).view(-1, width, 16).mean(2))


def net():
    return Net(), torch.randn(2, 3, 6, 6)

"""


class TestCommand:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        (tmp_path / "nets.py").write_text(FILE)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def told(self, folder, identifier="L2.batch"):
        report = Report.model_validate_json((folder / "out" / "report.json").read_text())
        return next(item for item in report.models[0].checks if item.id == identifier)

    def test_it_repeats_the_smallest_failure(self, folder, capsys):
        assert main(["check", "nets.py:net", "--seed", "2", "--report", "out"]) == 1
        first = self.told(folder)
        assert first.diagnosis.smallest.groups == 1
        out = capsys.readouterr().out
        typed = next(line.partition(": ")[2] for line in out.splitlines() if "repeat with" in line)
        assert typed == first.details["repeat"]
        assert "--seed 2 --only L2.batch --remove stem.weight:0:" in typed
        assert main([*shlex.split(typed)[1:], "--report", "out"]) == 1
        again = self.told(folder)
        assert again.outcome is Outcome.FAIL
        assert again.details["selection_size"] == 1
        assert again.details["repeat"] == typed
        assert again.diagnosis.divergence == first.diagnosis.divergence

    def test_a_failing_selection_in_markdown_and_terminal(self, folder, capsys):
        main(["check", "nets.py:net", "--report", "out"])
        out = capsys.readouterr().out
        lines = [line.strip().partition(":")[0] for line in out.splitlines()]
        at = lines.index("first diverging module")
        assert lines[at : at + 3] == ["first diverging module", "smallest selection", "repeat with"]
        assert "nets.py" in out.splitlines()[at]
        assert "smallest selection" in (folder / "out" / "report.md").read_text()

    def test_groups_that_are_not_there(self, capsys):
        for word, message in (
            ("stem.wait:0:1", "the model has no parameter or buffer named stem.wait"),
            ("stem.weight:0:99", "stem.weight has no such positions in dimension 0"),
            ("stem.weight:1:0", "stem.weight dimension 1: position 0 is held back"),
            ("stem.weight", "'stem.weight' is not NAME:DIMENSION:POSITIONS"),
        ):
            assert main(["check", "nets.py:net", "--remove", word, "--in-process"]) == 2
            assert message in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_time_limit_cuts_the_diagnosis_off_and_not_the_verdict(self, folder, monkeypatch):
        """The child is ended while it looks for the smallest selection: the failure is reported all the same."""
        from conformance import isolate
        from conformance.isolate import Limits, Request, check_isolated

        start, stop = (
            "import conformance.checks.diagnose as late, time;",
            "late.shrink = lambda *given: time.sleep(600);",
        )
        place = "from conformance.isolate"
        monkeypatch.setattr(isolate, "_CHILD", isolate._CHILD.replace(place, f"{start} {stop} {place}"))
        report = check_isolated(Request("nets.py:net"), Limits(seconds=40))
        assert report.outcome is Outcome.FAIL
        assert report.reason.startswith("L2.batch: batch 3: different by the field oracle")
        told = next(item for item in report.checks if item.id == "L2.batch").diagnosis
        assert told.problem == "the diagnosis was cut off: timed out after 40 s"
        assert told.divergence.kind == "Net"


# -- words ----------------------------------------------------------------------------------------


class TestWords:
    def test_there_and_back(self, net):
        groups = groups_of(net)
        for seed in range(5):
            choice = groups.sample(0.4, seed)
            assert from_words(to_words(choice), groups).removed == choice.removed
        assert to_words(groups.select([])) == ()
        assert to_words(groups.select([1, 3, 13])) == ("conv.weight:0:0,2", "mix.weight:0:0")

    @pytest.mark.parametrize("word", ["", "a", "a:0", "a:b:0", "a:0:", "a:0:1,", "a:0:-1", ":0:1"])
    def test_what_is_no_word(self, net, word):
        with pytest.raises(SelectionError, match="is not NAME:DIMENSION:POSITIONS"):
            from_words([word], groups_of(net))

    def test_through_the_runner(self, net):
        with pytest.raises(UsageError, match="no parameter or buffer named nobody"):
            check(_backend(net), remove=("nobody:0:1",))
        report = check(_backend(net), remove=("conv.weight:0:1",))
        assert report.outcome is Outcome.PASS, report.reason


class TestSentences:
    def test_of_a_divergence(self):
        found = Divergence(
            "a.b", "Conv2d", 2, 3, "the output", "m.py:7", 1, 8, state=("bias differs in 1 of 4 elements",)
        )
        assert str(found) == (
            "a.b (Conv2d, call 2 of 3): the output at m.py:7 differs in 1 of 8 elements; its bias differs in 1 of 4 elements"
        )

    def test_of_a_search_that_was_ended(self):
        found = Smallest(9, 40, words=tuple(f"w{n}:0:1" for n in range(9)), trials=200)
        assert str(found).endswith("and 1 more (200 trials; the search was ended before it was the smallest)")
        assert (
            str(Smallest(0, 4, minimal=True, trials=1))
            == "0 of 4 removed groups (it fails with nothing removed) (1 trial)"
        )

    def test_of_nothing(self):
        assert Diagnosis().lines() == []
