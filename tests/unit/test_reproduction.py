"""docs/reproduction.md says what the committed rows say, and they say what one-shot training promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.report.markdown import table as markdown_table
from reports.bench.suite import read_suite
from reports.points import MARKS, point_table, points
from reports.rows import read_rows

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reproduction.md"
ROWS = read_rows(DOCS / "reproduction" / "rows.jsonl")
POINTS = points(ROWS)


def test_every_subnet_is_proved_and_measures_what_its_masked_model_does():
    pruned = [row for row in ROWS if row.method != "dense"]
    assert {row.method for row in pruned} == {"hesso", "dhspg", "hspg"}
    assert len({row.model for row in pruned}) == 3
    for row in pruned:
        assert row.verdict == "equal"
        assert row.metrics["masked"] == pytest.approx(row.metrics["subnet"], rel=1e-5)
        assert row.metrics["masked"]["accuracy"] == row.metrics["subnet"]["accuracy"]


HALVED = [point for point in POINTS if point.row.budget == "groups=0.5"]


@pytest.mark.parametrize("point", HALVED, ids=lambda point: f"{point.row.model} {point.row.method}")
def test_half_of_the_groups_cost_a_point_at_most(point):
    assert min(point.by_seed) >= -1


def test_the_page_shows_these_rows():
    between = PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]
    assert between.strip() == markdown_table(point_table(POINTS)).strip()


def test_the_rows_are_those_of_the_suite():
    told = {
        (model, entry.name, budget, seed)
        for board in read_suite("reproduction").boards
        for model in board.models
        for seed in board.seeds
        for entry in board.methods
        for budget in entry.budgets or board.budgets
    }
    assert told == {(row.model, row.method, row.budget, row.seed) for row in ROWS if row.method != "dense"}
