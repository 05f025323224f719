"""What the page of one run shows: its row, and the curves and the plan its folder holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.deploy.plan import PLAN_FILE, Plan, read_plan
from conformance.errors import PlanError, UsageError
from reports.curves import read_curve
from reports.leaderboard.charts import Chart, chart
from reports.leaderboard.text import percent
from reports.rows import Row

_CHARTS = (("loss", "Training loss"), ("sparsity", "Share of groups at zero"), ("validation", "Validation {metric}"))
_STAGES = ("before", "masked", "subnet", "finetuned")
_MADE = ("data_need", "driver", "granularity", "exactness", "training", "paper", "commit", "finished", "key")


def folder_of(row: Row, places: Iterable[Path]) -> Path | None:
    """The folder named after the row's key in the first of the places that has it."""
    return next((place / row.key for place in places if (place / row.key).is_dir()), None)


def run_page(row: Row, folder: Path | None) -> dict[str, Any]:
    """Everything templates/run.html asks for. What cannot be read of the folder is said on the page."""
    charts, plan, problems = [], None, []
    if folder is not None:
        try:
            charts = _charts(folder, row.metric)
            plan = _plan(folder)
        except (UsageError, PlanError) as error:
            problems.append(f"Not all of this run's folder can be read: {error}".replace(str(folder), row.key))
    names = sorted({name for figures in row.metrics.values() for name in figures})
    return {
        "row": row,
        "stage_names": names,
        "stages": [
            (stage, [f"{figures[name]:.4f}" if name in figures else "" for name in names])
            for stage, figures in sorted(row.metrics.items(), key=_stage_order)
        ],
        "costs": _costs(row),
        "charts": charts,
        "plan": plan,
        "problems": problems,
        "made": [(name.replace("_", " "), getattr(row, name)) for name in _MADE if getattr(row, name)],
        "tables": [
            (title, _flat(table))
            for title, table in (
                ("Options of the method", row.options),
                ("Recipe", row.recipe),
                ("Removed", {name: percent(share) for name, share in row.removed.items()}),
                ("Seconds", {name: round(seconds, 3) for name, seconds in row.seconds.items()}),
                ("Versions", row.versions),
                ("Hardware", row.hardware),
            )
            if table
        ],
    }


def _charts(folder: Path, metric: str) -> list[Chart]:
    if not (folder / "history.jsonl").is_file():
        return []
    curve = read_curve(folder, metric=metric)
    made = [chart(title.format(metric=metric), curve.lines[name]) for name, title in _CHARTS]
    return [one for one in made if one is not None]


def _plan(folder: Path) -> dict[str, Any] | None:
    if not (folder / PLAN_FILE).is_file():
        return None
    plan = read_plan(folder)
    return {"kind": plan.kind, "lines": _lines(plan)}


def _lines(plan: Plan) -> list[dict[str, Any]]:
    shapes = plan.model.parameters | plan.model.buffers
    return [
        {"name": name, "dim": dim, "size": shapes[name].shape[int(dim)], "removed": len(positions)}
        for name, dims in plan.slices.items()
        for dim, positions in dims.items()
    ]


def _stage_order(item: tuple[str, Any]) -> tuple[int, str]:
    """The stages as they follow each other; others after them."""
    return (_STAGES.index(item[0]) if item[0] in _STAGES else len(_STAGES)), item[0]


def _costs(row: Row) -> list[tuple[str, str, str, str]]:
    known = (("MACs", row.macs), ("Parameters", row.params), ("Memory, bytes", row.memory))
    return [
        (name, f"{pair[0]:,}", f"{pair[1]:,}", percent(pair[1] / pair[0]))
        for name, pair in known
        if pair is not None and pair[0] and pair[1] is not None
    ]


def _flat(table: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
        for name, value in sorted(table.items())
    ]
