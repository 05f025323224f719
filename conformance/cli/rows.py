"""The finished models of a sweep: one JSON line each, so that a sweep can be broken off and resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from conformance.errors import UsageError
from conformance.report.environment import deciding_versions, engine_digest
from conformance.report.files import append_line, write_together
from conformance.report.schema import ModelReport


@dataclass(frozen=True)
class Key:
    """What must be the same for a row to stand for a new run: versions of what decides, and the options."""

    versions: tuple[tuple[str, str], ...]
    level: int
    seed: int
    device: str
    dtype: str
    only: tuple[str, ...] = ("*",)
    exact_below: float | None = None
    budget: str = ""

    @classmethod
    def now(
        cls,
        level: int,
        seed: int,
        device: str,
        dtype: str,
        only: tuple[str, ...] = ("*",),
        exact_below: float | None = None,
        budget: str = "",
    ) -> Key:
        """The key of a run in this environment."""
        return cls(tuple(sorted(deciding_versions().items())), level, seed, device, dtype, only, exact_below, budget)


@dataclass(frozen=True)
class Row:
    """One finished model. engine is the digest of the source that checked it, for information."""

    key: Key
    engine: str
    report: ModelReport

    def to_json(self) -> str:
        """One line."""
        key = {**vars(self.key), "versions": dict(self.key.versions)}
        data = {"key": key, "engine": self.engine, "report": self.report.model_dump(mode="json")}
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The row of one line; ValueError when it is none."""
        try:
            data = json.loads(line)
            fields = dict(data["key"])
            fields["versions"] = tuple(sorted(fields["versions"].items()))
            fields["only"] = tuple(fields["only"])
            return cls(Key(**fields), data["engine"], ModelReport.model_validate(data["report"]))
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise ValueError(f"not a row of a sweep: {error}") from error


class Rows:
    """The file of rows. The newest row of a SPEC counts."""

    def __init__(self, path: Path, key: Key) -> None:
        self.path, self.key = path, key
        self._rows: dict[str, Row] = {}

    def load(self) -> None:
        """Read the rows of this key. A line cut off by a kill in the middle of a write is dropped.

        Raises UsageError when another line is no row: then the file is not ours to append to.
        """
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        cut_off = lines.pop()  # empty after a whole last line
        for number, line in enumerate(lines, 1):
            try:
                row = Row.from_json(line)
            except ValueError as error:
                raise UsageError(
                    f"line {number} of {self.path} is no finished model: repair it or start with --fresh"
                ) from error
            if row.key == self.key:
                self._rows[row.report.title] = row
        if cut_off:
            write_together(self.path.parent, {self.path.name: "".join(line + "\n" for line in lines)})

    def clear(self) -> None:
        """Forget every row, those of other keys too."""
        self._rows.clear()
        self.path.unlink(missing_ok=True)

    def add(self, report: ModelReport) -> None:
        """Keep one finished model; it is on the disk when this returns."""
        row = Row(self.key, engine_digest(), report)
        append_line(self.path, row.to_json())
        self._rows[report.title] = row

    def get(self, title: str) -> ModelReport | None:
        """The newest report of the model, or of `METHOD on MODEL`, under this key."""
        row = self._rows.get(title)
        return None if row is None else row.report

    def engines(self, specs: list[str]) -> dict[str, int]:
        """How many of these models each state of the engine's source checked."""
        found: dict[str, int] = {}
        for spec in specs:
            if spec in self._rows:
                engine = self._rows[spec].engine
                found[engine] = found.get(engine, 0) + 1
        return dict(sorted(found.items()))
