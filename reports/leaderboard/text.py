"""The boards as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from conformance.report.build import Table
from conformance.report.markdown import escape, table
from reports.leaderboard.document import letters
from reports.leaderboard.entries import LEVELS

_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def percent(share: float | None) -> str:
    """`52.3%`, empty for nothing."""
    return "" if share is None else f"{share:.1%}"


def number(value: float | None) -> str:
    """Four digits behind the point, empty for nothing."""
    return "" if value is None else f"{value:.4f}"


def with_spread(mean: float | None, std: float | None) -> str:
    """`0.9312 ± 0.0021`; without the spread where there is none."""
    return number(mean) if std is None else f"{number(mean)} ± {number(std)}"


def percent_spread(mean: float | None, std: float | None) -> str:
    """`93.1% ± 0.2%`; without the spread where there is none."""
    return percent(mean) if std is None else f"{percent(mean)} ± {percent(std)}"


def place(found: Mapping[str, int] | None) -> str:
    """`2`, or `2=` where it is shared."""
    return "" if found is None else f"{found['rank']}{'=' if found['shared'] > 1 else ''}"


def possible(found: Mapping[str, int] | None) -> str:
    """`2–4`: the ranks that cannot be excluded."""
    if found is None:
        return ""
    return f"{found['low']}–{found['high']}" if found["low"] != found["high"] else str(found["low"])


def times(found: Mapping[str, float] | None) -> str:
    """`1.84× (1.80–1.91)`."""
    return "" if found is None else f"{found['mean']:.2f}× ({found['low']:.2f}–{found['high']:.2f})"


def markdown(content: Mapping[str, Any], title: str) -> str:
    """The overall boards, then every board, as tables."""
    parts = [f"# {escape(title)}\n"]
    parts.append(
        f"Made from {content['rows']} stored rows. Ranks are shared where the {content['confidence']:.0%} interval of "
        "the paired difference over seeds (bootstrap) holds 0 (=); possible: the ranks that cannot be excluded. What "
        f"is not proved, failed, or has fewer than {content['min_seeds']} seeds is shown, not ranked. Pareto M, P, L: "
        "nothing is as good with as few MACs, parameters, or as little time.\n"
    )
    told = {board["suite"]: board["caption"] for board in content["boards"] if board["caption"]}
    parts += [f"**{escape(suite)}**: {escape(caption)}\n" for suite, caption in told.items()]
    for one in content["overall"]:
        parts.append(f"## {escape(_overall_title(one))}\n")
        parts.append(f"Mean of figure / dense figure of the same seed; cells: {len(one['cells'])}.\n")
        parts.append(table(_overall_table(one)))
    for board in content["boards"]:
        parts.append(f"## {escape(board['cell'])}\n")
        parts.append(escape(_about(board)) + "\n")
        parts += [f"- {escape(note)}" for note in board["notes"]]
        if board["notes"]:
            parts.append("")
        parts.append(table(_board_table(board)))
    return "\n".join(parts)


def _overall_title(one: Mapping[str, Any]) -> str:
    return f"Overall: {one['suite']}, {one['division']} division, {one['granularity']} pruning"


def _about(board: Mapping[str, Any]) -> str:
    dense = board["dense"]
    told = f"{board['suite']}, {board['division']} division; {board['metric']} on data {board['dataset'][:12]}"
    if dense["mean"] is not None:
        told += f"; dense {with_spread(dense['mean'], dense['std'])}"
    return f"{told}; {board['state']}" if board["state"] else told


def _overall_table(one: Mapping[str, Any]) -> Table:
    rows = [
        (
            place(standing["places"].get(LEVELS[-1])),
            possible(standing["places"].get(LEVELS[-1])),
            standing["label"],
            standing["data_need"],
            percent_spread(standing["mean"], standing["std"]),
            f"{standing['cells']} of {len(one['cells'])}",
            standing["state"],
        )
        for standing in one["standings"]
    ]
    headers = ("rank", "possible", "method", "data", "retained", "cells", "state")
    return Table(headers, tuple(rows), frozenset({4, 5}))


def _board_table(board: Mapping[str, Any]) -> Table:
    dense = board["dense"]
    rows = [] if dense["mean"] is None else [_dense_row(dense)]
    rows += [
        (
            place(entry["places"].get(LEVELS[-1])),
            possible(entry["places"].get(LEVELS[-1])),
            entry["label"] + (" (baseline)" if entry["baseline"] else ""),
            entry["data_need"],
            entry["training"],
            with_spread(entry["mean"], entry["std"]),
            percent(entry["retained"]),
            percent(entry["kept"].get("macs")),
            percent(entry["kept"].get("params")),
            times(entry["speedup"]),
            letters(entry["front"]),
            entry["state"],
        )
        for entry in board["entries"]
    ]
    headers = (
        "rank", "possible", "method", "data", "training", board["metric"], "retained", "MACs kept", "parameters kept",
        f"speed-up at batch {board['batch']}" if board["batch"] is not None else "speed-up", "Pareto", "state",
    )  # fmt: skip
    return Table(headers, tuple(rows), frozenset({5, 6, 7, 8, 9}))


def _dense_row(dense: Mapping[str, Any]) -> tuple[str, ...]:
    return ("", "", "dense (baseline)", "", "", with_spread(dense["mean"], dense["std"]), *["100.0%"] * 3, "", "", "")


def as_csv(content: Mapping[str, Any]) -> str:
    """One line an entry."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = (
        "suite", "division", "task", "dataset", "metric", "model", "budget", "method", "label", "data_need", "training",
        "state", "conforming", "seeds", "rank", "rank_low", "rank_high", "mean", "std", "retained", "macs_kept",
        "params_kept", "memory_kept", "latency_kept", "batch", "speedup", "speedup_low", "speedup_high",
        "speedup_theory", "front", "front_all_budgets", "runs",
    )  # fmt: skip
    writer.writerow(fields)
    for board in content["boards"]:
        for entry in board["entries"]:
            writer.writerow([_cell(value) for value in _line(board, entry)])
    return out.getvalue()


def _line(board: Mapping[str, Any], entry: Mapping[str, Any]) -> Sequence[Any]:
    found = entry["places"].get(LEVELS[-1], {})
    speedup = entry["speedup"] or {}
    return (
        *(board[name] for name in ("suite", "division", "task", "dataset", "metric", "model", "budget")),
        *(entry[name] for name in ("method", "label", "data_need", "training", "state", "conforming")),
        len(entry["seeds"]),
        *(found.get(name) for name in ("rank", "low", "high")),
        *(entry[name] for name in ("mean", "std", "retained")),
        *(entry["kept"].get(name) for name in ("macs", "params", "memory", "latency")),
        board["batch"],
        *(speedup.get(name) for name in ("mean", "low", "high")),
        entry["speedup_theory"],
        letters(entry["front"]),
        letters(entry["front_all_budgets"]),
        " ".join(run["key"] for run in entry["runs"]),
    )


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is quoted as text."""
    if isinstance(value, str) and value.startswith(_AS_FORMULA):
        return "'" + value
    return "" if value is None else value
