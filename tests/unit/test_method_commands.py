"""`conformance methods` and `method-check`: what they list, refuse, resume and write."""

from __future__ import annotations

import json

import pytest

from conformance.cli import methods as commands
from conformance.cli.app import main
from conformance.cli.run import Finished
from conformance.isolate import Request, check_here, failed
from conformance.method.registry import methods as registered
from conformance.report.build import headline, summary_table
from conformance.report.schema import CheckResult, MethodFacts, ModelReport, Outcome

MLP = "handmade:mlp"


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def report(request: Request, outcome: Outcome = Outcome.PASS) -> ModelReport:
    check = CheckResult(
        id="M.zero", title="zero", level=1, severity="MUST", spec="docs/spec.md#mzero", outcome=outcome, exercised=1
    )
    facts = MethodFacts(name=request.method, summary="a | b", driver="post", data="D0", granularity="group", paper="p")
    return ModelReport(
        spec=request.spec, outcome=outcome, level=0, seed=request.seed, seconds=1.0, checks=[check], method=facts
    )


@pytest.fixture
def engine(monkeypatch):
    """Stands for the contract: notes the requests; a method called l2 fails."""
    asked = []

    def run_all(requests, limits, screen, done, *, jobs):
        results = []
        for request in requests:
            asked.append(request)
            found = Finished(request, report(request, Outcome.FAIL if request.method == "l2" else Outcome.PASS))
            done(found)
            results.append(found)
        return results

    monkeypatch.setattr(commands, "run_all", run_all)
    return asked


def test_methods_are_listed(capsys):
    code, out, _ = run(capsys, "methods", "--filter", "l[12]")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["method", "l1", "l2"]
    code, out, _ = run(capsys, "methods", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) == set(registered())
    assert rows["l1"]["options"]["ranking"] == "global"
    assert rows["random"]["data"] == "D0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["l11", "--backend", MLP], "no method named 'l11'; did you mean"),
        (["l1", "--backend", "word"], "'word' is no SPEC"),
        (["nofile.py:X", "--backend", MLP], "there is no file nofile.py"),
        (["l1", "--backend", MLP, "--budget", "half"], "'half' is no budget"),
        (["l1", "--backend", MLP, "--resume"], "--resume needs the --output"),
        (["l1", "--backend", MLP, "--timeout", "0"], "--timeout must be above 0"),
    ],
)
def test_what_is_wrong_is_one_sentence(capsys, engine, arguments, words):
    code, out, err = run(capsys, "method-check", *arguments)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert words in err
    assert engine == []


def test_every_method_meets_every_model_and_the_worst_decides(capsys, engine, tmp_path):
    models = ("--backend", MLP, "--backend", "handmade:residual")
    code, out, _ = run(capsys, "method-check", "l1", "l2", *models, "--output", tmp_path / "out")
    assert code == 1
    assert [(r.method, r.spec) for r in engine] == [
        ("l1", MLP), ("l1", "handmade:residual"), ("l2", MLP), ("l2", "handmade:residual")
    ]  # fmt: skip
    assert "l2 on handmade:mlp does not conform" in out
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [model["method"]["name"] for model in written["models"]] == ["l1", "l1", "l2", "l2"]
    assert "## l1 on handmade:mlp" in (tmp_path / "out" / "report.md").read_text()
    engine.clear()
    code, _, _ = run(capsys, "method-check", "l1", "l2", "random", *models, "--output", tmp_path / "out", "--resume")
    assert code == 1
    assert {r.method for r in engine} == {"random"}
    engine.clear()
    run(capsys, "method-check", "l1", *models, "--output", tmp_path / "out", "--resume", "--budget", "params=0.2")
    assert len(engine) == 2  # another budget is another run
    engine.clear()
    run(capsys, "method-check", "l1", *models, "--output", tmp_path / "out")
    assert len(engine) == 2  # fresh without --resume


@pytest.mark.parametrize("elsewhere", [Outcome.PASS, Outcome.FAIL])
def test_models_without_what_a_method_requires_need_not_count(capsys, monkeypatch, tmp_path, elsewhere):
    """As long as the method conforms somewhere: what was checked nowhere is no pass."""

    def run_all(requests, limits, screen, done, *, jobs):
        for request in requests:
            found = report(request, elsewhere)
            if request.spec == MLP:
                runs = found.checks[0].model_copy(
                    update={"id": "M.runs", "outcome": Outcome.UNSUPPORTED, "details": {"requires": "batch norms"}}
                )
                found = found.model_copy(update={"outcome": Outcome.UNSUPPORTED, "checks": [runs]})
            done(Finished(request, found))
        return []

    monkeypatch.setattr(commands, "run_all", run_all)
    models = ("--backend", MLP, "--backend", "handmade:residual", "--table", tmp_path / "page.md")
    assert run(capsys, "method-check", "bn-scale", *models)[0] == 1
    code, out, _ = run(capsys, "method-check", "bn-scale", *models, "--allow-unsuited")
    passed = elsewhere is Outcome.PASS
    assert code == (0 if passed else 1)
    assert ("not counted: bn-scale on handmade:mlp, which lacks batch norms" in out) is passed
    assert "| unsupported: requires batch norms |" in (tmp_path / "page.md").read_text()
    assert run(capsys, "method-check", "bn-scale", *models[:2], "--allow-unsuited")[0] == 1


def test_all_methods_without_a_name(capsys, engine):
    run(capsys, "method-check", "--backend", MLP)
    assert [r.method for r in engine] == list(registered())


@pytest.mark.usefixtures("engine")
def test_the_table_goes_between_the_marks(capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{commands.MARKS[0]}\nold\n{commands.MARKS[1]}\n\nThe end.\n")
    code, _, _ = run(capsys, "method-check", "l1", "l2", "--backend", MLP, "--table", page)
    text = page.read_text()
    assert code == 1
    assert text.startswith(f"# Title\n\n{commands.MARKS[0]}\n")
    assert text.endswith(f"{commands.MARKS[1]}\n\nThe end.\n")
    assert "old" not in text
    assert r"a \| b" in text
    assert "| l2 | post | D0 | group | does not conform (1 fail): M.zero |" in text
    page.write_text("no marks")
    code, _, err = run(capsys, "method-check", "l1", "--backend", MLP, "--table", page)
    assert (code, page.read_text()) == (2, "no marks")
    assert "has no lines" in err


def test_a_request_with_a_method_is_a_contract():
    found = check_here(Request(MLP, method="l1", budget="params=0.2", only=("M.keys",)))
    assert found.title == "l1 on handmade:mlp"
    assert [check.id for check in found.checks] == ["M.declares", "M.runs", "M.keys"]
    assert found.outcome is Outcome.PASS
    assert headline(found).startswith("l1 on handmade:mlp conforms (seed 0, 3 pass")
    assert failed(Request(MLP, method="l1"), "killed").title == "l1 on handmade:mlp"


def test_a_summary_of_methods_has_no_columns_of_models():
    one = report(Request(MLP, method="l1"))
    assert summary_table([one]).headers[0] == "method and model"
    assert summary_table([one, one.model_copy(update={"method": None})]).headers[0] == "model"
