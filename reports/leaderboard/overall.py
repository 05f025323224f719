"""One board a suite: the retained figure, averaged over all cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reports.leaderboard.boards import Board, Entry, by_level
from reports.leaderboard.entries import Contestant
from reports.leaderboard.stats import MIN_SEEDS, Place, better, places, spread


@dataclass(frozen=True)
class Standing:
    """One contestant over a suite. values is its score by seed; cells how many of the suite's it has a result in."""

    contestant: Contestant
    data_need: str
    values: Mapping[int, float]
    mean: float | None
    std: float | None
    cells: int
    complete: bool
    missing: tuple[str, ...]
    places: Mapping[str, Place]

    @property
    def state(self) -> str:
        """`ranked`, or why not."""
        if not self.complete:
            return "incomplete"
        seeds = len(self.values)
        return "ranked" if seeds >= MIN_SEEDS else f"provisional: {seeds} seed{'s' if seeds != 1 else ''}"


@dataclass(frozen=True)
class Overall:
    """All contestants of one granularity in one division of a suite. left_out are cells that nobody can have."""

    suite: str
    division: str
    granularity: str
    cells: tuple[str, ...]
    left_out: tuple[str, ...]
    standings: tuple[Standing, ...]


def make_overall(boards: Sequence[Board]) -> tuple[Overall, ...]:
    """The overall boards of all suites, divisions and granularities.

    A cell is one board: a model on a task at a budget. It counts when a dense figure is known and a contestant that
    is no baseline has a conforming result there. In a cell, the score of a seed is the contestant's figure divided
    by the dense model's of the same seed; over the suite it is the plain mean of the cells' scores of that seed.
    A contestant is complete when it has a result in every cell; it is ranked by the seeds that all cells share, as
    on a single board. One that misses cells shows the mean of those it has, and no rank.
    """
    kinds = {
        (board.setting.suite, board.setting.division, _granularity(entry))
        for board in boards
        for entry in board.entries
        if _granularity(entry)
    }
    return tuple(_overall(kind, boards) for kind in sorted(kinds))


def cell_name(board: Board) -> str:
    """How a cell is called: model, task and budget."""
    return f"{board.setting.model} / {board.setting.task} / {board.budget}"


def _granularity(entry: Entry) -> str:
    """What the method removes; a failed row may not say it."""
    return next((row.granularity for row in entry.rows if row.granularity), "")


def _overall(kind: tuple[str, str, str], boards: Sequence[Board]) -> Overall:
    suite, division, granularity = kind
    mine: list[tuple[Board, list[Entry]]] = []
    for board in boards:
        if (board.setting.suite, board.setting.division) == (suite, division):
            entries = [entry for entry in board.entries if _granularity(entry) in (granularity, "")]
            if any(_granularity(entry) for entry in entries):
                mine.append((board, entries))
    counted = [
        (board, entries)
        for board, entries in mine
        if any(entry.rated and entry.retained and not entry.contestant.baseline for entry in entries)
    ]
    names = {cell_name(board) for board, _ in counted}
    known = [entry.contestant for _, entries in mine for entry in entries if _granularity(entry)]
    standings = _placed([_standing(who, counted) for who in dict.fromkeys(known)])
    return Overall(
        suite,
        division,
        granularity,
        tuple(cell_name(board) for board, _ in counted),
        tuple(cell_name(board) for board, _ in mine if cell_name(board) not in names),
        tuple(sorted(standings, key=_order)),
    )


def _standing(who: Contestant, cells: Sequence[tuple[Board, list[Entry]]]) -> Standing:
    scores: list[Mapping[int, float]] = []
    missing = []
    need = ""
    for board, entries in cells:
        entry = next((entry for entry in entries if entry.contestant == who), None)
        if entry is not None:
            need = max(need, entry.data_need if entry.data_need != "?" else "")
        if entry is not None and entry.rated and entry.retained:
            scores.append(entry.retained)
        else:
            why = "no run" if entry is None else entry.trouble or "no dense figure of its seeds"
            missing.append(f"{cell_name(board)} ({why})")
    complete = bool(cells) and not missing
    common = sorted(set.intersection(*(set(score) for score in scores))) if complete else []
    complete = complete and bool(common)
    values: dict[int, float] = {}
    mean: float | None = None
    std: float | None = None
    if complete:
        values = {seed: math.fsum(score[seed] for score in scores) / len(scores) for seed in common}
        mean, std = spread(list(values.values()))
    elif scores:
        mean, _ = spread([spread(list(score.values()))[0] for score in scores])
    return Standing(who, need or "?", values, mean, std, len(scores), complete, tuple(missing), {})


def _placed(standings: Sequence[Standing]) -> list[Standing]:
    ranked = [one for one in standings if one.complete and len(one.values) >= MIN_SEEDS]
    above = better([one.values for one in ranked])
    found: dict[Contestant, dict[str, Place]] = {}
    for level, chosen in by_level([one.data_need for one in ranked]).items():
        means = [ranked[index].mean or 0.0 for index in chosen]
        for index, place in zip(chosen, places(means, above[chosen][:, chosen]), strict=True):
            found.setdefault(ranked[index].contestant, {})[level] = place
    return [replace(one, places=found.get(one.contestant, {})) for one in standings]


def _order(one: Standing) -> tuple[int, float, str]:
    kind = 0 if one.places else 1 if one.complete else 2
    return kind, -(one.mean if one.mean is not None else -math.inf), one.contestant.label
