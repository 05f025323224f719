"""Boards: one for each setting and budget, with what every contestant came to there."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reports.leaderboard.entries import (
    DENSE,
    LEVELS,
    RANDOM,
    Contestant,
    Group,
    Setting,
    budget_order,
    figure,
    groups,
    newest,
    setting,
)
from reports.leaderboard.stats import MIN_SEEDS, Interval, Place, better, paired, pareto, places, spread
from reports.rows import Latency, Row

AXES = ("macs", "params", "latency")
"""What a point may cost: shares of the dense model's."""


@dataclass(frozen=True)
class Entry:
    """One contestant on one board.

    mean and std are of the ranking figure over the conforming rows' seeds; retained is the mean of figure / dense
    figure, seed by seed. kept gives, for each of AXES and memory, the subnet's share of the dense model's, averaged;
    speedup is dense / subnet time at the board's batch, with the widest ends of the rows' intervals. trouble says why
    it can have no rank, provisional that it has too few seeds. places holds its place for each data-need class
    as the upper limit; on_front whether nothing dominates it on this board, all_front the same over all budgets of
    the setting. over_random is the paired difference to random pruning.
    """

    contestant: Contestant
    rows: tuple[Row, ...]
    data_need: str
    training: str
    values: Mapping[int, float]
    mean: float | None
    std: float | None
    retained: Mapping[int, float]
    kept: Mapping[str, float]
    speedup: Interval | None
    speedup_theory: float | None
    trouble: str
    places: Mapping[str, Place]
    on_front: Mapping[str, bool]
    all_front: Mapping[str, bool]
    over_random: Interval | None = None

    @property
    def rated(self) -> bool:
        """Whether all its rows conform and have figures: only then it may be ranked or be on a front."""
        return not self.trouble

    @property
    def state(self) -> str:
        """`ranked`, or why not."""
        if self.trouble:
            return f"not ranked: {self.trouble}"
        seeds = len(self.values)
        return "ranked" if seeds >= MIN_SEEDS else f"provisional: {seeds} seed{'s' if seeds != 1 else ''}"

    @property
    def retained_mean(self) -> float | None:
        """The share of the dense figure that is left, averaged over seeds."""
        return spread(list(self.retained.values()))[0] if self.retained else None


@dataclass(frozen=True)
class Board:
    """Everything measured in one setting at one budget; entries by place, then by figure, then by name.

    caption is the suite's, as its newest row has it.
    """

    setting: Setting
    budget: str
    entries: tuple[Entry, ...]
    dense: Mapping[int, float]
    batch: int | None
    notes: tuple[str, ...]
    caption: str

    @property
    def seeds(self) -> int:
        """The most seeds that an entry has."""
        return max((len(entry.values) for entry in self.entries if entry.rated), default=0)

    @property
    def state(self) -> str:
        """Empty, or that too few seeds were run for any rank."""
        if not any(entry.rated for entry in self.entries):
            return "no conforming result"
        return "" if self.seeds >= MIN_SEEDS else f"provisional: {self.seeds} seed{'s' if self.seeds != 1 else ''}"


@dataclass(frozen=True)
class Boards:
    """All boards, the rows they stand on, and how many rows newer ones replaced."""

    boards: tuple[Board, ...]
    rows: tuple[Row, ...]
    replaced: int


def make_boards(rows: Iterable[Row]) -> Boards:
    """Rows of any number of files to boards; the order of the rows does not matter."""
    kept, replaced = newest(rows)
    dense = _dense(kept)
    by_board: dict[tuple[Setting, str], list[Group]] = {}
    for group in groups([row for row in kept if row.method != DENSE]):
        by_board.setdefault((group.setting, group.budget), []).append(group)
    boards = [
        _board(where, budget, members, dense.get(where, {}))
        for (where, budget), members in sorted(
            by_board.items(), key=lambda item: (item[0][0], budget_order(item[0][1]))
        )
    ]
    return Boards(tuple(_with_fronts_over_budgets(boards)), tuple(kept), replaced)


