"""Boards as plain data: what leaderboard.json holds, and what every other file is written from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from reports.leaderboard.boards import Board, Boards, Entry
from reports.leaderboard.entries import figure
from reports.leaderboard.overall import Overall, Standing, cell_name
from reports.leaderboard.stats import CONFIDENCE, MIN_SEEDS, Interval, Place, spread
from reports.rows import Row

SCHEMA = "1.0"
DIGITS = 6
_LETTERS = {"macs": "M", "params": "P", "latency": "L"}


def document(made: Boards, overall: tuple[Overall, ...]) -> dict[str, Any]:
    """Everything of the boards as dicts, lists, numbers of DIGITS significant digits and text."""
    return {
        "schema_version": SCHEMA,
        "min_seeds": MIN_SEEDS,
        "confidence": CONFIDENCE,
        "rows": len(made.rows),
        "replaced": made.replaced,
        "overall": [_overall(one) for one in overall],
        "boards": [_board(board) for board in made.boards],
    }


def as_json(content: Mapping[str, Any]) -> str:
    """With sorted keys, so that the same content is the same text. Not a number is not there by then."""
    return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def rounded(value: float | None) -> float | None:
    """DIGITS significant digits."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def letters(flags: Mapping[str, bool]) -> str:
    """Which fronts a point is on: M for MACs, P for parameters, L for latency."""
    return "".join(letter for axis, letter in _LETTERS.items() if flags.get(axis))


def _board(board: Board) -> dict[str, Any]:
    where = board.setting
    dense = list(board.dense.values())
    mean, std = spread(dense) if dense else (None, None)
    return {
        "suite": where.suite,
        "division": where.division,
        "task": where.task,
        "dataset": where.dataset,
        "metric": where.metric,
        "model": where.model,
        "budget": board.budget,
        "cell": cell_name(board),
        "state": board.state,
        "batch": board.batch,
        "notes": list(board.notes),
        "caption": board.caption,
        "dense": {"mean": rounded(mean), "std": rounded(std), "seeds": len(dense)},
        "entries": [_entry(entry) for entry in board.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    who = entry.contestant
    first = entry.rows[0]
    return {
        "method": who.method,
        "label": who.label,
        "options": json.loads(who.options),
        "baseline": who.baseline,
        "data_need": entry.data_need,
        "training": entry.training,
        "driver": first.driver,
        "granularity": first.granularity,
        "exactness": first.exactness,
        "paper": first.paper,
        "state": entry.state,
        "conforming": entry.rated,
        "seeds": sorted(entry.values),
        "values": {str(seed): rounded(value) for seed, value in sorted(entry.values.items())},
        "mean": rounded(entry.mean),
        "std": rounded(entry.std),
        "retained": rounded(entry.retained_mean),
        "kept": {name: rounded(share) for name, share in sorted(entry.kept.items())},
        "speedup": _interval(entry.speedup),
        "speedup_theory": rounded(entry.speedup_theory),
        "places": _places(entry.places),
        "front": dict(sorted(entry.on_front.items())),
        "front_all_budgets": dict(sorted(entry.all_front.items())),
        "over_random": _interval(entry.over_random),
        "runs": [_run(row) for row in entry.rows],
    }


def _run(row: Row) -> dict[str, Any]:
    return {
        "seed": row.seed,
        "key": row.key,
        "status": row.status,
        "verdict": row.verdict,
        "value": rounded(figure(row)),
        "conforming": row.conforming,
    }


def _interval(found: Interval | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    return {"low": rounded(found.low), "mean": rounded(found.mean), "high": rounded(found.high)}


def _places(found: Mapping[str, Place]) -> dict[str, dict[str, int]]:
    return {level: dataclasses.asdict(place) for level, place in sorted(found.items())}


def _overall(one: Overall) -> dict[str, Any]:
    return {
        "suite": one.suite,
        "division": one.division,
        "granularity": one.granularity,
        "cells": list(one.cells),
        "left_out": list(one.left_out),
        "standings": [_standing(standing) for standing in one.standings],
    }


def _standing(one: Standing) -> dict[str, Any]:
    return {
        "method": one.contestant.method,
        "label": one.contestant.label,
        "baseline": one.contestant.baseline,
        "data_need": one.data_need,
        "state": one.state,
        "mean": rounded(one.mean),
        "std": rounded(one.std),
        "seeds": len(one.values),
        "cells": one.cells,
        "missing": list(one.missing),
        "places": _places(one.places),
    }
