"""Pictures for READMEs: the figure against MACs, parameters and latency, one PNG a setting."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.leaderboard.boards import AXES

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#7a7a7a")
"""Told apart by people with any colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
AXIS_NAMES = {"macs": "MACs", "params": "parameters", "latency": "latency"}
_SETTING = ("suite", "division", "task", "dataset", "metric", "model")


def settings(content: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The boards of each setting under a file name of its own, without its ending."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for board in content["boards"]:
        found.setdefault(tuple(board[name] for name in _SETTING), []).append(board)
    return {_name(where): boards for where, boards in found.items()}


def drawable(content: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Those of `settings` that have a conforming result."""
    return {
        name: boards
        for name, boards in settings(content).items()
        if any(entry["conforming"] for board in boards for entry in board["entries"])
    }


def _name(where: Sequence[str]) -> str:
    """Readable, without what a file name cannot hold, and different for different settings."""
    words = re.sub(r"[^a-z0-9]+", "-", "-".join((where[0], where[1], where[5], where[2])).lower()).strip("-")
    return f"{words[:80]}-{hashlib.sha256(repr(tuple(where)).encode()).hexdigest()[:6]}"


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each label; random pruning is grey."""
    rest = [label for label in labels if label != "random"]
    given = {
        label: (COLOURS[number % (len(COLOURS) - 1)], MARKERS[number // (len(COLOURS) - 1) % len(MARKERS)])
        for number, label in enumerate(rest)
    }
    return given | {"random": (COLOURS[-1], "o")}


def draw(boards: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Three panels; bars are one standard deviation over seeds, the line joins what nothing dominates.

    Entries that are not ranked because they failed or are not proved are left out; those with few seeds are hollow.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    entries = [entry for board in boards for entry in board["entries"] if entry["conforming"]]
    labels = sorted({entry["label"] for entry in entries})
    style = styles(labels)
    with plt.style.context("default"):
        figure, panels = plt.subplots(1, 3, figsize=(12, 4.6), sharey=True, layout="constrained")
        for panel, axis in zip(panels, AXES, strict=True):
            _panel(panel, entries, axis, style)
            panel.set_xlabel(f"{AXIS_NAMES[axis]}, % of dense")
            panel.grid(alpha=0.25)
            dense = boards[0]["dense"]["mean"]
            if dense is not None:
                panel.axhline(dense, color="#555555", linewidth=0.9, linestyle=(0, (4, 3)))
        panels[0].set_ylabel(boards[0]["metric"])
        figure.suptitle(f"{boards[0]['model']} on {boards[0]['task']} ({boards[0]['division']} division)")
        handles = [
            Line2D([], [], color=style[label][0], marker=style[label][1], linestyle="", label=label) for label in labels
        ]
        handles.append(Line2D([], [], color="#222222", linewidth=1.2, label="Pareto front"))
        handles.append(Line2D([], [], color="#555555", linewidth=0.9, linestyle=(0, (4, 3)), label="dense"))
        figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize="small", frameon=False)
        # Without the program's version in it, the same rows give the same bytes.
        figure.savefig(path, dpi=110, format="png", facecolor="white", metadata={"Software": None})
        plt.close(figure)


def _panel(panel: Any, entries: Sequence[Mapping[str, Any]], axis: str, style: Mapping[str, tuple[str, str]]) -> None:
    shown = [entry for entry in entries if axis in entry["kept"]]
    for entry in shown:
        colour, marker = style[entry["label"]]
        panel.errorbar(
            100 * entry["kept"][axis], entry["mean"], yerr=entry["std"] or None, color=colour, marker=marker,
            markersize=6, markerfacecolor=colour if entry["places"] else "white", linestyle="", capsize=2.5,
            elinewidth=1,
        )  # fmt: skip
    front = sorted((entry["kept"][axis], entry["mean"]) for entry in shown if entry["front_all_budgets"].get(axis))
    if front:
        panel.step([100 * cost for cost, _ in front], [value for _, value in front], where="post", color="#222222",
                   linewidth=1.2, zorder=1)  # fmt: skip
    if not shown:
        panel.text(0.5, 0.5, "not measured", ha="center", va="center", transform=panel.transAxes, color="#555555")
