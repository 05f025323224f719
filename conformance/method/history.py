"""What a run logs, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conformance.method.run import Row
from conformance.report.files import make_folder


class History:
    """What a run logs, in memory and as lines of history.jsonl; all that is logged of a step is one row.

    Of several processes that train together one writes; the others read what there is.
    """

    NAME = "history.jsonl"

    def __init__(self, folder: Path | None, *, writes: bool = True) -> None:
        if folder is not None:
            make_folder(folder)
        self.path = None if folder is None else folder / self.NAME
        found: dict[tuple[Any, Any], Row] = {}
        if self.path is not None and self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            if writes and text and not text.endswith("\n"):
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("\n")  # or the next row would be lost with the one that was cut off
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # cut off by a kill
                    continue
                found.setdefault((row.get("phase"), row.get("step")), {}).update(row)
        self._rows, self._writes = found, writes

    @property
    def rows(self) -> list[Row]:
        """One row a step, in the order in which they began; those of an interrupted run before."""
        return list(self._rows.values())

    def add(self, row: Row) -> None:
        """Join `row` to what has been logged of its phase and step."""
        self._rows.setdefault((row.get("phase"), row.get("step")), {}).update(row)
        if self.path is not None and self._writes:
            # Not synced line by line: what a crash of the machine loses lies after the last checkpoint.
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
