"""What a person sees: colours, tables and progress on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from conformance.report.build import (
    Table,
    check_table,
    detail_lines,
    facts,
    group_table,
    headline,
    held_back_table,
    overview,
    unhappy,
)
from conformance.report.schema import ModelReport, Outcome

STYLES = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.UNSUPPORTED: "yellow",
    Outcome.SKIPPED: "dim",
    Outcome.ERROR: "bold magenta",
}
_OUTCOME_WORDS = {outcome.value: style for outcome, style in STYLES.items()}
_ROWS_AT_ONCE = 15

Tracker = Callable[[str, int, int], None]


def wants_plain(file: TextIO) -> bool:
    """Whether to leave out colours, boxes and progress: not a terminal, CI, NO_COLOR, a dumb one."""
    asked = any(os.environ.get(name) for name in ("CI", "NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return asked or not file.isatty()


class Screen:
    """Writes lines and tables to a stream, rich or plain. Text is never read as markup."""

    def __init__(self, file: TextIO | None = None, *, plain: bool | None = None) -> None:
        self._file = file or sys.stdout
        self.plain = wants_plain(self._file) if plain is None else plain
        self._console = Console(file=self._file, highlight=False, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        """One line; style is a rich style, unused when plain."""
        if self.plain:
            print(text, file=self._file, flush=True)
        else:
            self._console.print(Text(text, style=style))

    def table(self, content: Table, indent: int = 2) -> None:
        """A table; plain ones are columns of text, two spaces apart, never wrapped or cut."""
        if self.plain:
            for row in _columns(content):
                self.line(" " * indent + row)
            return
        shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
        for number, header in enumerate(content.headers):
            right = number in content.right
            shown.add_column(Text(header), justify="right" if right else "left", overflow="fold", no_wrap=right)
        for cells in content.rows:
            shown.add_row(*(Text(cell, style=_OUTCOME_WORDS.get(cell, "")) for cell in cells))
        self._console.print(shown, soft_wrap=False)

    @contextmanager
    def board(self, total: int) -> Iterator[Board]:
        """Progress of `total` models while the body runs; nothing when plain."""
        if self.plain:
            yield Board(None, total)
            return
        columns = (
            TextColumn("{task.fields[model]}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", markup=False, style="dim"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield Board(progress, total)


class Board:
    """The live lines: one for the whole run when it has several models, one for each at work."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._all = progress.add_task("", total=total, model="all", what="") if progress and total > 1 else None

    @contextmanager
    def model(self, spec: str) -> Iterator[Tracker]:
        """A line for this model while the body runs; it gets the function that moves the bar."""
        progress = self._progress
        if progress is None:
            yield _untracked
            return
        task = progress.add_task("", total=None, model=spec, what="starting")
        try:
            yield lambda what, done, total: progress.update(task, completed=done, total=total, what=what)
        finally:
            progress.remove_task(task)
            if self._all is not None:
                progress.advance(self._all)


def _untracked(_what: str, _done: int, _total: int) -> None:
    """Progress nobody sees."""


def _columns(content: Table) -> list[str]:
    lines = [content.headers, *content.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(content.headers))]

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in content.right else text.ljust(widths[column])

    return ["  ".join(cell(text, i) for i, text in enumerate(line)).rstrip() for line in lines]


def show_model(screen: Screen, model: ModelReport) -> None:
    """One model in full: verdict, facts, failing checks with their counterexamples, tables."""
    screen.line(headline(model), STYLES[model.outcome])
    _show_tables(screen, model, _ROWS_AT_ONCE)
    if model.checks:
        screen.line()
        screen.table(check_table(model))
    if model.unverified:
        shown = ", ".join(model.unverified[:_ROWS_AT_ONCE])
        more = len(model.unverified) - _ROWS_AT_ONCE
        screen.line(
            f"  never active in any input tried, so not verified in floating point: {shown}" + _more(more), "yellow"
        )
    show_failures(screen, model)


def show_partition(screen: Screen, model: ModelReport) -> None:
    """What can be removed from a model and what cannot, without a verdict."""
    screen.line(overview(model))
    _show_tables(screen, model, None)


def _show_tables(screen: Screen, model: ModelReport, most_groups: int | None) -> None:
    for name, value in facts(model):
        screen.line(f"  {name}: {value}")
    if model.groups:
        screen.line()
        _show_groups(screen, model, most_groups)
    if model.held_back:
        screen.line()
        screen.table(held_back_table(model))


def show_model_briefly(screen: Screen, model: ModelReport) -> None:
    """One model of several: verdict, facts and failing checks; the tables are in the report."""
    screen.line(headline(model), STYLES[model.outcome])
    for name, value in facts(model):
        screen.line(f"  {name}: {value}")
    show_failures(screen, model)


def show_failures(screen: Screen, model: ModelReport) -> None:
    """Each check that did not pass: its message and its counterexample."""
    for check in unhappy(model):
        screen.line()
        screen.line(f"  {check.outcome.value}: {check.id}: {check.message or check.title}", STYLES[check.outcome])
        for name, value in detail_lines(check):
            screen.line(f"    {name}: {value}")


def _show_groups(screen: Screen, model: ModelReport, most: int | None) -> None:
    content = group_table(model)
    hidden = 0 if most is None else len(content.rows) - most
    screen.table(Table(content.headers, content.rows[:most], content.right))
    if hidden > 0:
        screen.line(f"  and {hidden} more axes: conformance groups {model.spec}", "dim")


def _more(number: int) -> str:
    return f", and {number} more" if number > 0 else ""
