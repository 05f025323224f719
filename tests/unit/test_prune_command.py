"""`conformance prune`: from a line or a TOML file to a proved subnet on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cifar_files import write_cifar
from safetensors.torch import load_file, save_file

import conformance as pc
from backends.tasks import cifar
from conformance.cli.app import main
from conformance.cost import measured_flops
from conformance.errors import UsageError
from conformance.method.config import config, merged, read_config
from conformance.method.registry import method
from conformance.spec_loader import load
from reference_impls.oto import Criteria

SPEC = "handmade:conv-bn-relu"
ROOT = Path(__file__).resolve().parents[2]


def prune(*words: str) -> int:
    return main(["prune", *words])


def test_a_line_gives_a_subnet_that_can_be_loaded(tmp_path, capsys):
    assert prune(SPEC, "--method", "l2", "--budget", "groups=0.5", "--output", str(tmp_path)) == 0
    assert "equal" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["holds"]
    assert result["verdict"] == "equal"
    assert result["removed"]["groups"] >= 0.5
    backend = load(SPEC)
    args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
    model = backend.build().eval()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    subnet = pc.load_subnet(model, tmp_path, args, kwargs).eval()
    assert result["parameters"][1] == sum(p.numel() for p in subnet.parameters())
    torch.testing.assert_close(subnet(*args, **kwargs), model(*args, **kwargs))


def test_a_file_says_the_same_as_a_line_and_the_line_counts_more(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        f'model = "{SPEC}"\nmethod = "l1"\nbudget = "groups=0.25"\n[limits]\nmin_keep = 2\n[options]\nranking = "local"\n'
    )
    assert prune("--config", str(file), "--budget", "groups=0.5", "--output", str(tmp_path / "out")) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["config"]["budget"] == "groups=0.5"
    assert result["config"]["limits"]["min_keep"] == 2
    assert result["config"]["options"] == {"ranking": "local"}


@pytest.mark.parametrize(
    ("method", "word", "options"),
    [
        ("l1", "normalise=none", {"normalise": "none"}),
        ("slimming", "gamma_init=none", {"gamma_init": None}),
    ],
)
def test_an_option_can_be_none_by_name_and_by_value(method, word, options, tmp_path):
    line = ("small:resnet20-w4", "--method", method, "--budget", "groups=0.3", "--task", "digits", "--epochs", "0")
    assert prune(*line, "-o", word, "--output", str(tmp_path)) == 0
    assert json.loads((tmp_path / "result.json").read_text())["config"]["options"] == options


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_a_file_too(tmp_path, capsys, device):
    file = tmp_path / "run.toml"
    file.write_text(f'model = "{SPEC}"\nmethod = "l1"\nbudget = "groups=0.25"\ndevice = "{device}"\n')
    assert prune("--config", str(file), "--output", str(tmp_path / "out")) == 2
    assert f"{device}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_may_be_left_is_a_budget_too(tmp_path, capsys):
    line = (SPEC, "--method", "l2", "--output", str(tmp_path), "--budget")
    assert prune(*line, "params<=1") == 2
    assert "params<=1 cannot be reached: this model and these limits allow" in capsys.readouterr().err
    backend = load(SPEC)
    dense = sum(p.numel() for p in backend.build().parameters())
    assert prune(*line, f"params<={dense - 1}") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["config"]["budget"] == f"params<={dense - 1}"
    assert result["parameters"][1] < result["parameters"][0] == dense
    before, after = result["multiply_adds"]
    assert result["removed"]["macs"] == pytest.approx(1 - after / before)
    args, kwargs = backend.inputs(1, torch.Generator().manual_seed(0))
    model = backend.build().eval()
    assert before == measured_flops(model, pc.trace(model, args, kwargs)) / 2
    assert "multiply-adds of a sample: " in capsys.readouterr().out


def test_a_finished_run_is_not_repeated_and_another_one_refused(tmp_path, capsys):
    line = (SPEC, "--method", "l2", "--output", str(tmp_path), "--budget")
    assert prune(*line, "groups=0.5") == 0
    before = (tmp_path / "result.json").stat().st_mtime_ns
    assert prune(*line, "groups=0.5") == 0
    assert "nothing was repeated" in capsys.readouterr().out
    assert (tmp_path / "result.json").stat().st_mtime_ns == before
    assert prune(*line, "groups=0.25") == 2
    assert "holds the result of another run: budget" in capsys.readouterr().err


def test_a_result_that_cannot_be_written_does_not_cost_the_training(tmp_path, monkeypatch):
    from conformance.method import outcome

    write, full = outcome.write_together, [True]

    def refused(folder, files):
        if full and outcome.RESULT in files:
            raise OSError(28, "No space left on device")
        write(folder, files)

    line = ("small:resnet20-w4", "--method", "l2", "--budget", "macs=0.2", "--task", "digits?train=64&test=40")
    line = (*line, "--finetune-epochs", "1", "--batch", "32", "--output", str(tmp_path))
    monkeypatch.setattr(outcome, "write_together", refused)
    assert prune(*line) == 3
    assert list(tmp_path.glob("checkpoint-finetune*"))
    assert not (tmp_path / "result.json").exists()
    full.clear()
    seen = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *rest: seen.append(0) or step(self, *rest))
    assert prune(*line) == 0
    assert (tmp_path / "result.json").exists()
    assert not seen
    assert not list(tmp_path.glob("checkpoint-*"))


def test_given_weights_are_pruned(tmp_path):
    model = load(SPEC).build()
    state = {name: torch.full_like(tensor, 0.5) for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    line = (SPEC, "--method", "l2", "--budget", "groups=0.5", "--weights", str(tmp_path / "w.safetensors"))
    assert prune(*line, "--output", str(tmp_path / "out")) == 0
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(torch.cat([tensor.flatten().float() for tensor in written.values()]).unique().tolist()) <= {0.0, 0.5}


MINE = """
from dataclasses import dataclass
from typing import ClassVar, Literal

