"""Figures that papers and their repositories give: for comparison by eye, never ranked with rows of our own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Where figures come from; note says what must be known to read them."""

    title: str
    authors: str
    where: str
    url: str
    note: str


class Cell(_Part):
    """One figure as published; params_kept in percent of the dense model's, where it is given."""

    value: float
    params_kept: float | None


class PublishedRow(_Part):
    """One method; a cell a budget, None where it is not given or was left out."""

    method: str
    cells: tuple[Cell | None, ...]


class PublishedTable(_Part):
    """One published table. left_out names the cells that contradict their own source, and why."""

    source: str
    model: str
    dataset: str
    metric: str
    dense: float | None
    budget: str
    budgets: tuple[str, ...]
    left_out: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class Published:
    """All tables and the sources they name."""

    sources: dict[str, Source]
    tables: tuple[PublishedTable, ...]


def published() -> Published:
    """What published.json of this package holds."""
    content = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return Published(
        {name: Source.model_validate(source) for name, source in content["sources"].items()},
        tuple(PublishedTable.model_validate(table) for table in content["tables"]),
    )
