"""docs/reproduction.md says what the committed rows say, and they say what one-shot training promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.rows import read_rows

DOCS = Path(__file__).parents[2] / "docs"
ROWS = read_rows(DOCS / "reproduction" / "rows.jsonl")
PRUNED = [row for row in ROWS if row.method != "dense"]
DENSE = {(row.model, row.seed): row for row in ROWS if row.method == "dense"}


def cells(row):
    dense = DENSE[row.model, row.seed]
    removed = [f"{row.removed[kind]:.1%}" for kind in ("groups", "params", "macs")]
    figures = [f"{100 * row.metrics[stage]['accuracy']:.2f} %" for stage in ("masked", "subnet")]
    return [row.model, row.method, *removed, *figures, f"{100 * (row.value - dense.value):+.2f}"]


def test_every_pruned_row_is_proved_and_measures_what_its_masked_model_does():
    assert {row.method for row in PRUNED} == {"hesso", "dhspg", "hspg"}
    assert len({row.model for row in PRUNED}) == 3
    for row in PRUNED:
        assert row.verdict == "equal"
        assert row.metrics["masked"] == pytest.approx(row.metrics["subnet"], rel=1e-5)
        assert row.metrics["masked"]["accuracy"] == row.metrics["subnet"]["accuracy"]


HALVED = [row for row in PRUNED if row.budget == "groups=0.5"]


@pytest.mark.parametrize("row", HALVED, ids=lambda row: f"{row.model} {row.method}")
def test_half_of_the_groups_cost_a_point_at_most(row):
    assert row.value >= DENSE[row.model, row.seed].value - 0.01


def test_the_page_shows_these_rows():
    page = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    for row in PRUNED:
        assert f"| {' | '.join(cells(row))} |" in page
    for row in DENSE.values():
        assert f"| {row.model} | dense | | | | {100 * row.value:.2f} % | | |" in page
