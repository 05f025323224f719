"""`conformance extract` and `verify` from end to end: what is written, what is proved again, what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import conformance as pc
from conformance.cli.app import main
from conformance.deploy import prove
from conformance.deploy.plan import PLAN_FILE, WEIGHTS_FILE, read_plan
from conformance.equivalence.verdict import Status, Verdict
from conformance.spec_loader import load

MODELS = """
import torch
from torch import nn


def net(width=16):
    return nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, 2))

def good():
    return net(), torch.randn(2, 3)

def other():
    return net(12), torch.randn(2, 3)

def bare():
    return net()

def one_layer():
    return nn.Linear(3, 2), torch.randn(2, 3)

def raising():
    raise OSError("there are no such weights\\nand a second line")

def narrow():
    return net(), torch.randn(2, 5)

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        y = self.net(x)
        return y + torch.linalg.matrix_exp(self.net[2].weight @ self.net[2].weight.T)[0]

def no_rule():
    return Odd(), torch.randn(2, 3)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(MODELS)
    yield tmp_path
    sys.modules.pop("_conformance_user_nets", None)


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def written() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file() and "__pycache__" not in str(path)} - {"nets.py"}


PAIR = {f"out/{PLAN_FILE}", f"out/{WEIGHTS_FILE}"}


class TestExtract:
    def test_writes_a_proved_pair(self, capsys):
        code, out, err = run(capsys, "extract", "nets.py:good", "--output", "out")
        assert (code, err) == (0, "")
        assert "the subnet is equal by the field oracle, 4 elements compared" in out
        assert "wrote out/plan.json and out/subnet.safetensors" in out
        assert written() == PAIR
        plan = read_plan("out")
        assert (plan.verdict.status, plan.verdict.oracle) == ("equal", "field")
        assert safetensors.torch.load_file(f"out/{WEIGHTS_FILE}")["0.weight"].shape == (8, 3)

    def test_the_weights_are_the_builders(self, capsys):
        """A bias of zeros, which checks redraw, is deployed as it is."""
        Path("nets.py").write_text(
            MODELS + "\ndef zeros():\n    m = net(); nn.init.zeros_(m[0].bias)\n    return m, torch.randn(2, 3)\n"
        )
        assert run(capsys, "extract", "nets.py:zeros", "--output", "out")[0] == 0
        assert not safetensors.torch.load_file(f"out/{WEIGHTS_FILE}")["0.bias"].any()

    @pytest.mark.parametrize(("fraction", "kept"), [("0.25", 12), ("0.5", 8), ("1", 1)])
    def test_how_much(self, capsys, fraction, kept):
        assert run(capsys, "extract", "nets.py:good", "--fraction", fraction, "--output", "out")[0] == 0
        assert read_plan("out").weights.tensors["0.bias"].shape == (kept,)

    def test_a_selection_from_a_file(self, capsys):
        model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.GELU(), torch.nn.Linear(16, 2))
        groups = pc.partition(pc.trace(model, torch.randn(2, 3)))
        Path("choice.json").write_text(groups.select([3, 7, 8]).to_json())
        assert run(capsys, "extract", "nets.py:good", "--selection", "choice.json", "--output", "out")[0] == 0
        assert read_plan("out").slices["0.bias"] == {0: (2, 6, 7)}
        assert run(capsys, "verify", "nets.py:good", "out")[0] == 0

    def test_a_shape_from_the_command_line(self, capsys):
        assert run(capsys, "extract", "nets.py:bare", "--input-shape", "7,3", "--output", "out")[0] == 0
        assert read_plan("out").tape.inputs[0].shape == (2, 7, 3)
        assert run(capsys, "verify", "nets.py:bare", "out", "--input-shape", "7,3")[0] == 0

    def test_replaces_an_earlier_pair(self, capsys):
        for seed in (0, 1):
            assert run(capsys, "extract", "nets.py:good", "--output", "out", "--seed", seed)[0] == 0
        assert written() == PAIR
        assert run(capsys, "verify", "nets.py:good", "out", "--seed", "1")[0] == 0

    @pytest.mark.parametrize("status", [Status.DIFFERENT, Status.UNSUPPORTED])
    def test_what_is_not_equal_is_not_written(self, capsys, monkeypatch, status):
        monkeypatch.setattr(prove, "equivalent", lambda *args, **kwargs: Verdict(status, "field", "planted"))
        code, out, err = run(capsys, "extract", "nets.py:good", "--output", "out")
        assert (code, err) == (1, "")
        assert f"the subnet is {status.value} by the field oracle: planted" in out
        assert "nothing was written" in out
        assert written() == set()

    def test_what_cannot_be_decided_is_not_written(self, capsys):
        code, out, err = run(capsys, "extract", "nets.py:no_rule", "--output", "out")
        assert (code, err) == (1, "")
        assert "the subnet is unsupported by the field oracle: aten.linalg_matrix_exp: no exact rule" in out
        assert written() == set()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["word"], "'word' is no SPEC"),
            (["missing.py:x"], "there is no file missing.py"),
            (["nets.py:goood"], "did you mean good"),
            (["nets.py:raising"], "nets.py:raising raised OSError: there are no such weights\n"),
            (["nets.py:bare"], "returned no inputs: give --input-shape"),
            (["nets.py:one_layer"], "nothing can be removed from nets.py:one_layer"),
            (["nets.py:good", "--fraction", "0"], "the selection removes nothing from nets.py:good"),
            (["nets.py:good", "--fraction", "0.5", "--selection", "x"], "give --fraction or --selection, not both"),
            (["nets.py:good", "--selection", "none.json"], "none.json cannot be read: No such file"),
            (["nets.py:good", "--selection", "."], ". cannot be read: Is a directory"),
            (["nets.py:good", "--selection", "nets.py"], "the selection does not fit nets.py:good: not a selection"),
            (["nets.py:good", "--selection", "binary"], "binary cannot be read: it is no text"),
            (["nets.py:good", "--selection", "choice.json"], "the selection does not fit nets.py:good: "),
            (["nets.py:good", "--input-shape", "x"], "--input-shape 'x' is not positive sizes"),
        ],
    )
    def test_refuses_in_one_sentence(self, capsys, arguments, words):
        other = torch.nn.Sequential(torch.nn.Linear(3, 30), torch.nn.GELU(), torch.nn.Linear(30, 2))
        groups = pc.partition(pc.trace(other, torch.randn(2, 3)))
        Path("choice.json").write_text(groups.select([30]).to_json())
        Path("binary").write_bytes(b"\xff\xfe\x00")
        code, out, err = run(capsys, "extract", *arguments, "--output", "out")
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.strip().splitlines()) == 1
        assert not written() & PAIR

    @pytest.mark.parametrize(
        "options", [[], ["--output", "out", "--fraction", "1.5"], ["--output", "out", "--seed", "-1"]]
    )
    def test_options_that_mean_nothing(self, capsys, options):
        assert run(capsys, "extract", "nets.py:good", *options)[0] == 2
        assert written() == set()

    def test_a_place_that_cannot_be_written_is_said_before_the_work(self, capsys):
        Path("taken").write_text("mine")
        code, _, err = run(capsys, "extract", "nets.py:narrow", "--output", "taken/out")
        assert code == 2
        assert "nothing can be written to taken/out" in err

    def test_a_model_that_cannot_be_run(self, capsys):
        code, _, err = run(capsys, "extract", "nets.py:narrow", "--output", "out")
        assert code == 3
        assert "the model's forward raised" in err
        assert written() == set()


