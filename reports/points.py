"""What pruning cost each model of a suite, in points of its dense model with the same seed, as a Markdown table.

python -m reports.points bench/reproduction/rows.jsonl --page docs/reproduction.md
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from conformance.errors import UsageError
from conformance.report.build import Table
from conformance.report.files import write_between
from conformance.report.markdown import table as markdown_table
from reports.bench.job import DENSE
from reports.rows import Row, read_rows

MARKS = ("<!-- rows: begin -->", "<!-- rows: end -->")
_KINDS = ("groups", "params", "macs")
_HEADERS = (
    "model", "method", "groups removed", "parameters", "multiply-adds", "dense", "masked model", "subnet",
    "points to dense", "by seed",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One model pruned by one method to one budget: its rows, each with the dense row of its seed, by seed."""

    pairs: tuple[tuple[Row, Row], ...]

    @property
    def row(self) -> Row:
        """Any of the rows: what they share stands in each."""
        return self.pairs[0][0]

    @property
    def by_seed(self) -> list[float]:
        """Points (hundredths) that each subnet's figure is above its dense model's."""
        return [100 * (_value(row) - _value(dense)) for row, dense in self.pairs]

    @property
    def mean(self) -> float:
        """Points above the dense model, the mean over seeds."""
        return statistics.fmean(self.by_seed)


def points(rows: Iterable[Row]) -> list[Point]:
    """Every pruned model of finished rows, in their order, the deeper cuts of a method last.

    Raises UsageError for a row without a dense one of its model and seed, one that failed, and one without a figure.
    """
    rows = list(rows)
    for row in rows:
        if row.status != "OK":
            raise UsageError(f"{row.model} {row.method} {row.budget} seed {row.seed} has failed: {row.error}")
        _value(row)
    dense = {(row.model, row.seed): row for row in rows if row.method == DENSE}
    found: dict[tuple[str, str, str], list[tuple[Row, Row]]] = {}
    for row in sorted(rows, key=lambda row: (row.budget, row.seed)):
        if row.method == DENSE:
            continue
        if (row.model, row.seed) not in dense:
            raise UsageError(f"there is no dense row of {row.model} with seed {row.seed}")
        found.setdefault((row.model, row.method, row.budget), []).append((row, dense[row.model, row.seed]))
    models, methods = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("model", "method"))
    order = sorted(found, key=lambda key: (models.index(key[0]), methods.index(key[1]), key[2]))
    return [Point(tuple(found[key])) for key in order]


def point_table(found: Sequence[Point]) -> Table:
    """One row a point: means over seeds, figures with their standard deviation where there are several."""
    return Table(_HEADERS, tuple(map(_cells, found)), frozenset(range(2, len(_HEADERS))))


def _cells(point: Point) -> tuple[str, ...]:
    rows = [row for row, _ in point.pairs]
    removed = [f"{statistics.fmean(row.removed[kind] for row in rows):.1%}" for kind in _KINDS]
    figures = [
        _spread([_value(dense) for _, dense in point.pairs]),
        *(_spread([row.metrics[stage][row.metric] for row in rows]) for stage in ("masked", "subnet")),
    ]
    seeds = ", ".join(f"{value:+.2f}" for value in point.by_seed)
    return (point.row.model, point.row.method, *removed, *figures, f"{point.mean:+.2f}", seeds)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.2%}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _value(row: Row) -> float:
    if row.value is None:
        raise UsageError(f"{row.model} {row.method} {row.budget} seed {row.seed} has no figure")
    return row.value


def main(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="rows.jsonl of a suite.")],
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"Put the table between its lines {' and '.join(MARKS)}.")
    ] = None,
) -> None:
    """Print what pruning cost each model, in points of its dense model with the same seed."""
    try:
        text = markdown_table(point_table(points(read_rows(rows))))
        if page is None:
            typer.echo(text, nl=False)
        else:
            write_between(page, MARKS, text)
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
