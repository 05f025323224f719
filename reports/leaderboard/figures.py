"""Pictures for READMEs: the figure against MACs, parameters and latency; one PNG a setting, one a suite."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.leaderboard.boards import AXES

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#7a7a7a")
"""Told apart by people with any colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
AXIS_NAMES = {"macs": "MACs", "params": "parameters", "latency": "latency"}
COLUMNS = 3
DASHED = (0, (4, 3))
Styles = Mapping[str, tuple[str, str]]
"""Colour and marker by label."""
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


def suites(content: Mapping[str, Any]) -> dict[str, list[list[Mapping[str, Any]]]]:
    """The settings of `drawable` by suite and division, under file names of their own, where there are several."""
    found: dict[tuple[str, str], list[list[Mapping[str, Any]]]] = {}
    for boards in drawable(content).values():
        found.setdefault((boards[0]["suite"], boards[0]["division"]), []).append(boards)
    return {_named("-".join(where), where): all_of for where, all_of in found.items() if len(all_of) > 1}


def _name(where: Sequence[str]) -> str:
    """Readable, without what a file name cannot hold, and different for different settings."""
    return _named("-".join((where[0], where[1], where[5], where[2])), where)


def _named(text: str, where: Sequence[str]) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return f"{words[:80]}-{hashlib.sha256(repr(tuple(where)).encode()).hexdigest()[:6]}"


def styles(content: Mapping[str, Any]) -> Styles:
    """Colour and marker of each label, the same on the page and in all pictures; random pruning is grey."""
    labels = sorted({entry["label"] for board in content["boards"] for entry in board["entries"]} - {"random"})
    given = {
        label: (COLOURS[number % (len(COLOURS) - 1)], MARKERS[number // (len(COLOURS) - 1) % len(MARKERS)])
        for number, label in enumerate(labels)
    }
    return given | {"random": (COLOURS[-1], "o")}


def draw(boards: Sequence[Mapping[str, Any]], style: Styles, path: Path) -> None:
    """One setting, in a panel for each cost; bars are one standard deviation over seeds, the line is the front.

    Entries that are not ranked because they failed or are not proved are left out; those with few seeds are hollow.
    """
    entries = _entries(boards)
    with _figure(path, 1, len(AXES), sharey=True) as (figure, panels):
        for panel, axis in zip(panels, AXES, strict=True):
            _panel(panel, entries, axis, style, boards[0]["dense"]["mean"])
        panels[0].set_ylabel(boards[0]["metric"])
        figure.suptitle(f"{boards[0]['model']} on {boards[0]['task']} ({boards[0]['division']} division)")
        _legend(figure, entries, style)


def draw_suite(all_of: Sequence[Sequence[Mapping[str, Any]]], style: Styles, path: Path) -> None:
    """All settings of a suite against MACs, a panel each, as `draw` does. Each panel has a scale of its own."""
    with _figure(path, -(-len(all_of) // COLUMNS), min(len(all_of), COLUMNS), sharey=False) as (figure, panels):
        for panel, boards in zip(panels, all_of, strict=False):
            _panel(panel, _entries(boards), AXES[0], style, boards[0]["dense"]["mean"])
            panel.set_ylabel(boards[0]["metric"])
            panel.set_title(boards[0]["model"], fontsize="medium")
        for panel in panels[len(all_of) :]:
            panel.set_axis_off()
        figure.suptitle(f"suite {all_of[0][0]['suite']} ({all_of[0][0]['division']} division)")
        _legend(figure, [entry for boards in all_of for entry in _entries(boards)], style)


def _entries(boards: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for board in boards for entry in board["entries"] if entry["conforming"]]


@contextlib.contextmanager
def _figure(path: Path, rows: int, columns: int, *, sharey: bool) -> Iterator[tuple[Any, list[Any]]]:
    """A figure and its panels, written to path in the end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.style.context("default"):
        size = (4 * columns, 0.9 + 3.7 * rows)
        figure, panels = plt.subplots(rows, columns, figsize=size, sharey=sharey, squeeze=False, layout="constrained")
        yield figure, list(panels.flat)
        # Without the program's version in it, the same rows give the same bytes.
        figure.savefig(path, dpi=110, format="png", facecolor="white", metadata={"Software": None})
        plt.close(figure)


def _legend(figure: Any, entries: Sequence[Mapping[str, Any]], style: Styles) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
        for label, (colour, marker) in sorted((label, style[label]) for label in {entry["label"] for entry in entries})
    ]
    handles.append(Line2D([], [], color="#222222", linewidth=1.2, label="Pareto front"))
    handles.append(Line2D([], [], color="#555555", linewidth=0.9, linestyle=DASHED, label="dense"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize="small", frameon=False)


def _panel(
    panel: Any,
    entries: Sequence[Mapping[str, Any]],
    axis: str,
    style: Styles,
    dense: float | None,
) -> None:
    panel.set_xlabel(f"{AXIS_NAMES[axis]}, % of dense")
    panel.grid(alpha=0.25)
    if dense is not None:
        panel.axhline(dense, color="#555555", linewidth=0.9, linestyle=DASHED)
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