def _dense(rows: Sequence[Row]) -> dict[Setting, dict[int, float]]:
    """The dense model's figure by setting and seed.

    That is the figure of a row of the method `dense`; without one the median of the stage `before` of the rows
    whose method got a trained model. A method that trains by itself from the start has nothing to say there.
    """
    given: dict[tuple[Setting, int], float] = {}
    before: dict[tuple[Setting, int], list[float]] = {}
    for row in rows:
        place = (setting(row), row.seed)
        value = figure(row)
        if row.method == DENSE:
            if row.status == "OK" and value is not None:
                given[place] = value
        elif row.status == "OK" and (row.training != "trained" or row.recipe.get("dense_epochs")):
            found = row.metrics.get("before", {}).get(row.metric)
            if found is not None and math.isfinite(found):
                before.setdefault(place, []).append(found)
    result: dict[Setting, dict[int, float]] = {}
    for where, seed in sorted(given.keys() | before.keys()):
        place = (where, seed)
        result.setdefault(where, {})[seed] = given[place] if place in given else statistics.median(before[place])
    return result


def _board(where: Setting, budget: str, members: Sequence[Group], dense: Mapping[int, float]) -> Board:
    rows = [row for group in members for row in group.rows]
    batch = _batch(rows)
    entries = [_entry(group, dense, batch) for group in members]
    entries = _placed(entries)
    entries = _marked(entries, lambda entry, front: replace(entry, on_front=front))
    entries = _beside_random(entries)
    seeds = {seed for entry in entries for seed in entry.values}
    ordered = sorted(entries, key=_order)
    known = {s: v for s, v in dense.items() if s in seeds}
    caption = max(rows, key=lambda row: (row.finished, row.key)).caption
    return Board(where, budget, tuple(ordered), known, batch, _notes(where, rows, batch), caption)


def _order(entry: Entry) -> tuple[int, float, str]:
    """Ranked ones, provisional ones, then those that cannot be; the higher figure first."""
    rank = 0 if entry.places else 1 if entry.rated else 2
    return rank, -(entry.mean if entry.mean is not None else -math.inf), entry.contestant.label


def _entry(group: Group, dense: Mapping[int, float], batch: int | None) -> Entry:
    values = group.values
    mean, std = spread(list(values.values())) if values else (None, None)
    good = [row for row in group.rows if row.conforming]
    times = [found for row in good if (found := _at(row, batch)) is not None]
    theory = [row.speedup_theory for row in good if row.speedup_theory is not None]
    return Entry(
        contestant=group.contestant,
        rows=group.rows,
        data_need=max((row.data_need for row in group.rows), default="") or "?",
        training=", ".join(sorted({row.training for row in good})),
        values=values,
        mean=mean,
        std=std,
        retained={seed: value / dense[seed] for seed, value in values.items() if dense.get(seed, 0) > 0},
        kept=_kept(good, times),
        speedup=_speedup(times),
        speedup_theory=spread(theory)[0] if theory else None,
        trouble=group.trouble,
        places={},
        on_front={},
        all_front={},
    )


def _kept(rows: Sequence[Row], times: Sequence[Latency]) -> dict[str, float]:
    shares: dict[str, list[float]] = {
        "macs": [row.macs[1] / row.macs[0] for row in rows if row.macs and row.macs[0]],
        "params": [row.params[1] / row.params[0] for row in rows if row.params and row.params[0]],
        "latency": [1 / time.ratio for time in times if time.ratio > 0 and math.isfinite(time.ratio)],
        "memory": [row.memory[1] / row.memory[0] for row in rows if row.memory[0] and row.memory[1] is not None],
    }
    # A share that only some of the seeds have would be the mean of other runs than the figure is.
    return {name: spread(found)[0] for name, found in shares.items() if found and len(found) == len(rows)}


def _speedup(times: Sequence[Latency]) -> Interval | None:
    if not times:
        return None
    mean = spread([time.ratio for time in times])[0]
    return Interval(min(time.ratio_low for time in times), mean, max(time.ratio_high for time in times))


def _at(row: Row, batch: int | None) -> Latency | None:
    return next((time for time in row.latency if time.batch == batch), None)


