"""From rows to the entries of boards: who took part where, and which rows stand for whom."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.errors import UsageError
from reports.rows import Row

LEVELS = ("D0", "D1", "D2", "D3")
"""Data-need classes, each including the ones before it."""
DENSE, RANDOM = "dense", "random"
"""The names of the baselines."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(frozen=True, order=True)
class Setting:
    """What results must share to be compared at all, whatever the budget."""

    suite: str
    division: str
    task: str
    dataset: str
    metric: str
    model: str


@dataclass(frozen=True)
class Contestant:
    """A method with its options; in the open division also with its recipe."""

    method: str
    options: str
    recipe: str
    label: str

    @property
    def baseline(self) -> bool:
        """Whether it is there to be compared with."""
        return self.method == RANDOM


@dataclass(frozen=True)
class Group:
    """All rows of one contestant on one board, one a seed, in the order of the seeds."""

    setting: Setting
    budget: str
    contestant: Contestant
    rows: tuple[Row, ...]

    @property
    def trouble(self) -> str:
        """Why this is not ranked whatever the seeds: one row that failed, is not proved or has no figure is enough."""
        parts = []
        failed = sum(row.status == "FAILED" for row in self.rows)
        unproved = [row for row in self.rows if row.status == "OK" and not row.conforming]
        missing = sum(row.conforming and figure(row) is None for row in self.rows)
        if failed:
            parts.append(f"{failed} failed")
        verdicts = Counter(row.verdict or "no verdict" for row in unproved)
        parts += [f"{count} {verdict}" for verdict, count in sorted(verdicts.items())]
        if missing:
            parts.append(f"{missing} without a figure")
        return f"{', '.join(parts)} of {len(self.rows)}" if parts else ""

    @property
    def values(self) -> dict[int, float]:
        """The ranking figure by seed, of the rows that conform and have one."""
        return {row.seed: value for row in self.rows if row.conforming and (value := figure(row)) is not None}


def figure(row: Row) -> float | None:
    """The figure that ranks, None where there is none that is finite."""
    return row.value if row.value is not None and math.isfinite(row.value) else None


def setting(row: Row) -> Setting:
    """Where a row is compared."""
    return Setting(row.suite, row.division, row.task, row.dataset, row.metric, row.model)


def budget_order(text: str) -> tuple[str, float, str]:
    """Sorts budgets by kind and size: `macs=0.5` before `macs=0.75`."""
    kind, _, share = text.partition("=")
    try:
        return kind, float(share), text
    except ValueError:
        return kind, math.inf, text


def newest(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """The rows that count, in an order of their own, and how many were replaced by newer ones.

    One key counts once, and so does one contestant on one board with one seed: the one that finished last. Raises
    UsageError for a key that cannot be the name of a file.
    """
    kept: dict[Any, Row] = {}
    total = 0
    seen: dict[str, Row] = {}
    for row in rows:
        if not _KEY.fullmatch(row.key):
            raise UsageError(f"{row.key!r} is no key of a row: letters, digits, - and _ only")
        total += 1
        if row.key not in seen or _age(row) > _age(seen[row.key]):
            seen[row.key] = row
    for row in seen.values():
        place = (setting(row), row.budget, _identity(row), row.seed)
        if place not in kept or _age(row) > _age(kept[place]):
            kept[place] = row
    ordered = sorted(kept.values(), key=lambda row: (setting(row), budget_order(row.budget), _identity(row), row.seed))
    return ordered, total - len(ordered)


def groups(rows: Sequence[Row]) -> list[Group]:
    """The rows of `newest` by board and contestant."""
    contestants = _contestants(rows)
    found: dict[tuple[Setting, str, tuple[str, str, str]], list[Row]] = {}
    for row in rows:
        found.setdefault((setting(row), row.budget, _identity(row)), []).append(row)
    return [
        Group(where, budget, contestants[who], tuple(sorted(members, key=lambda row: row.seed)))
        for (where, budget, who), members in found.items()
    ]


def _age(row: Row) -> tuple[str, str, str]:
    return row.finished, row.key, json.dumps(row.model_dump(mode="json"), sort_keys=True)


def _identity(row: Row) -> tuple[str, str, str]:
    recipe = json.dumps(row.recipe, sort_keys=True) if row.division == "open" else ""
    return row.method, json.dumps(row.options, sort_keys=True), recipe


def _contestants(rows: Sequence[Row]) -> dict[tuple[str, str, str], Contestant]:
    """Each with the shortest label that tells it from the others: its name, options that differ, its recipe."""
    by_method: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        known = by_method.setdefault(row.method, [])
        if _identity(row) not in known:
            known.append(_identity(row))
    made = {}
    for method, known in by_method.items():
        tables = [json.loads(options) for _, options, _ in known]
        names = sorted({name for table in tables for name in table})
        differing = [name for name in names if len({json.dumps(table.get(name)) for table in tables}) > 1]
        for who, table in zip(known, tables, strict=True):
            told = ", ".join(f"{name}={_plain(table[name])}" for name in differing if name in table)
            recipes = {recipe for _, options, recipe in known if options == who[1] and recipe}
            if who[2] and len(recipes) > 1:
                told = ", ".join(
                    part for part in (told, f"recipe {hashlib.sha256(who[2].encode()).hexdigest()[:6]}") if part
                )
            made[who] = Contestant(*who, f"{method} ({told})" if told else method)
    return made


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
