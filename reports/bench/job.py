"""The jobs of a suite: each named by the digest of everything its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from conformance.method.config import RunConfig
from conformance.method.ladder import Limits
from conformance.method.recipe import Recipe
from conformance.report.environment import deciding_versions
from reports.bench.suite import Board, Measure, MethodEntry, Suite, recipe_of

DENSE = "dense"


@dataclass(frozen=True)
class Job:
    """One run: a dense training, or a method on the weights of one.

    config is what `conformance prune` would be told; for a method its weights are those of the job `base`, filled
    in when it runs. dataset is the digest of the task's data.
    """

    suite: str
    config: RunConfig
    dataset: str
    metric: str
    base: str | None
    division: str
    measure: Measure
    caption: str = ""

    @property
    def dense(self) -> bool:
        """Whether this trains the model that methods begin with."""
        return self.config.method == DENSE

    @property
    def key(self) -> str:
        """A digest of what the result depends on: the same for the same job on any machine."""
        said = asdict(self.config)
        for name in ("data", "weights"):  # where files lie does not matter, what is in them does
            del said[name]
        depends = {
            "config": said,
            "dataset": self.dataset,
            "base": self.base,
            "measure": self.measure.model_dump(mode="json"),
            "versions": deciding_versions(),
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """For progress and logs."""
        parts = [self.config.model, self.config.method]
        if not self.dense:
            parts.append(self.config.budget)
        return " ".join([*parts, f"seed {self.config.seed}"])

    def to_dict(self) -> dict[str, Any]:
        """For the worker's file."""
        return {**asdict(self), "measure": self.measure.model_dump(mode="json"), "key": self.key}


def jobs(suite: Suite) -> list[Job]:
    """All jobs, dense ones first. Reads the tasks' data once. Raises UsageError for a task that cannot be had."""
    found = [job for board in suite.boards for job in _board_jobs(suite, board)]
    unique = {job.key: job for job in found}
    return sorted(unique.values(), key=lambda job: not job.dense)


def _board_jobs(suite: Suite, board: Board) -> Iterator[Job]:
    from pathlib import Path

    from conformance.method.task import load_task

    task = load_task(board.task, None if board.data is None else Path(board.data))
    for model in board.models:
        for seed in board.seeds:
            # Limits are for what prunes: boards that differ in them share dense models.
            config = replace(_config(board, model, DENSE, "groups=0", seed, board.dense), limits=Limits())
            dense = Job(suite.name, config, task.digest, task.metric, None, "closed", board.measure, suite.caption)
            yield dense
            for entry in board.methods:
                for budget in entry.budgets or board.budgets:
                    made = _config(board, model, entry.name, budget, seed, recipe_of(board, entry), entry)
                    division = "closed" if entry.recipe is None else "open"
                    base = dense.key if board.start == "dense" else None
                    yield replace(dense, config=made, base=base, division=division)


def _config(
    board: Board, model: str, name: str, budget: str, seed: int, recipe: Recipe, entry: MethodEntry | None = None
) -> RunConfig:
    return RunConfig(
        model=model, method=name, budget=budget, task=board.task, data=board.data, recipe=recipe, limits=board.limits,
        seed=seed, device=board.device, options={} if entry is None else dict(entry.options),
    )  # fmt: skip


def job_from(data: dict[str, Any]) -> Job:
    """What `to_dict` gave."""
    from conformance.method.config import config

    fields = dict(data)
    fields.pop("key", None)
    fields["config"] = config(fields["config"])
    fields["measure"] = Measure.model_validate(fields["measure"])
    return Job(**fields)
