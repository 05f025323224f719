"""The rows of a benchmark: one finished or failed job each, as lines of JSON that everything else is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conformance.errors import UsageError
from conformance.report.files import append_line

SCHEMA = "1.0"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Part):
    """Forward passes of one batch size, dense model and subnet measured in turns in one process.

    Seconds a pass: median and 90th percentile of each. ratio is dense / subnet (above 1: the subnet is faster), its
    median over the turns, with a 95 % interval by bootstrap. throughput is samples a second of the subnet's median.
    """

    batch: int
    turns: int
    dense_p50: float
    dense_p90: float
    subnet_p50: float
    subnet_p90: float
    ratio: float
    ratio_low: float
    ratio_high: float
    throughput: float


class Row(_Part):
    """One job: a model pruned by a method at a budget with a seed.

    key is the digest of everything the job depends on; files of the job lie in a folder of that name. caption is what
    the suite's tables must tell their readers. division is
    `closed` where the suite's own recipe was used, `open` otherwise; training says what a method's figures stand on:
    `none` (pruned only), `finetuned`, or `trained` (the method's own training run). metrics hold the task's figures
    by stage (before, masked, subnet, finetuned); metric names the one that ranks, and value is that of the last
    stage. macs, params and memory are (dense, subnet); memory in bytes, None where it cannot be measured.
    speedup_theory is dense MACs / subnet MACs. verdict is the field oracle's (`equal`, `different`,
    `unsupported`), or `masks hold` / `masks do not hold`; conforming says whether it is one of the good ones.
    """

    schema_version: str = SCHEMA
    key: str
    suite: str
    model: str
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    budget: str
    seed: int
    caption: str = ""
    task: str
    dataset: str
    metric: str
    division: Literal["closed", "open"] = "closed"
    training: Literal["none", "finetuned", "trained"] = "none"
    status: Literal["OK", "FAILED"]
    error: str = ""
    data_need: str = ""
    driver: str = ""
    granularity: str = ""
    exactness: str = ""
    paper: str = ""
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    value: float | None = None
    removed: dict[str, float] = Field(default_factory=dict)
    macs: tuple[int, int] | None = None
    params: tuple[int, int] | None = None
    memory: tuple[int | None, int | None] = (None, None)
    latency: tuple[Latency, ...] = ()
    speedup_theory: float | None = None
    verdict: str = ""
    verdict_reason: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)
    commit: str = ""
    finished: str = ""

    @property
    def conforming(self) -> bool:
        """Whether the result is proved: only such rows are ranked."""
        return self.status == "OK" and self.verdict in ("equal", "masks hold")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, the newest of each key, in the order their keys first came.

    A last line that was cut off by a kill is dropped. Raises UsageError for a file that is missing, and for another
    line that is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    found: dict[str, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = Row.model_validate(json.loads(line))
        except (ValueError, ValidationError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UsageError(f"{path}, line {number} is no row of a benchmark") from error
        found[row.key] = row
    return list(found.values())


def append_row(path: Path, row: Row) -> None:
    """Add one row, on the disk before this returns."""
    append_line(path, json.dumps(row.model_dump(mode="json"), sort_keys=True))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """All rows in one file, sorted by model, method, budget and seed, so that the same rows give the same bytes."""
    from conformance.report.files import write_together

    ordered = sorted(rows, key=lambda row: (row.suite, row.model, row.method, row.budget, row.seed, row.key))
    text = "".join(json.dumps(row.model_dump(mode="json"), sort_keys=True) + "\n" for row in ordered)
    write_together(path.parent, {path.name: text})