from conformance.method import DataNeed, Driver, Facts, Method


@dataclass(frozen=True)
class Mine(Method):
    facts: ClassVar[Facts] = Facts("mine", "for tests", Driver.POST, DataNeed.NONE, "none")
    power: int = 1
    needs: str = "nothing"

    def __post_init__(self):
        if self.power < 1:
            raise ValueError("power is at least 1")

    def score(self, run):
        assert isinstance(self.power, int)
        return run.units.norms() ** self.power


class Bare(Method):
    pass


def function():
    pass
"""


def test_a_method_may_be_a_class_in_a_file(tmp_path, capsys):
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(MINE)
    line = (SPEC, "--budget", "groups=0.5", "--output", str(out), "--method")
    assert prune(*line, f"{file}:Mine", "-o", "power=2") == 0
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["method"] == f"{file}:Mine"
    assert result["config"]["options"] == {"power": 2}
    assert result["facts"]["name"] == "mine"
    assert prune(*line, f"{file}:Mine", "-o", "power=2") == 0
    assert "nothing was repeated" in capsys.readouterr().out
    for name, option, reason in [
        ("Mine", "powr=2", "no option 'powr'; did you mean power?"),
        ("Mine", "power=0", "power is at least 1"),
        ("Mine", "power=x", "power is a number"),
        ("Other", "power=2", "Other"),
        ("function", "power=2", "is no class derived from conformance.method.Method"),
        ("Bare", "", "declares no facts"),
    ]:
        assert (
            prune(*line[:-2], str(tmp_path / "no"), "--method", f"{file}:{name}", *(["-o", option] if option else []))
            == 2
        )
        assert reason in capsys.readouterr().err


SMALL = "small:resnet20-w4"
SAID = "no --task is given: taylor runs on digits"


def test_digits_are_the_task_where_none_is_given_and_data_is_needed(tmp_path, capsys):
    line = (SMALL, "--method", "taylor", "--budget", "macs=0.3", "--output", str(tmp_path))
    assert prune(*line) == 0
    assert SAID in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["config"]["task"] == "digits"
    assert set(result["metrics"]) == {"before", "masked", "subnet"}
    assert prune(*line) == prune(*line, "--task", "digits") == 0
    shown = capsys.readouterr().out
    assert shown.count(SAID) == 1
    assert shown.count("nothing was repeated") == 2


def test_a_method_without_need_of_data_gets_no_task_unless_it_is_trained_with(tmp_path, capsys, monkeypatch):
    asked = []

    def execute(config, *_, **__):
        asked.append(config.task)
        raise UsageError("enough")

    monkeypatch.setattr("conformance.method.execute.execute", execute)
    line = (SMALL, "--method", "l2", "--budget", "macs=0.3", "--output", str(tmp_path))
    for words in ([], ["--finetune-epochs", "1"], ["--dense-epochs", "1"]):
        assert prune(*line, *words) == 2
    assert asked == [None, "digits", "digits"]


@pytest.mark.parametrize(
    ("spec", "words", "reason"),
    [
        (SPEC, ["--method", "taylor"], "taylor needs labelled batches, and the default task will not do"),
        (SPEC, ["--method", "l2", "--dense-epochs", "1"], "l2 needs training, and the default task will not do"),
        (SMALL, ["--method", "taylor", "--data", "x"], "--data says where a task looks"),
    ],
)
def test_where_digits_do_not_fit_the_tasks_are_named(spec, words, reason, tmp_path, capsys):
    assert prune(spec, *words, "--budget", "macs=0.3", "--output", str(tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "give --task, one of cifar10, cifar100, digits" in error
    assert not (tmp_path / "out").exists()
    assert prune("small:nothing", *words, "--budget", "macs=0.3", "--output", str(tmp_path / "out")) == 2
    assert "--task, one of" not in capsys.readouterr().err or "--data" in reason


def test_how_often_a_state_is_saved_is_told_to_the_run(tmp_path, monkeypatch):
    asked = []

    def execute(config, folder, *, every, progress):
        asked.append(every)
        raise UsageError("enough")

    monkeypatch.setattr("conformance.method.execute.execute", execute)
    line = (SPEC, "--method", "l2", "--budget", "macs=0.5", "--output", str(tmp_path))
    assert prune(*line) == prune(*line, "--save-every", "2.5") == prune(*line, "--save-every", "-1") == 2
    assert asked == [60.0, 2.5]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--method", "l2"], "give --budget"),
        (["--budget", "macs=0.5"], "give --method"),
        (["--method", "l3", "--budget", "macs=0.5"], "there is no method named 'l3'; did you mean"),
        (["--method", "l2", "--budget", "macs"], "is no budget"),
        (["--method", "l2", "--budget", "params=0.9999"], "cannot be reached"),
        (["--method", "l2", "--budget", "macs=0.5", "-o", "rank=local"], "no option 'rank'; did you mean ranking"),
        (["--method", "l2", "--budget", "macs=0.5", "-o", "ranking"], "is not OPTION=VALUE"),
        (["--method", "l2", "--budget", "macs=0.5", "-o", "ranking=localy"], "but no 'localy'"),
        (["--method", "l2", "--budget", "macs=0.5", "-o", "reduce=none"], "but no 'none'"),
        (["--method", "l2", "--budget", "macs=0.5", "-o", "steps=none"], "steps is a number or true/false, not 'none'"),
        (["--method", "l2", "--budget", "macs=0.5", "--task", "imagnet"], "there is no task named 'imagnet'"),
        (["--method", "l2", "--budget", "macs=0.5", "--ignore", "layer9"], "matches 'layer9'"),
        (["--method", "l2", "--budget", "macs=0.5", "--weights", "missing.safetensors"], "does not hold this model's"),
        (["--method", "l2", "--budget", "macs=0.5", "--config", "missing.toml"], "cannot be read"),
        (["--method", "l2", "--budget", "macs=0.5", "--save-every", "-1"], "--save-every is 0 or more seconds"),
        (["--method", "l2", "--budget", "macs=0.5", "--device", "foo"], "--device 'foo' is no device"),
        (["--method", "l2", "--budget", "macs=0.5", "--device", "meta"], "--device meta holds no values"),
        (["--method", "l2", "--budget", "macs=0.5", "--device", "cuda:99"], "--device cuda:99 cannot be used here"),
    ],
)
def test_wrong_lines_end_with_2_and_one_sentence(words, reason, tmp_path, capsys):
    assert prune(SPEC, *words, "--output", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) == 1


def test_a_config_names_what_is_wrong_in_it(tmp_path):
    good = {"model": SPEC, "method": "l2", "budget": "macs=0.5"}
    assert config(good).recipe.epochs == 1
    for wrong, reason in [
        ({"metod": "l1"}, "metod is no entry of a run; did you mean method"),
        ({"recipe": {"epoch": 3}}, r"recipe.epoch is no entry of a run; did you mean recipe.epochs"),
        ({"recipe": {"epochs": "many"}}, "recipe.epochs"),
        ({"limits": {"round": 3}}, "limits.round"),
        ({"seed": "x"}, "seed"),
    ]:
        with pytest.raises(UsageError, match=reason):
            config({**good, **wrong})
    (tmp_path / "a.toml").write_text("model = ")
    with pytest.raises(UsageError, match="is no TOML"):
        read_config(tmp_path / "a.toml")
    assert merged({"a": {"x": 1, "y": 2}}, over={"a": {"y": 3, "x": None}}) == {"a": {"x": 1, "y": 3}}


RECIPES = ROOT / "reference_impls" / "recipes"


@pytest.mark.slow
def test_the_hesso_recipe_runs_from_end_to_end(tmp_path):
    """Shrunk by what a line can say: a narrow model, few images, as many steps as its ten periods need."""
    write_cifar(tmp_path / "data", cifar.CIFAR10)
    task = "cifar10?train=128&validation=20&test=40"
    words = ["small:resnet18-w4", "--config", str(RECIPES / "hesso-resnet18-cifar10.toml"), "--task", task]
    words += ["--data", str(tmp_path / "data"), "--device", "cpu", "--epochs", "14", "--batch", "16"]
    assert prune(*words, "--output", str(tmp_path / "out")) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["verdict"] == "equal"
    assert 0.7 <= result["removed"]["groups"] < 0.71
    assert result["config"]["recipe"]["momentum"] == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if "lr" in row]
    assert len(rates) == 14 * 8
    assert rates[54] == pytest.approx(0.1)
    assert rates[56] == pytest.approx(0.01)


def test_the_hesso_recipe_has_the_published_weights():
    tables = read_config(RECIPES / "hesso-resnet18-cifar10.toml")
    made = method(tables["method"], **tables["options"])
    assert made.criteria == Criteria(0.2, 0.2, 0.2, 0.2, 0.2, 1)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_sound(path):
    """Everything of them but the data: names, options, budgets, and the model they are for."""
    from conformance.method.registry import method

    made = config(read_config(path))
    method(made.method, **made.options)
    assert 0 < made.parsed_budget.remove < 1
    model = load(made.model).build()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(11.17e6, rel=0.01)
