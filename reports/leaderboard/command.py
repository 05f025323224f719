"""`conformance leaderboard`: everything that is made from stored rows, in one folder."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from conformance.cli.options import TracebackOption
from conformance.errors import UsageError
from conformance.report.files import make_folder, write_together

_CONTENT, _INDEX = "leaderboard.json", "files.json"


def leaderboard(
    rows: Annotated[list[Path], typer.Argument(metavar="ROWS", help="Files of rows, JSON lines.", dir_okay=False)],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.", file_okay=False)],
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Where folders of runs are, named after the keys of rows; looked for beside ROWS, too.",
            file_okay=False,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the pages.")] = "Structured pruning leaderboard",
    pictures: Annotated[bool, typer.Option(help="PNG plots, which need matplotlib.")] = True,
    traceback: TracebackOption = False,
) -> None:
    """Make the leaderboard from stored rows: index.html, Markdown, CSV, JSON, plots, a page for each run.

    The same rows and run folders give the same bytes. The pages need no server and no network. Files of an earlier
    leaderboard in DIR that this one does not have are taken away. Ends with 0, or with 2 for rows that cannot be
    read.
    """
    from reports.leaderboard.boards import make_boards
    from reports.leaderboard.document import as_json, document
    from reports.leaderboard.overall import make_overall
    from reports.leaderboard.site import pages
    from reports.leaderboard.text import as_csv, markdown
    from reports.rows import read_rows

    made = make_boards(row for path in rows for row in read_rows(path))
    if not made.rows:
        raise UsageError(f"there is no row in {', '.join(str(path) for path in rows)}")
    make_folder(output)
    content = document(made, make_overall(made.boards))
    places = [*(runs or ()), *(place for path in rows for place in (path.parent / "jobs", path.parent))]
    plots = _plots(content) if pictures else {}
    top, run_files = pages(content, made.rows, places, title, list(plots))
    top |= {_CONTENT: as_json(content), "leaderboard.csv": as_csv(content), "leaderboard.md": markdown(content, title)}
    old = _earlier(output)
    write_together(output / "runs", run_files)
    if plots:
        write_together(output / "plots", plots)
    new = [*top, *(f"runs/{name}" for name in run_files), *(f"plots/{name}" for name in plots)]
    write_together(output, top | {_INDEX: json.dumps(sorted(new), indent=1) + "\n"})
    for name in old - set(new):
        (output / name).unlink(missing_ok=True)
    told = f"{len(made.rows)} rows, {len(made.boards)} boards, {len(plots)} plots"
    typer.echo(f"{told}: {output / 'index.html'}")


def _plots(content: Mapping[str, Any]) -> dict[str, Any]:
    try:
        import matplotlib  # noqa: F401, ICN001 - only whether it is there
    except ImportError as error:
        raise UsageError("the plots need matplotlib: install the extra `bench`, or give --no-pictures") from error
    from reports.leaderboard.figures import draw, draw_suite, drawable, styles, suites

    style = styles(content)
    plots = {f"{name}.png": functools.partial(draw, boards, style) for name, boards in drawable(content).items()}
    return plots | {
        f"{name}.png": functools.partial(draw_suite, all_of, style) for name, all_of in suites(content).items()
    }


def _earlier(output: Path) -> set[str]:
    """The files of the leaderboard that is in the folder already, as it lists them itself; none outside it."""
    try:
        listed = json.loads((output / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return set(_inside(listed)) if isinstance(listed, list) else set()


def _inside(names: Iterable[Any]) -> Iterable[str]:
    for name in names:
        if isinstance(name, str) and re.fullmatch(r"((runs|plots)/)?[A-Za-z0-9_-]+\.[a-z]+", name):
            yield name
