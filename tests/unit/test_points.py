"""Points to dense are differences of the same seed, averaged."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from conformance.errors import UsageError
from reports.points import MARKS, main, point_table, points
from reports.rows import write_rows
from tests.unit.made_rows import row

REMOVED = {"groups": 0.5, "params": 0.7, "macs": 0.4}


def pruned(method, seed, value, **changes):
    given = {"removed": REMOVED, "metrics": {stage: {"accuracy": value} for stage in ("masked", "subnet")}} | changes
    return row(method, seed, value, **given)


ROWS = [
    pruned("l2", 1, 0.91),
    row("dense", 0, 0.95, budget="groups=0"),
    row("dense", 1, 0.90, budget="groups=0"),
    pruned("l2", 0, 0.93),
    pruned("l1", 0, 0.94),
    pruned("l2", 0, 0.90, budget="macs=0.7"),
]


def test_a_subnet_is_held_against_the_dense_model_of_its_seed():
    found = points(ROWS)
    assert [(one.row.method, one.row.budget) for one in found] == [
        ("l2", "macs=0.5"), ("l2", "macs=0.7"), ("l1", "macs=0.5"),
    ]  # fmt: skip
    assert found[0].by_seed == pytest.approx([-2, 1])
    assert found[0].mean == pytest.approx(-0.5)


def test_the_table_has_means_with_their_spread_and_every_seed():
    cells = point_table(points(ROWS)).rows
    assert cells[0][2:] == (
        "50.0%", "70.0%", "40.0%", "92.50% ± 3.54", "92.00% ± 1.41", "92.00% ± 1.41", "-0.50", "-2.00, +1.00",
    )  # fmt: skip
    assert cells[1][5:] == ("95.00%", "90.00%", "90.00%", "-5.00", "-5.00")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([pruned("l2", 3, 0.9)], "no dense row of handmade:conv-net with seed 3"),
        ([row("l2", 0, None, status="FAILED", error="out of memory")], "seed 0 has failed: out of memory"),
        ([row("dense", 0, None), pruned("l2", 0, 0.9)], "dense .* has no figure"),
    ],
)
def test_rows_that_tell_nothing_are_refused(rows, said):
    with pytest.raises(UsageError, match=said):
        points(rows)


def test_the_command_prints_the_table_or_puts_it_into_a_page(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS)
    app = typer.Typer()
    app.command()(main)
    printed = CliRunner().invoke(app, [str(tmp_path / "rows.jsonl")])
    assert printed.exit_code == 0
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for _ in range(2):  # the second time changes nothing
        assert CliRunner().invoke(app, [str(tmp_path / "rows.jsonl"), "--page", str(page)]).exit_code == 0
        assert page.read_text() == f"before\n{MARKS[0]}\n\n{printed.stdout}\n{MARKS[1]}\nafter\n"
    page.write_text("no marks\n")
    refused = CliRunner().invoke(app, [str(tmp_path / "rows.jsonl"), "--page", str(page)])
    assert (refused.exit_code, page.read_text()) == (2, "no marks\n")
    assert "has no lines" in refused.stderr
