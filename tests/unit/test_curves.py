"""Curves are drawn from what a run wrote, step after step through its phases."""

from __future__ import annotations

import dataclasses

import pytest

from conformance.errors import UsageError
from conformance.method import Budget, Options, Recipe, run
from reports.curves import Curve, draw, of_suite, read_curve
from reports.rows import Row, write_rows
from tests.unit.toy import Fade, ToyTask, convnet, images

pytest.importorskip("matplotlib")


def test_phases_follow_each_other_and_the_picture_is_drawn(tmp_path):
    folder = tmp_path / "run"
    recipe = Recipe(epochs=2, batch=32, lr=0.05, dense_epochs=1, finetune_epochs=1)
    result = run(
        Fade(), convnet(), images(), budget=Budget("groups", 0.5), task=ToyTask(), recipe=recipe,
        options=Options(folder=folder),
    )  # fmt: skip
    curve = read_curve(folder, "fade")
    assert [step for step, _ in curve.lines["loss"]] == list(range(16))
    assert [step for step, _ in curve.lines["validation"]] == [3, 7, 11, 15]
    assert [value for _, value in curve.lines["sparsity"]] == pytest.approx([0, 0, result.removed["groups"]])
    draw([curve, dataclasses.replace(curve, label="again", subnet=0.5)], tmp_path / "c.png", "two runs", smooth=3)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_history_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no history\.jsonl"):
        read_curve(tmp_path)


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"phase": "train", "step": 0, "loss": 2.0}\n{"phase": "train", "st')
    assert read_curve(tmp_path).lines["loss"] == [(0, 2.0)]


def row(key, method, budget, seed=0, model="m", status="OK"):
    return Row(
        key=key, suite="s", model=model, method=method, budget=budget, seed=seed, task="t", dataset="d",
        metric="accuracy", status=status,
    )  # fmt: skip


def test_runs_of_a_suite_are_named_by_what_they_are(tmp_path):
    rows = [row("b", "l1", "macs=0.5"), row("a", "dense", ""), row("x", "l1", "macs=0.5", model="other"),
            row("f", "l2", "macs=0.5", status="FAILED")]  # fmt: skip
    write_rows(tmp_path / "rows.jsonl", rows)
    for one in rows:
        (tmp_path / "jobs" / one.key).mkdir(parents=True)
        (tmp_path / "jobs" / one.key / "history.jsonl").write_text('{"phase": "train", "step": 0, "loss": 2.0}\n')
    assert [curve.label for curve in of_suite(tmp_path / "rows.jsonl", "m")] == ["dense", "l1 macs=0.5"]
    (tmp_path / "jobs" / "a").rename(tmp_path / "jobs" / "g")
    write_rows(tmp_path / "rows.jsonl", [rows[0], row("g", "dense", "", seed=1)])
    labels = [curve.label for curve in of_suite(tmp_path / "rows.jsonl", "m")]
    assert labels == ["dense", "l1 macs=0.5"]
    assert [curve.label for curve in of_suite(tmp_path / "rows.jsonl", "m", seed=1)] == ["dense"]
    with pytest.raises(UsageError, match="no finished run of m with seed 2"):
        of_suite(tmp_path / "rows.jsonl", "m", seed=2)
    with pytest.raises(UsageError, match="no finished run of nothing"):
        of_suite(tmp_path / "rows.jsonl", "nothing")


def test_seeds_of_a_run_share_a_colour_and_a_line_of_the_legend(tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, "close", lambda _: None)
    line = {"loss": [(0, 2.0), (1, 1.0)], "sparsity": [], "validation": [(1, 0.5)]}
    draw([Curve(label, line, None, 0.5) for label in ("dense", "l1", "l1", "l2")], tmp_path / "c.png")
    losses = plt.gcf().axes[0]
    monkeypatch.undo()
    plt.close("all")
    assert [one.get_color() for one in losses.lines] == ["C0", "C1", "C1", "C2"]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["dense", "l1", "l2"]
