"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from conformance.errors import UsageError
from conformance.report.markdown import report_markdown
from conformance.report.schema import Report

Content = str | Callable[[Path], None]
"""What a file is to hold: its text, or a function that writes it to the path it is given."""


def write_report(folder: Path, report: Report) -> list[Path]:
    """Write report.json and report.md into the folder (made when missing): both or none."""
    json_text = report.model_dump_json(indent=2) + "\n"
    return write_together(folder, {"report.json": json_text, "report.md": report_markdown(report)})


def make_folder(folder: Path) -> None:
    """Make the folder and see that files can be made in it; UsageError otherwise.

    Asked before a long run, so that its results do not fail at the last step.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"nothing can be written to {folder}: {error.strerror or error}") from error


def write_together(folder: Path, contents: Mapping[str, Content]) -> list[Path]:
    """Replace the named files by new ones: all of them, or on any error none. They are written in order.

    Everything that can run out (space, permissions) is used up on temporary files first. Should a
    replacement fail after that, the earlier ones are taken back.
    """
    make_folder(folder)
    new = {folder / name: _temporary(folder, name) for name in contents}
    kept: dict[Path, Path] = {}
    made: list[Path] = []
    try:
        for (_, temporary), content in zip(new.items(), contents.values(), strict=True):
            _write(temporary, content)
        for path in new:
            if path.exists():
                kept[path] = _temporary(folder, path.name)
                shutil.copyfile(path, kept[path])
        for path, temporary in new.items():
            temporary.replace(path)
            made.append(path)
    except BaseException:
        for path in made:
            if path in kept:
                kept[path].replace(path)
            else:
                path.unlink()
        raise
    finally:
        for leftover in (*new.values(), *kept.values()):
            leftover.unlink(missing_ok=True)
    return list(new)


def write_between(path: Path, marks: tuple[str, str], content: str) -> None:
    """Put the text between the two marks in the file (made when missing); the rest stays.

    Raises UsageError for a file without the marks.
    """
    begin, end = marks
    text = path.read_text(encoding="utf-8") if path.exists() else f"{begin}\n{end}\n"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UsageError(f"{path} has no lines {begin} and {end}, between which the table goes")
    write_together(path.parent, {path.name: f"{before}{begin}\n\n{content}\n{end}{after}"})


def append_line(path: Path, line: str) -> None:
    """Append one line in a single write and see it on the disk before returning."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        data = (line + "\n").encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(f"only a part of a line could be written to {path}")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(folder: Path, name: str) -> Path:
    descriptor, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    os.close(descriptor)
    return Path(path)


def _write(path: Path, content: Content) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="\n")
    else:
        content(path)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(NotImplementedError):  # mkstemp gives 0600; a report is for others, too
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
