"""The program that works out the score."""

from __future__ import annotations

import json

import pytest
import score
from planted import KINDS

SMALL = ["--models", "handmade:mlp", "--mutants", "4", "--clean", "1"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("score") / "rows.jsonl"
    assert score.main([*SMALL, "--rows", str(file)]) == 0
    return file


def test_every_result_is_one_line(rows):
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [line["key"]["part"] for line in lines] == ["mutants", "clean"]
    assert len(lines[0]["mutants"]) == 4
    assert lines[1]["clean"]["compared"] == 8


def test_what_is_there_is_not_worked_out_again(rows, monkeypatch, capsys):
    monkeypatch.setattr(score, "made", None)  # a call would be reported
    before = rows.read_text()
    assert score.main([*SMALL, "--rows", str(rows)]) == 0
    assert rows.read_text() == before
    assert "no fault survived" in capsys.readouterr().out


def test_a_line_that_was_cut_off_is_worked_out_again(rows, tmp_path, monkeypatch):
    lines = rows.read_text().splitlines(keepends=True)
    file = tmp_path / "rows.jsonl"
    file.write_text(lines[0] + lines[1][:30])
    made = []
    monkeypatch.setattr(score, "made", lambda key: made.append(key) or json.loads(lines[1]))
    for _ in range(2):
        assert score.main([*SMALL, "--rows", str(file)]) == 0
    assert [key["part"] for key in made] == ["clean"]


def test_another_seed_is_another_result_and_what_raises_is_reported(rows, tmp_path, monkeypatch, capsys):
    def made(key):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(score, "made", made)
    file = tmp_path / "rows.jsonl"
    file.write_text(rows.read_text())
    assert score.main([*SMALL, "--rows", str(file), "--seed", "1"]) == 1
    assert "handmade:mlp: clean ended in RuntimeError: no such luck" in capsys.readouterr().out
    assert file.read_text() == rows.read_text()


def answered(kind: str, *, gate: str = "field", excuse: str = "", **others: bool) -> dict:
    answer = {"gate": gate, "float64": False, "assert_close": False, "oto": False, **others}
    return {"kind": kind, "where": "w[0]", "answer": answer, "excuse": excuse}


def mutant_row(*mutants: dict) -> dict:
    return {"key": {"part": "mutants", "model": "net"}, "mutants": list(mutants), "seconds": 1.0}


def test_a_survivor_is_a_problem_unless_it_is_no_fault():
    survivor, excused = answered("nan", gate=""), answered("nan", gate="", excuse="same function")
    assert score.problems([mutant_row(survivor)]) == ["net: nan at w[0] survived"]
    assert score.problems([mutant_row(excused, answered("nan"))]) == []


def test_false_alarms_and_silent_checks_are_problems():
    alarms = {judge: [] for judge in score.JUDGES} | {"gate": ["selection 0"], "oto": ["selection 1"]}
    clean = {"key": {"part": "clean", "model": "net"}, "clean": {"compared": 8, "alarms": alarms}, "seconds": 1.0}
    silent = {"no-op": {"planted": True, "fired": False}, "gradient-cut": {"planted": False, "fired": False}}
    checks = {"key": {"part": "checks", "model": "net"}, "checks": silent, "seconds": 1.0}
    assert score.problems([clean, checks]) == [
        "net: a clean pair was called different: selection 0",
        "net: no-op did not make L1.counts fail",
    ]


def test_shares_count_faults_only_and_are_rounded_down():
    found = [answered("nan", float64=number > 0) for number in range(3)]
    row = score.shares([*found, answered("nan", excuse="unread"), answered("nan", excuse="same function")])
    assert row == ["3", "100 %", "66.6 %", "0 %", "0 %", "1", "1"]


def test_the_table_names_every_kind(rows, tmp_path):
    file = tmp_path / "score.md"
    score.main([*SMALL, "--rows", str(rows), "--table", str(file)])
    text = file.read_text()
    assert "nox -s meta -- --table docs/checker-score.md" in text
    assert all(f"| {name} | {kind.what} |" in text for name, kind in KINDS.items())


def test_the_list_of_kinds(capsys):
    assert score.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert len(listed.splitlines()) >= 60
    assert "original-zeroed" in listed
