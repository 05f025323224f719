"""The smallest architecture of each of timm's families, computed and not typed.

Counting the parameters of all architectures takes some minutes, so the table can be kept in a JSON
file the caller names. It holds the timm version it was made with and is made anew for another one.
It is written after each family, so that an interrupted count goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from backends.timm_zoo import create

LIMIT = 150_000_000

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, family) before a family is counted."""


@dataclass(frozen=True)
class FamilyTable:
    """Parameter counts by family and architecture, and why an architecture has none."""

    parameters: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FamilyChoice:
    """The chosen architecture of each family, and why a family has none."""

    chosen: dict[str, str]
    left_out: dict[str, str]


def smallest_of_each_family(
    limit: int = LIMIT, cache: Path | None = None, progress: Progress | None = None
) -> list[str]:
    """The architecture with the fewest parameters of each timm module, none above the limit, sorted."""
    return sorted(choose(parameter_table(cache, progress), limit).chosen.values())


def choose(table: FamilyTable, limit: int = LIMIT) -> FamilyChoice:
    """The smallest architecture of each family; ties go to the first name."""
    chosen: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for family, counts in sorted(table.parameters.items()):
        if not counts:
            left_out[family] = "no architecture of it could be counted"
            continue
        name = min(counts, key=lambda key: (counts[key], key))
        if counts[name] > limit:
            left_out[family] = f"its smallest, {name}, has {counts[name]} parameters, above the limit of {limit}"
        else:
            chosen[family] = name
    return FamilyChoice(chosen, left_out)


def parameter_table(cache: Path | None = None, progress: Progress | None = None) -> FamilyTable:
    """The parameter counts of every timm architecture; complete, from the cache as far as it goes."""
    import timm

    families = sorted(module for module in timm.list_modules() if timm.list_models(module=module))
    table = _load(cache, timm.__version__)
    for done, family in enumerate(families):
        if family in table.parameters:
            continue
        if progress is not None:
            progress(done, len(families), family)
        table.parameters[family] = {}
        for name in sorted(timm.list_models(module=family)):
            count = _count(name)
            if isinstance(count, int):
                table.parameters[family][name] = count
            else:
                table.skipped[name] = count
        _save(cache, timm.__version__, table)
    return table


def _count(name: str) -> int | str:
    """The number of parameters, or the reason why it cannot be counted without allocating weights."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return sum(parameter.numel() for parameter in create(name, {}).parameters())
    except Exception as error:  # noqa: BLE001 - foreign constructors; the reason goes into the table
        first = str(error).splitlines()[0] if str(error) else ""
        return f"cannot be built on the meta device: {type(error).__name__}: {first}"


def _load(cache: Path | None, version: str) -> FamilyTable:
    """The table in the file, or an empty one when there is none, it is of another version, or is damaged."""
    if cache is None or not cache.exists():
        return FamilyTable()
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
    except ValueError:
        return FamilyTable()
    if not isinstance(data, dict) or data.get("timm") != version:
        return FamilyTable()
    return FamilyTable(data["parameters"], data["skipped"])


def _save(cache: Path | None, version: str, table: FamilyTable) -> None:
    """Writes the table beside the file first and then renames it, so that a reader never sees a part."""
    if cache is None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"timm": version, "parameters": table.parameters, "skipped": table.skipped}, indent=1)
    handle, temporary = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(cache)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