class TestVerify:
    @pytest.fixture(autouse=True)
    def _extracted(self, capsys, folder):
        assert run(capsys, "extract", "nets.py:good", "--output", "out", "--seed", "4")[0] == 0

    def test_proves_again(self, capsys):
        code, out, err = run(capsys, "verify", "nets.py:good", "out", "--seed", "4")
        assert (code, err) == (0, "")
        assert "the subnet is equal by the field oracle, 4 elements compared" in out
        assert "  kind: same class" in out

    def test_other_weights_are_different(self, capsys):
        code, out, err = run(capsys, "verify", "nets.py:good", "out", "--seed", "5")
        assert (code, err) == (1, "")
        assert "the subnet is different by the field oracle: output 0" in out

    def test_one_bit_of_one_weight_is_different(self, capsys):
        """The files agree with each other, and are not those of the model."""
        model, inputs = prove.built(load("nets.py:good"), 4)
        found = pc.partition(pc.trace(model, *inputs)).sample(0.5, 4)
        subnet = pc.load_subnet(model, "out")
        with torch.no_grad():
            subnet[2].bias[0] = torch.nextafter(subnet[2].bias[0], torch.tensor(9.0))
        pc.save_subnet(subnet, "out", found)
        assert run(capsys, "verify", "nets.py:good", "out", "--seed", "4")[0] == 1

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda: shutil.rmtree("out"), "out/plan.json cannot be read: No such file"),
            (lambda: Path("out", WEIGHTS_FILE).unlink(), "out/subnet.safetensors cannot be read: No such file"),
            (lambda: Path("out", WEIGHTS_FILE).write_bytes(b"short"), "has 5 bytes, the plan's has"),
            (lambda: Path("out", PLAN_FILE).write_text("{}"), "is not the plan of a subnet"),
            (lambda: Path("out", PLAN_FILE).write_text("words"), "it is no JSON text"),
            (lambda: edit(lambda data: data.update(kind="graph")), "its digest is not that of its content"),
            (lambda: edit(lambda data: data.update(version=9)), "has version '9'; this release reads version 1"),
        ],
    )
    def test_damaged_files(self, capsys, damage, words):
        damage()
        self.refused(capsys, "nets.py:good", words)

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("nets.py:other", "this is another model: 0.weight is float32 of shape (12, 3)"),
            ("nets.py:one_layer", "this is another model: it has no parameter 0.weight"),
            ("nets.py:goood", "did you mean good"),
        ],
    )
    def test_another_model(self, capsys, spec, words):
        self.refused(capsys, spec, words)

    def refused(self, capsys, spec, words):
        code, out, err = run(capsys, "verify", spec, "out", "--seed", "4")
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.strip().splitlines()) == 1


def edit(change) -> None:
    data = json.loads(Path("out", PLAN_FILE).read_text())
    change(data)
    Path("out", PLAN_FILE).write_text(json.dumps(data))


@pytest.mark.parametrize("command", ["extract", "verify"])
def test_help_says_that_user_code_runs_and_how_it_ends(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    words = " ".join(out.split())
    assert code == 0
    assert "Runs the code in SPEC" in words
    assert "Ends with 0 when" in words
