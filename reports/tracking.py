"""Rows of a suite in MLflow: a parent run for the suite, a child for every job, found again by the job's key."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conformance.errors import UsageError
from reports.rows import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES = ("result.json", "plan.json", "subnet.safetensors", "masks.safetensors", "history.jsonl", "row.json")
_BATCH = 900  # MLflow takes at most 1000 figures at once
_PATIENCE = 10
"""Seconds to wait for a server's port; MLflow itself would try again and again, for minutes."""

ALIAS = "winner"


class Tracking:
    """One suite's runs on a tracking server or database.

    uri is any tracking URI (`sqlite:///FILE`, `http://HOST:PORT`). The experiment is the suite's name; artifacts of a
    database lie in `artifacts` beside it. Nothing global of MLflow is changed.
    """

    def __init__(self, uri: str, suite: str, artifacts: Path | None = None) -> None:
        """Open the experiment, made when missing. Raises UsageError when the server cannot be reached."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.uri, self.suite = uri, suite
        _listening(uri)
        try:
            self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = self.client.get_experiment_by_name(suite)
            location = None if artifacts is None else artifacts.resolve().as_uri()
            self.experiment = found.experiment_id if found else self.client.create_experiment(suite, location)
        except (MlflowException, OSError) as error:
            raise UsageError(f"the tracking server {uri} cannot be used: {str(error).splitlines()[0]}") from error
        self._parent: str | None = None
        self._monitor: Any = None

    # -- the suite's run -----------------------------------------------------------------------

    def begin(self, tags: dict[str, str]) -> str:
        """Open the suite's run, or the one that was broken off, and record the system's figures into it."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        found = self._find(f"tags.suite = '{self.suite}' and tags.kind = 'suite' and attributes.status = 'RUNNING'")
        if found is None:
            run = self.client.create_run(
                self.experiment, run_name=self.suite, tags={"kind": "suite", "suite": self.suite, **tags}
            )
            found = str(run.info.run_id)
        self._parent = found
        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            found, sampling_interval=10, resume_logging=True, tracking_uri=self.uri
        )
        self._monitor.start()
        return found

    def end(self, *, finished: bool) -> None:
        """Close the suite's run; one that is not finished stays open, to be gone on with."""
        if self._monitor is not None:
            self._monitor.finish()
        if self._parent is not None and finished:
            self.client.set_terminated(self._parent, "FINISHED")

    # -- a job's run ---------------------------------------------------------------------------

    def log(self, row: Row, folder: Path) -> str:
        """Log a job's row with its files, once: a row that is known only gets what is new. The run's id."""
        found = self._find(f"tags.`job.key` = '{row.key}'")
        if found is None:
            tags = {"kind": "job", "job.key": row.key, **_tags(row)}
            if self._parent is not None:
                tags["mlflow.parentRunId"] = self._parent
            run = self.client.create_run(self.experiment, run_name=title(row), tags=tags)
            found = str(run.info.run_id)
            self._log_dataset(found, row)
            for name, value in _params(row).items():
                self.client.log_param(found, name, value)
            self._log_history(found, folder / "history.jsonl")
        for name, value in _tags(row).items():
            self.client.set_tag(found, name, value)
        self._log_metrics(found, ((name, value, 0) for name, value in figures(row).items()))
        for name in FILES:
            if (folder / name).is_file():
                self.client.log_artifact(found, str(folder / name), "run")
        if (folder / "history.jsonl").is_file():
            self._log_curves(found, folder)
        self.client.set_terminated(found, "FINISHED" if row.status == "OK" else "FAILED")
        return found

    def register(self, row: Row, name: str, alias: str = ALIAS) -> str:
        """Make a job's subnet a version of the registered model `name` and point `alias` at it. The version.

        Raises UsageError for a row that is not proved, or was never logged.
        """
        from mlflow.exceptions import MlflowException

        if not row.conforming:
            raise UsageError(f"{row.model} by {row.method} is not proved exact and cannot be registered")
        found = self._find(f"tags.`job.key` = '{row.key}'")
        if found is None:
            raise UsageError(f"{row.model} by {row.method} is not among the runs of {self.uri}")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(found).info.artifact_uri}/run"
        version = self.client.create_model_version(name, source, found, tags={"job.key": row.key})
        self.client.set_registered_model_alias(name, alias, str(version.version))
        return str(version.version)

    def _find(self, filter_string: str) -> str | None:
        runs = self.client.search_runs([self.experiment], filter_string, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _log_dataset(self, run: str, row: Row) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(row.task, row.dataset[:36], "local", json.dumps({"task": row.task, "digest": row.dataset}))
        self.client.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])

    def _log_history(self, run: str, path: Path) -> None:
        if not path.is_file():
            return
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            part = json.loads(line)
            rows.setdefault((part.get("phase", ""), part["step"]), {}).update(part)
        self._log_metrics(
            run,
            (
                (f"{phase}/{name}", float(value), step)
                for (phase, step), part in rows.items()
                for name, value in part.items()
                if name not in ("phase", "step") and isinstance(value, (int, float))
            ),
        )

    def _log_metrics(self, run: str, values: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [Metric(name, value, now, step) for name, value, step in values]
        for start in range(0, len(made), _BATCH):
            self.client.log_batch(run, metrics=made[start : start + _BATCH])

    def _log_curves(self, run: str, folder: Path) -> None:
        from reports.curves import draw, read_curve

        draw([read_curve(folder)], folder / "curves.png")
        self.client.log_artifact(run, str(folder / "curves.png"), "plots")


def title(row: Row) -> str:
    """A run's name, different for rows that differ in seed only; tables cut the end off, so the method comes first."""
    # Dense training has no budget.
    return " ".join(filter(None, (row.method, row.budget, row.model, f"seed {row.seed}")))


def figures(row: Row) -> dict[str, float]:
    """A row's figures by the names they have in MLflow."""
    found: dict[str, float] = {}
    for stage, metrics in row.metrics.items():
        found |= {f"{stage}/{name}": value for name, value in metrics.items()}
    found |= {f"removed/{kind}": share for kind, share in row.removed.items()}
    found |= {f"seconds/{part}": value for part, value in row.seconds.items()}
    for name, pair in (("macs", row.macs), ("params", row.params), ("memory", row.memory)):
        for which, value in zip(("dense", "subnet"), pair or (), strict=False):
            if value is not None:
                found[f"{name}/{which}"] = float(value)
    for item in row.latency:
        for name in (
            "dense_p50",
            "dense_p90",
            "subnet_p50",
            "subnet_p90",
            "ratio",
            "ratio_low",
            "ratio_high",
            "throughput",
        ):
            found[f"latency/batch_{item.batch}/{name}"] = getattr(item, name)
    for name in ("value", "speedup_theory"):
        if (value := getattr(row, name)) is not None:
            found[name] = value
    found["conforming"] = float(row.conforming)
    return found


def _tags(row: Row) -> dict[str, str]:
    tags = {
        "verdict": row.verdict, "status": row.status, "division": row.division, "training": row.training,
        "commit": row.commit, "data_need": row.data_need,
    }  # fmt: skip
    tags |= {f"version.{name}": version for name, version in row.versions.items()}
    tags |= {f"hardware.{name}": value for name, value in row.hardware.items()}
    if row.error:
        tags["error"] = row.error[:5000]
    return tags


def _params(row: Row) -> dict[str, str]:
    params = {"model": row.model, "method": row.method, "budget": row.budget, "seed": row.seed, "task": row.task}
    params |= {f"option.{name}": value for name, value in row.options.items()}
    params |= {f"recipe.{name}": value for name, value in row.recipe.items()}
    return {name: str(value)[:5000] for name, value in params.items()}


def _listening(uri: str) -> None:
    """Raises UsageError when nothing listens where an `http(s)://` URI points."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _PATIENCE).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"the tracking server {uri} cannot be used: {error}") from error
