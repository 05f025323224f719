"""The process that runs one job: `python -m reports.bench.worker FOLDER [--measure]`.

FOLDER holds job.json. A run leaves what `conformance prune` leaves and row.json last; --measure adds latency and
memory to the row of a finished run. Progress goes to standard output as lines of JSON. The process ends when its
standard input does: a runner that was killed leaves nobody behind.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import torch

from conformance.method.budget import Cost
from conformance.method.execute import built, execute, task_of
from conformance.method.host import Result
from conformance.method.outcome import MODEL, write_outcome
from conformance.method.train import Progress
from conformance.partition.selection import Selection
from conformance.report.environment import deciding_versions
from conformance.report.files import write_together
from reports.bench.job import Job, job_from
from reports.bench.measure import latency, peak_memory
from reports.bench.place import commit, hardware
from reports.rows import Row

JOB, ROW, LOG = "job.json", "row.json", "worker.log"


def run_job(folder: Path, progress: Progress) -> Row:
    """Run or resume the job in `folder` and write its row."""
    job = job_from(json.loads((folder / JOB).read_text(encoding="utf-8")))
    result = execute(job.config, folder, progress=progress)
    done = write_outcome(folder, job.config, result)
    row = row_of(job, result)
    if done.not_saved:
        row = row.model_copy(update={"verdict_reason": f"the subnet is not saved: {done.not_saved}"})
    write_row(folder, row)
    return row


def row_of(job: Job, result: Result) -> Row:
    """Everything of the row but its timings."""
    facts = result.method.facts
    stages = list(result.metrics.values())
    structural = isinstance(result.decision, Selection)
    macs = params = None
    theory = None
    if isinstance(result.decision, Selection):
        cost = Cost(result.decision.groups)
        macs, params = (cost.macs(), cost.macs(result.decision)), (cost.params(), cost.params(result.decision))
        theory = macs[0] / macs[1] if macs[1] else None
    if structural:
        verdict, reason = (result.verdict.status.value, result.verdict.reason) if result.verdict else ("", "")
    else:
        verdict, reason = ("masks hold" if result.holds else "masks do not hold"), ""
    trained: Literal["trained", "none"] = "trained" if facts.driver in ("train", "rounds") else "none"
    return Row(
        **identity(job), status="OK", data_need=facts.data.value, driver=facts.driver.value,
        granularity=facts.granularity, exactness=facts.exactness, paper=facts.paper, metrics=result.metrics,
        value=stages[-1][job.metric] if stages else None, removed=result.removed, macs=macs, params=params,
        speedup_theory=theory, verdict=verdict, verdict_reason=reason, seconds=result.seconds,
        training="finetuned" if "finetuned" in result.metrics and trained == "none" else trained,
    )  # fmt: skip


def identity(job: Job) -> dict[str, Any]:
    """What a row says of its job, finished or failed."""
    from dataclasses import asdict

    config = job.config
    return {
        "key": job.key, "suite": job.suite, "caption": job.caption,
        "model": config.model, "method": config.method, "options": config.options,
        "budget": "" if job.dense else config.budget, "seed": config.seed, "task": config.task or "",
        "dataset": job.dataset, "metric": job.metric, "division": job.division, "recipe": asdict(config.recipe),
        "versions": deciding_versions(), "hardware": hardware(config.device), "commit": commit(),
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def measure_job(folder: Path) -> Row:
    """Time the finished subnet beside its dense model, and add that to the row."""
    from safetensors.torch import load_file

    import conformance as pc

    row = Row.model_validate_json((folder / ROW).read_text(encoding="utf-8"))
    job = job_from(json.loads((folder / JOB).read_text(encoding="utf-8")))
    if row.granularity == "weight" or not (folder / "plan.json").exists():
        return row
    task = task_of(job.config)
    assert task is not None
    dense, (args, kwargs) = built(job.config, task)
    device = torch.device(job.config.device)
    subnet = pc.load_subnet(dense, folder, args, kwargs)
    dense.load_state_dict(load_file(folder / MODEL))
    dense, subnet = dense.to(device).eval(), subnet.to(device).eval()
    found = []
    memory: tuple[int | None, int | None] = (None, None)
    for batch in job.measure.batches:
        given = next(task.batches("test", batch)).to(device)
        inputs = given.args, dict(given.kwargs)
        found.append(latency(dense, subnet, *inputs, batch=batch, turns=job.measure.turns, seconds=job.measure.seconds))
        memory = peak_memory(dense, *inputs), peak_memory(subnet, *inputs)
    row = row.model_copy(update={"latency": tuple(found), "memory": memory})
    write_row(folder, row)
    return row


def write_row(folder: Path, row: Row) -> None:
    """row.json, whole or not at all."""
    write_together(folder, {ROW: json.dumps(row.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"})


def work(folder: Path, measure: bool, told: Progress) -> None:
    """Run the job, or time what it left. told hears of progress twice a second at most."""
    last = [-1.0]

    def progress(what: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 0.5 or done == total:
            last[0] = time.monotonic()
            told(what, done, total)

    if measure:
        measure_job(folder)
    else:
        run_job(folder, progress)


def main(arguments: list[str]) -> int:
    """The process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def told(what: str, done: int, total: int) -> None:
        sys.stdout.write(json.dumps({"progress": [what, done, total]}) + "\n")
        sys.stdout.flush()

    work(Path(arguments[0]), "--measure" in arguments[1:], told)
    return 0


def _end_with_parent() -> None:
    """Nobody writes to the standard input: its end means that the runner is gone."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
