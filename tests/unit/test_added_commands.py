"""Commands of other packages: found by name, imported when used, broken ones break nothing else."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from conformance.cli import commands
from conformance.cli.app import main

GROUP = commands.ENTRY_POINT_GROUP

MODULE = '''
"""Somebody's package."""

from typing import Annotated

import typer

from conformance.errors import UsageError


def greet(name: str, times: Annotated[int, typer.Option(min=1, help="How often.")] = 1) -> None:
    """Say hello."""
    if name == "nobody":
        raise UsageError("there is nobody here")
    print(f"hello {name}" * times)
    raise typer.Exit(1 if name == "one" else 0)


def odd(thing: int | bytes) -> None:
    """Takes what typer does not know."""


number = 7
'''


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A package with commands, good and bad, as if it were installed."""
    (tmp_path / "somebodys.py").write_text(MODULE)
    (tmp_path / "somebodys_broken.py").write_text("raise RuntimeError('no such library\\nsecond line')\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = {
        "greet": "somebodys:greet", "odd": "somebodys:odd", "number": "somebodys:number", "gone": "somebodys:gone",
        "broken": "somebodys_broken:f", "missing": "no_such_package_here:f", "list": "somebodys:greet",
    }  # fmt: skip
    entries = [EntryPoint(name=name, value=value, group=GROUP) for name, value in named.items()]
    monkeypatch.setattr(commands, "entry_points", lambda group: entries if group == GROUP else [])
    yield
    for name in ("somebodys", "somebodys_broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("added")
def test_help_names_them_and_imports_nothing(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("greet", "broken", "missing", "check", "prune"))
    assert "somebodys" not in sys.modules
    assert "somebodys_broken" not in sys.modules


@pytest.mark.usefixtures("added")
def test_one_runs_with_its_options_and_exit_code(capsys):
    assert main(["greet", "you", "--times", "2"]) == 0
    assert capsys.readouterr().out == "hello youhello you\n"
    assert main(["greet", "one"]) == 1
    assert main(["greet", "nobody"]) == 2
    assert capsys.readouterr().err == "error: there is nobody here\n"
    assert main(["greet", "--help"]) == 0
    assert "How often." in capsys.readouterr().out
    assert main(["greet", "you", "--times", "0"]) == 2
    assert main(["greet"]) == 2


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "the command broken cannot be used: "),
        ("missing", "the command missing cannot be used: "),
        ("gone", "the command gone cannot be used: "),
        ("number", "the command number is no function as typer takes it: "),
        ("odd", "the command odd is no function as typer takes it: "),
    ],
)
def test_a_broken_one_says_so_when_it_is_used(capsys, name, words):
    assert main([name, "x"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
    assert main(["greet", "you"]) == 0


@pytest.mark.usefixtures("added")
def test_a_name_that_is_taken_stays_as_it_is(capsys):
    assert main(["list"]) == 0
    assert "hello" not in capsys.readouterr().out


def test_the_leaderboard_is_such_a_command(tmp_path, monkeypatch, capsys):
    from tests.unit.made_rows import rows, write

    entry = EntryPoint(name="leaderboard", value="reports.leaderboard.command:leaderboard", group=GROUP)
    monkeypatch.setattr(commands, "entry_points", lambda group: [entry])
    source = write(tmp_path, rows(seeds=3, budgets=(0.5,)))
    line = ["leaderboard", str(source), "--output", str(tmp_path / "site"), "--no-pictures"]
    assert main(line) == 0
    assert "42 rows, 4 boards, 0 plots" in capsys.readouterr().out
    assert (tmp_path / "site" / "index.html").is_file()
    assert main(["leaderboard", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "site")]) == 2
    assert main(["leaderboard", "--output", str(tmp_path / "site")]) == 2
