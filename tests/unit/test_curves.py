"""Curves are drawn from what a run wrote, step after step through its phases."""

from __future__ import annotations

import dataclasses

import pytest

from conformance.errors import UsageError
from conformance.method import Budget, Options, Recipe, run
from reports.curves import draw, read_curve
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