def _batch(rows: Sequence[Row]) -> int | None:
    """The smallest batch at which all conforming rows that were timed were timed."""
    timed = [{time.batch for time in row.latency} for row in rows if row.conforming and row.latency]
    return min(set.intersection(*timed), default=None) if timed else None


def _placed(entries: Sequence[Entry]) -> list[Entry]:
    """Places among those that need no more data than each class allows."""
    ranked = [entry for entry in entries if entry.rated and len(entry.values) >= MIN_SEEDS]
    above = better([entry.values for entry in ranked])
    found: dict[int, dict[str, Place]] = {}
    for level, chosen in by_level([entry.data_need for entry in ranked]).items():
        means = [_mean(ranked[index]) for index in chosen]
        for index, place in zip(chosen, places(means, above[chosen][:, chosen]), strict=True):
            found.setdefault(id(ranked[index]), {})[level] = place
    return [replace(entry, places=found.get(id(entry), {})) for entry in entries]


def by_level(needs: Sequence[str]) -> dict[str, list[int]]:
    """The indices of the data needs that are no more than each class; an unknown need counts as the most."""
    known = [need if need in LEVELS else LEVELS[-1] for need in needs]
    return {level: [index for index, need in enumerate(known) if need <= level] for level in LEVELS}


def _mean(entry: Entry) -> float:
    assert entry.mean is not None
    return entry.mean


def _marked(entries: Sequence[Entry], mark: Callable[[Entry, dict[str, bool]], Entry]) -> list[Entry]:
    """Flags of the entries that no other dominates, axis by axis; only rated ones with that cost take part."""
    flags: dict[int, dict[str, bool]] = {id(entry): {} for entry in entries}
    for axis in AXES:
        able = [entry for entry in entries if entry.rated and axis in entry.kept]
        for entry, on in zip(able, pareto([(entry.kept[axis], _mean(entry)) for entry in able]), strict=True):
            flags[id(entry)][axis] = on
    return [mark(entry, flags[id(entry)]) for entry in entries]


def _beside_random(entries: Sequence[Entry]) -> list[Entry]:
    random = next((entry for entry in entries if entry.contestant.method == RANDOM and entry.rated), None)
    if random is None:
        return list(entries)
    return [
        replace(entry, over_random=paired(entry.values, random.values))
        if entry.rated and entry is not random
        else entry
        for entry in entries
    ]


def _with_fronts_over_budgets(boards: Sequence[Board]) -> list[Board]:
    """The same boards; each entry knows whether it is on the front of all budgets of its setting."""
    result = list(boards)
    for where in dict.fromkeys(board.setting for board in boards):
        numbers = [number for number, board in enumerate(boards) if board.setting == where]
        together = [entry for number in numbers for entry in boards[number].entries]
        marked = iter(_marked(together, lambda entry, front: replace(entry, all_front=front)))
        for number in numbers:
            board = boards[number]
            result[number] = replace(board, entries=tuple(next(marked) for _ in board.entries))
    return result


def _notes(where: Setting, rows: Sequence[Row], batch: int | None) -> tuple[str, ...]:
    """What a reader must know before comparing."""
    notes = []
    good = [row for row in rows if row.conforming]
    if where.division == "closed" and _different(_without_epochs(row.recipe) for row in good):
        notes.append("rows of this closed board have different recipes")
    trained = {row.training for row in good}
    if len(trained) > 1:
        notes.append(f"figures stand on different training: {', '.join(sorted(trained))}")
    if _different(row.hardware for row in good if row.latency):
        notes.append("rows were timed on different hardware: compare latencies with care")
    if batch is None and any(row.latency for row in good):
        notes.append("rows share no batch size, so latencies are not compared")
    return tuple(notes)


def _without_epochs(recipe: Mapping[str, object]) -> dict[str, object]:
    """A suite spreads the same epochs over training and fine-tuning as suits the kind of method."""
    return {name: value for name, value in recipe.items() if "epochs" not in name and name != "finetune_lr"}


def _different(tables: Iterable[Mapping[str, object]]) -> bool:
    return len({json.dumps(table, sort_keys=True, default=str) for table in tables}) > 1
