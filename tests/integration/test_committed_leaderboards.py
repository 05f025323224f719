"""The leaderboards of the repository: made from the rows beside them byte for byte, of what their suites promise."""

import json
from pathlib import Path

import pytest

from reports.leaderboard.command import leaderboard
from reports.rows import read_rows

HERE = Path(__file__).parents[2] / "reports" / "leaderboard"
ROWS = sorted(HERE.glob("*/rows.jsonl"))
TITLE = "Structured pruning leaderboard"


def contents(site):
    """Every file the site lists, but pictures: other versions of what draws them draw other bytes."""
    listed = json.loads((site / "files.json").read_text(encoding="utf-8"))
    return {name: (site / name).read_bytes() for name in listed if not name.endswith(".png")}


@pytest.mark.parametrize("rows", ROWS, ids=lambda path: path.parent.name)
def test_it_regenerates_from_its_rows(rows, tmp_path):
    committed, made = rows.parent / "site", tmp_path / "site"
    leaderboard([rows], made, None, TITLE)
    assert (made / "files.json").read_bytes() == (committed / "files.json").read_bytes()
    for name, content in contents(committed).items():
        assert (made / name).read_bytes() == content, f"{name}: conformance leaderboard {rows} --output {committed}"
    on_disk = {path.relative_to(committed).as_posix() for path in committed.rglob("*") if path.is_file()}
    assert on_disk == {*json.loads((committed / "files.json").read_text(encoding="utf-8")), "files.json"}


def test_the_cpu_leaderboard_is_as_large_as_its_suite_promises():
    rows = list(read_rows(HERE / "cpu" / "rows.jsonl"))
    assert all(row.status == "OK" and row.verdict == "equal" for row in rows)
    assert len({row.method for row in rows} - {"dense"}) >= 12
    assert {row.seed for row in rows} == {0, 1, 2}
    for model in {row.model for row in rows}:
        assert len({row.budget for row in rows if row.model == model and row.method != "dense"}) == 3
    assert {row.task.split("?")[0] for row in rows} == {"fashion-mnist", "docstrings"}
    assert all(row.latency for row in rows if row.method != "dense")
