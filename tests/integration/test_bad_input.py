"""What a user can get wrong, through the real command: one clear sentence, the right exit code, no debris.

Every model here is tiny. Most run in this process; those that must be killed run in their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from conformance.cli.app import main
from conformance.report import files
from conformance.report.schema import ModelReport, Outcome, Report

MODELS = '''
import os
import signal
import time

import torch
from torch import nn
from torch.nn import functional as F


def net():
    return nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 2))


class Around(nn.Module):
    """A sound net in a forward that does something else besides."""

    def __init__(self, forward):
        super().__init__()
        self.net = net()
        self.register_buffer("seen", torch.zeros(1))
        self.around = forward

    def forward(self, x):
        return self.around(self, x)


def around(forward):
    return Around(forward), torch.randn(2, 3)


def good():
    return net(), torch.randn(2, 3)


# The callable is wrong.

def raising():
    raise OSError("there are no such weights\\nand a second line")

def leaving():
    raise SystemExit("not today")

def number():
    return 7

def listed():
    return net(), [torch.randn(2, 3)]

def worded():
    return net(), ("words",)

def bare():
    return net()

def wants(width):
    return net()

BUILT = net()


# The inputs do not fit.

def narrow():
    return net(), torch.randn(2, 5)

def whole_numbers():
    return net(), torch.ones(2, 3, dtype=torch.long)

def another_name():
    return net(), {"pixels": torch.randn(2, 3)}


# The forward pass is wrong.

def broken():
    def forward(self, x):
        raise RuntimeError("a layer is missing\\nand a second line")
    return around(forward)

def endless():
    return around(lambda self, x: self(x))

def gigantic():
    return around(lambda self, x: self.net(x) + torch.ones(1 << 50).sum())

def text():
    return around(lambda self, x: "words")

def nothing():
    return around(lambda self, x: None)

def lists():
    return around(lambda self, x: self.net(x).tolist())

def not_a_number():
    return around(lambda self, x: self.net(x) * float("nan"))

GIVEN = torch.ones(2, 3)

def writes_its_input():
    def forward(self, x):
        x.mul_(2)
        return self.net(x)
    return Around(forward), GIVEN

def counts():
    def forward(self, x):
        self.seen += 1
        return self.net(x)
    return around(forward)

def counts_anew():
    def forward(self, x):
        self.seen = self.seen + 1
        return self.net(x)
    return around(forward)

class StillTraining(nn.BatchNorm1d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)

def batch_statistics():
    return nn.Sequential(nn.Linear(3, 16), StillTraining(16), nn.Linear(16, 2)), torch.randn(2, 3)

def learns():
    def forward(self, x):
        self.net[0].weight.data.mul_(0.5)
        return self.net(x)
    return around(forward)

def noise():
    return around(lambda self, x: self.net(x) + torch.randn(2, 2))

def forgets_nothing():
    calls = []
    def forward(self, x):
        calls.append(x)
        return self.net(x) * len(calls)
    return around(forward)

def dropout():
    return around(lambda self, x: F.dropout(self.net(x), 0.5, training=True))


# The weights are wrong.

def weightless():
    return nn.Sequential(nn.ReLU()), torch.randn(2, 3)

def poisoned(value):
    model = net()
    model[2].weight.data[1, 1] = value
    return model, torch.randn(2, 3)

def nan_weight():
    return poisoned(float("nan"))

def infinite_weight():
    return poisoned(float("inf"))

def nan_buffer():
    model = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    model[1].running_mean[3] = float("nan")
    return model, torch.randn(2, 3)


# Nothing can be pruned, or nothing can be decided.

def one_layer():
    return nn.Linear(3, 2), torch.randn(2, 3)

def softmaxed():
    return nn.Sequential(nn.Linear(3, 16), nn.Softmax(-1), nn.Linear(16, 2)), torch.randn(2, 3)

def no_rule():
    return around(lambda self, x: self.net(x) + torch.linalg.matrix_exp(self.net[2].weight @ self.net[2].weight.T)[0])


# The process does not survive.

def eats():
    def forward(self, x):
        held = []
        while True:
            held.append(torch.ones(20_000_000))
            time.sleep(0.02)
    return around(forward)

def sleeps():
    def forward(self, x):
        time.sleep(600)
        return self.net(x)
    return around(forward)

def dies():
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)
    return around(forward)

def leaves():
    def forward(self, x):
        raise SystemExit(5)
    return around(forward)
'''


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty working directory with the models' file in it; plain output."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text(MODELS)
    yield tmp_path
    sys.modules.pop("_conformance_user_bad", None)


def run(capsys, *arguments):
    """Exit code, standard output and standard error; a traceback is never an answer."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def left_behind(folder: Path) -> set[str]:
    """Every file below the folder, hidden ones too, but for the models' own and Python's caches."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path} - {"bad.py"}


def reported(folder: Path) -> list[ModelReport]:
    """The models of the report, which is whole: two files and nothing beside them."""
    assert left_behind(folder) == {"out/report.json", "out/report.md"}
    assert "# " in Path("out/report.md").read_text()
    return Report.model_validate_json(Path("out/report.json").read_text()).models


class TestUsage:
    """Exit code 2: one sentence on standard error, nothing on standard output and on the disk."""

    def refused(self, capsys, folder, *arguments) -> str:
        code, out, err = run(capsys, "check", *arguments)
        assert code == 2
        assert out == ""
        assert left_behind(folder) == set()
        assert err.startswith("error: ")
        assert len(err.strip().splitlines()) == 1
        return err

    @pytest.mark.parametrize(
        "spec",
        [
            "handmade:concat",
            pytest.param("torchvision:resnet18", marks=pytest.mark.zoo),
            pytest.param("timm:resnet18", marks=pytest.mark.zoo),
            pytest.param("transformers:bert", marks=pytest.mark.zoo),
        ],
    )
    def test_two_letters_exchanged_in_a_zoo_name(self, capsys, folder, spec):
        wrong = spec[:-2] + spec[-1] + spec[-2]
        err = self.refused(capsys, folder, wrong, "--in-process", "--report", "out")
        prefix, _, name = wrong.partition(":")
        what, _, near = err.partition("; did you mean ")
        assert what == f"error: {prefix} has no model named {name!r}"
        assert spec in near.rstrip("?\n").split(", ")

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("handmade:zzzzzzzz", "handmade has no model named 'zzzzzzzz'\n"),
            ("torchvison:resnet18", "did you mean torchvision?"),
            ("missing.py:build", "there is no file missing.py"),
            ("bad.py", "'bad.py' is no SPEC"),
            ("bad.py:", "'bad.py:' is no SPEC"),
            ("bad.py:goood", "bad.py has no callable 'goood'; did you mean good"),
            ("bad.py:zzzzzzzz", "bad.py has no callable 'zzzzzzzz'\n"),
            ("bad.py:BUILT", "bad.py:BUILT is a module; give a function that builds and returns it"),
            ("bad.py:GIVEN", "bad.py:GIVEN is a Tensor, not a callable"),
            ("bad.py:wants", "bad.py:wants needs the argument width"),
            ("bad.py:raising", "bad.py:raising raised OSError: there are no such weights\n"),
            ("bad.py:leaving", "bad.py:leaving raised SystemExit: not today"),
            ("bad.py:number", "not a torch.nn.Module or (module, inputs)"),
            ("bad.py:listed", "inputs of type list: give a tensor, a tuple, a dict or (tuple, dict)"),
            ("bad.py:worded", "bad.py:worded returned inputs without any tensor"),
            ("bad.py:bare", "bad.py:bare returned no inputs: give --input-shape"),
        ],
    )
    def test_a_spec_that_cannot_be_loaded(self, capsys, folder, spec, words):
        assert words in self.refused(capsys, folder, spec, "--in-process", "--report", "out")

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("def build(:\n", "running wrong.py raised SyntaxError"),
            ("import no_such_library_anywhere\n", "raised ModuleNotFoundError: No module named 'no_such_library"),
            ("raise SystemExit(3)\n", "running wrong.py raised SystemExit: 3"),
        ],
    )
    def test_a_file_that_does_not_run(self, capsys, folder, source, words):
        Path("wrong.py").write_text(source)
        code, out, err = run(capsys, "check", "wrong.py:build", "--in-process", "--report", "out")
        assert (code, out) == (2, "")
        assert words in err
        assert left_behind(folder) == {"wrong.py"}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--only", "L9.*"], "no check of level 2 matches 'L9.*'"),
            (["--device", "toaster"], "--device 'toaster' is no device, give cpu, cuda, cuda:N or mps"),
            (["--device", "meta"], "--device meta holds no values"),
            (["--input-shape", "3,,4"], "--input-shape '3,,4' is not positive sizes"),
            (["--input-shape", "-3"], "--input-shape '-3' is not positive sizes"),
        ],
    )
    def test_an_option_that_means_nothing(self, capsys, folder, options, words):
        assert words in self.refused(capsys, folder, "bad.py:good", "--in-process", "--report", "out", *options)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test asks for in vain")
    def test_a_device_that_is_not_there(self, capsys, folder):
        err = self.refused(capsys, folder, "bad.py:good", "--in-process", "--report", "out", "--device", "cuda")
        assert "--device cuda cannot be used here" in err

    def test_a_dtype_that_is_not_there(self, capsys, folder):
        code, out, err = run(capsys, "check", "bad.py:good", "--in-process", "--report", "out", "--dtype", "int8")
        assert (code, out) == (2, "")
        assert "'int8' is not one of" in err
        assert left_behind(folder) == set()

    def test_a_shape_that_the_zoo_model_cannot_take(self, capsys, folder):
        err = self.refused(capsys, folder, "handmade:concat", "--in-process", "--input-shape", "7", "--report", "out")
        assert "handmade:concat takes an input shape of 3 positive sizes" in err

    def test_a_report_that_cannot_be_written_is_said_before_any_work(self, capsys, folder):
        Path("taken").write_text("mine")
        code, out, err = run(capsys, "check", "bad.py:raising", "--in-process", "--report", "taken/out")
        assert (code, out) == (2, "")
        assert err.startswith("error: nothing can be written to taken/out")  # and not that the model raises
        assert left_behind(folder) == {"taken"}
        assert Path("taken").read_text() == "mine"


class TestVerdicts:
    """A model that can be loaded always gets a whole report; what is wrong with it decides the code."""

    def checked(self, capsys, folder, name, *options) -> tuple[int, ModelReport, str]:
        code, out, err = run(capsys, "check", f"bad.py:{name}", "--in-process", "--report", "out", *options)
        assert err == ""
        (found,) = reported(folder)
        assert out.splitlines()[0].startswith(f"bad.py:{name} ")
        assert found.reason in out.splitlines()[0]
        assert "\n" not in found.reason
        return code, found, out

    def test_the_net_all_the_others_are_made_of_conforms(self, capsys, folder):
        code, found, _ = self.checked(capsys, folder, "good")
        assert (code, found.outcome, found.reason) == (0, Outcome.PASS, "")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("weightless", "L0.state: the model has no parameters"),
            ("nan_weight", "L0.state: 2.weight holds NaN"),
            ("infinite_weight", "L0.state: 2.weight holds infinite values"),
            ("nan_buffer", "L0.state: 1.running_mean holds NaN"),
            ("narrow", "L0.forward: the forward pass raised RuntimeError: mat1 and mat2 shapes"),
            (
                "whole_numbers",
                "L0.forward: the forward pass raised RuntimeError: mat1 and mat2 must have the same dtype",
            ),
            ("another_name", "L0.forward: the forward pass raised TypeError: Sequential.forward() got an unexpected"),
            ("broken", "L0.forward: the forward pass raised RuntimeError: a layer is missing"),
            ("endless", "L0.forward: the forward pass raised RecursionError"),
            ("gigantic", "L0.forward: the forward pass raised RuntimeError: "),
            ("text", "L0.forward: the model returns no tensors"),
            ("nothing", "L0.forward: the model returns no tensors"),
            ("lists", "L0.forward: the model returns no tensors"),
            ("not_a_number", "L0.forward: the outputs hold NaN"),
            ("writes_its_input", "L0.forward: the forward pass changes its own input"),
            ("counts", "L0.forward: the forward pass changes the model's state in evaluation mode: seen"),
            ("counts_anew", "L0.forward: the forward pass changes the model's state in evaluation mode: seen"),
            (
                "batch_statistics",
                "L0.forward: the forward pass changes the model's state in evaluation mode: 1.running_mean, 1.running_var",
            ),
            ("learns", "L0.forward: the forward pass changes the model's state in evaluation mode: net.0.weight"),
            ("forgets_nothing", "L0.deterministic: output 0 differs between two evaluations"),
        ],
    )
    def test_a_model_that_breaks_a_rule(self, capsys, folder, name, reason):
        code, found, out = self.checked(capsys, folder, name)
        assert (code, found.outcome) == (1, Outcome.FAIL)
        assert found.reason.replace("addmm: ", "").startswith(reason)  # some versions of torch say what raised it
        assert f"repeat with: conformance check bad.py:{name} " in out
        higher = {check.outcome for check in found.checks if check.level > 0}
        assert higher == {Outcome.SKIPPED}  # nothing is claimed about what stands on a broken level

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("one_layer", "everything is held back, most by this: is an output of the model"),
            ("softmaxed", "everything is held back, most by this: is the domain of a softmax: aten._softmax in 1"),
        ],
    )
    def test_a_model_with_nothing_to_prune_is_unsupported_with_the_reason(self, capsys, folder, name, reason):
        code, found, _ = self.checked(capsys, folder, name)
        assert (code, found.outcome) == (1, Outcome.UNSUPPORTED)
        assert found.reason.startswith(f"L1.groups: no group was found: {reason}")
        assert found.held_back
        assert {check.outcome for check in found.checks if check.level == 2} == {Outcome.SKIPPED}

    @pytest.mark.parametrize("name", ["noise", "dropout"])
    def test_random_numbers_in_evaluation_mode_are_no_pass(self, capsys, folder, name):
        code, found, _ = self.checked(capsys, folder, name)
        assert (code, found.outcome) == (1, Outcome.UNSUPPORTED)
        assert found.reason == (
            "L0.deterministic: output 0 depends on the random state: the model draws random numbers"
        )
        assert {check.outcome for check in found.checks if check.level > 0} == {Outcome.SKIPPED}

    def test_an_operation_without_an_exact_rule_is_no_pass(self, capsys, folder):
        code, found, _ = self.checked(capsys, folder, "no_rule")
        assert (code, found.outcome) == (1, Outcome.UNSUPPORTED)
        assert "unsupported by the field oracle: aten.linalg_matrix_exp: no exact rule" in found.reason
        assert "has no rule: aten.linalg_matrix_exp" in " ".join(row.reason for row in found.held_back)

    def test_inputs_of_the_wrong_shape_from_the_command_line(self, capsys, folder):
        code, found, _ = self.checked(capsys, folder, "bare", "--input-shape", "5")
        assert (code, found.outcome) == (1, Outcome.FAIL)
        assert "shapes cannot be multiplied (2x5 and 3x16)" in found.reason

    def test_the_users_own_tensor_survives_a_model_that_writes_to_it(self, capsys, folder):
        self.checked(capsys, folder, "writes_its_input")
        assert torch.equal(sys.modules["_conformance_user_bad"].GIVEN, torch.ones(2, 3))


class TestSeveral:
    """One bad model among others: each is reported, the worst decides the code."""

    def test_all_end_and_are_reported_in_their_order(self, capsys, folder):
        specs = [f"bad.py:{name}" for name in ("nan_weight", "one_layer", "good", "broken")]
        code, out, err = run(capsys, "check", *specs, "--in-process", "--report", "out")
        assert (code, err) == (1, "")
        found = reported(folder)
        assert [model.spec for model in found] == specs
        assert [model.outcome for model in found] == [Outcome.FAIL, Outcome.UNSUPPORTED, Outcome.PASS, Outcome.FAIL]
        assert all(spec in out for spec in specs)

    @pytest.mark.slow
    def test_limits_and_crashes_end_one_model_and_not_the_others(self, capsys, folder):
        expected = {
            "sleeps": "timed out after 40 s",
            "eats": "out of memory: used over 2 GiB",
            "dies": "the process ended by signal 9 (SIGKILL",
            "leaves": "L0.forward: the forward pass raised SystemExit: 5",
            "broken": "L0.forward: the forward pass raised RuntimeError: a layer is missing",
            "good": "",
        }
        specs = [f"bad.py:{name}" for name in expected]
        limits = ["--timeout", "40", "--memory", "2", "--jobs", "2"]
        code, out, err = run(capsys, "check", *specs, *limits, "--report", "out")
        found = reported(folder)
        assert [model.spec for model in found] == specs
        for model, reason in zip(found, expected.values(), strict=True):
            assert model.reason.startswith(reason)
            assert model.reason in out
        assert [model.outcome for model in found] == [Outcome.ERROR] * 3 + [Outcome.FAIL, Outcome.FAIL, Outcome.PASS]
        assert found[-1].reason == ""
        assert (code, err) == (3, "")

    def test_one_that_cannot_be_loaded_is_a_usage_error_after_the_others_ran(self, capsys, folder):
        specs = ["bad.py:raising", "bad.py:good"]
        code, out, err = run(capsys, "check", *specs, "--in-process", "--report", "out")
        assert code == 2
        assert err == "error: bad.py:raising raised OSError: there are no such weights\n"
        assert [model.outcome for model in reported(folder)] == [Outcome.ERROR, Outcome.PASS]
        assert "bad.py:good conforms" in out

    def test_one_that_cannot_exist_is_refused_before_the_others_run(self, capsys, folder):
        code, out, err = run(capsys, "check", "bad.py:good", "missing.py:x", "--in-process", "--report", "out")
        assert (code, out) == (2, "")
        assert "there is no file missing.py" in err
        assert left_behind(folder) == set()


class TestReports:
    """The disk fills up while the report is written: both files or none, and the old ones stay."""

    @pytest.fixture
    def full_disk(self, monkeypatch):
        """The second of the two files no longer fits."""
        real, written = files._write, []

        def write(path, text):
            written.append(path)
            if len(written) == 2:
                path.write_text(text[: len(text) // 2])
                raise OSError(28, "No space left on device")
            real(path, text)

        monkeypatch.setattr(files, "_write", write)

    def failed(self, capsys):
        code, _, err = run(
            capsys, "check", "bad.py:good", "--level", "0", "--in-process", "--report", "out", "--seed", "7"
        )
        assert code == 3
        assert "No space left on device" in err
        assert len(err.strip().splitlines()) == 1

    @pytest.mark.usefixtures("full_disk")
    def test_no_half_of_a_first_report(self, capsys, folder):
        self.failed(capsys)
        assert left_behind(folder) == set()

    def test_the_report_before_stays_whole(self, capsys, folder, request):
        assert run(capsys, "check", "bad.py:good", "--level", "0", "--in-process", "--report", "out")[0] == 0
        before = {path.name: path.read_text() for path in Path("out").iterdir()}
        request.getfixturevalue("full_disk")
        self.failed(capsys)
        assert reported(folder)[0].seed == 0
        assert {path.name: path.read_text() for path in Path("out").iterdir()} == before

    def test_what_is_written_is_json_without_not_a_number(self, capsys, folder):
        """Python's JSON writer would put NaN there, which other readers refuse."""
        run(capsys, "check", "bad.py:not_a_number", "bad.py:good", "--in-process", "--report", "out")

        def refuse(word):
            raise AssertionError(f"{word} in the report")

        assert json.loads(Path("out/report.json").read_text(), parse_constant=refuse)["models"]
