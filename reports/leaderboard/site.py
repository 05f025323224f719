"""The static pages: nothing fetched from elsewhere, the same from a folder as from a server.

The top pages have everything inline; those of runs, of which there may be hundreds, share one style and one script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reports.leaderboard.document import letters
from reports.leaderboard.entries import LEVELS, budget_order
from reports.leaderboard.figures import Styles, settings, styles
from reports.leaderboard.published import published
from reports.leaderboard.runs import folder_of, run_page
from reports.leaderboard.text import number, percent, percent_spread, place, possible, times, with_spread
from reports.rows import Row

SHARED = ("style.css", "theme.js")

_NEEDS = (("D3", "any (D0–D3)"), ("D2", "at most labels (D2)"), ("D1", "at most inputs (D1)"), ("D0", "none (D0)"))
_SORTS = (
    ("possible up", "rank"), ("method up", "method"), ("mean down", "figure, best first"),
    ("retained down", "retained"),
    ("macs up", "MACs, fewest first"), ("params up", "parameters, fewest first"), ("speedup down", "speed-up"),
)  # fmt: skip


def pages(
    content: Mapping[str, Any], rows: Sequence[Row], run_places: Sequence[Path], title: str, pictures: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The pages of the top folder and those of runs/, as file name to text; pictures are the files in plots/."""
    environment = _environment(title)
    top = {
        "index.html": environment.get_template("index.html").render(**_index(content), pictures=pictures),
        "published.html": environment.get_template("published.html").render(published=published()),
    } | {name: _source(name) for name in SHARED}
    template = environment.get_template("run.html")
    runs = {f"{row.key}.html": template.render(**run_page(row, folder_of(row, run_places))) for row in rows}
    return top, runs


def _source(name: str) -> Markup:
    """A template, style or script: the package's own files, not what a row says."""
    return Markup(files(__package__).joinpath("templates", name).read_text(encoding="utf-8"))  # noqa: S704


def _environment(title: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        title=title,
        source=_source,
    )
    environment.filters.update(
        percent=percent,
        spread=with_spread,
        spread_percent=percent_spread,
        place=place,
        possible=possible,
        times=times,
        number=number,
        letters=letters,
    )
    return environment


def _index(content: Mapping[str, Any]) -> dict[str, Any]:
    boards = content["boards"]
    labels = sorted({entry["label"] for board in boards for entry in board["entries"]})
    style = styles(content)
    first = boards[0] if boards else dict.fromkeys(("suite", "division", "task", "model", "budget"), "")
    choices = {
        name: [(value, value) for value in sorted({board[name] for board in boards}, key=budget_order)]
        for name in ("suite", "division", "task", "model", "budget")
    }
    return {
        "content": content,
        "labels": labels,
        "first": first,
        "choices": choices,
        "needs": _NEEDS,
        "sorts": _SORTS,
        "plot": {"settings": [_points(group, style) for group in settings(content).values()]},
    }


def _points(boards: Sequence[Mapping[str, Any]], style: Styles) -> dict[str, Any]:
    first = boards[0]
    told = {name: first[name] for name in ("suite", "division", "task", "model", "metric")}
    points = [_point(board, entry, style) for board in boards for entry in board["entries"] if entry["conforming"]]
    dense = [board["dense"]["mean"] for board in boards if board["dense"]["mean"] is not None]
    return told | {"dense": dense[0] if dense else None, "points": points}


def _point(board: Mapping[str, Any], entry: Mapping[str, Any], style: Styles) -> dict[str, Any]:
    colour, marker = style[entry["label"]]
    return {
        "label": entry["label"],
        "budget": board["budget"],
        "need": entry["data_need"] if entry["data_need"] in LEVELS else "?",
        "mean": entry["mean"],
        "std": entry["std"],
        "seeds": len(entry["seeds"]),
        "kept": entry["kept"],
        "front": entry["front_all_budgets"],
        "state": entry["state"],
        "colour": colour,
        "marker": marker,
    }
