"""Rows as a benchmark would leave them, drawn from a seed: nothing in them was measured."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from reports.rows import Latency, Row, write_rows

METHODS = (  # name, data need, points lost at a budget of one half, points between seeds, driver
    ("random", "D0", 0.060, 0.006, "post"),
    ("l1", "D0", 0.021, 0.004, "post"),
    ("l2", "D0", 0.020, 0.004, "post"),
    ("lamp", "D0", 0.030, 0.004, "post"),
    ("hrank", "D1", 0.028, 0.005, "post"),
    ("taylor", "D2", 0.015, 0.004, "post"),
    ("hesso", "D3", 0.008, 0.002, "train"),
)
DENSE = {"handmade:conv-net": 0.97, "timm:resnet18": 0.941}


def row(method: str = "l2", seed: int = 0, value: float | None = 0.9, dense: float | None = 0.95, **changes) -> Row:
    """One row that conforms; `changes` replace any field."""
    given = {
        "suite": "small", "model": "handmade:conv-net", "budget": "macs=0.5", "task": "digits", "dataset": "digits",
        "metric": "accuracy", "training": "finetuned", "status": "OK", "data_need": "D0", "driver": "post",
        "granularity": "group", "exactness": "exact", "verdict": "equal", "macs": (1000, 500), "params": (2000, 900),
        "metrics": {} if dense is None else {"before": {"accuracy": dense}}, "finished": "2026-01-01T00:00:00",
    }  # fmt: skip
    given |= {"method": method, "seed": seed, "value": value} | changes
    told = {name: given[name] for name in ("suite", "model", "method", "budget", "seed", "task")}
    told |= {"options": given.get("options", {}), "division": given.get("division", "closed")}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    return Row(**{"key": digest} | given)


def rows(seeds: int = 4, budgets: tuple[float, ...] = (0.3, 0.5, 0.7)) -> list[Row]:
    """A whole suite with what goes wrong in practice: one failed, one that differs, one unsupported, one short."""
    made = [one for model in DENSE for budget in budgets for one in _cell(model, budget, seeds)]
    made.append(row("taylor", 0, 0.93, training="finetuned", division="open", recipe={"epochs": 90}, data_need="D2"))
    made.append(
        row("l2", 0, None, model="timm:vit_tiny", status="FAILED", error="out of memory: 8 GiB asked for", verdict="")
    )
    return made


def _cell(model: str, budget: float, seeds: int) -> Iterator[Row]:
    dense = DENSE[model]
    for method, need, loss, noise, driver in METHODS:
        for seed in range(seeds if method != "lamp" else 2):
            draw = random.Random(f"{model} {budget} {method} {seed}")
            shared = random.Random(f"{model} {seed}").gauss(0, 0.004)
            value = dense + shared - loss * (budget / 0.5) ** 2.2 + draw.gauss(0, noise)
            changes = {"value": round(value, 4)}
            if method == "hrank" and model == "timm:resnet18" and seed == 1:
                changes = {"status": "FAILED", "error": "Traceback: <b>killed</b>", "verdict": "", "value": None}
            if method == "l1" and budget == 0.7 and seed == 0:
                changes |= {"verdict": "different", "verdict_reason": "first in layer1.0.conv2"}
            yield _full(row(method, seed, dense=dense + shared, model=model, budget=f"macs={budget:g}",
                            data_need=need, driver=driver, training="trained" if driver == "train" else "finetuned",
                            **changes), budget, draw, dense + shared)  # fmt: skip


def _full(one: Row, budget: float, draw: random.Random, dense: float) -> Row:
    kept = 1 - budget - draw.uniform(0, 0.01)
    params = min(1.0, max(0.02, kept * draw.uniform(0.6, 1.4)))
    ratio = 1 + (1 / kept - 1) * draw.uniform(0.5, 0.7)
    recipe = {"epochs": 20, "batch": 64, "lr": 0.05, "finetune_epochs": 10}
    if one.driver == "train":
        metrics = {"masked": {"accuracy": one.value or 0.1}, "subnet": {"accuracy": one.value or 0.1}}
    else:
        metrics = {"before": {"accuracy": dense}, "masked": {"accuracy": 0.31}, "subnet": {"accuracy": 0.31}}
        metrics["finetuned"] = {"accuracy": one.value or 0.1}
    times = tuple(
        Latency(batch=batch, turns=30, dense_p50=0.002 * batch, dense_p90=0.0023 * batch,
                subnet_p50=0.002 * batch / ratio, subnet_p90=0.0024 * batch / ratio, ratio=ratio,
                ratio_low=ratio * 0.97, ratio_high=ratio * 1.04, throughput=ratio / 0.002)
        for batch in (1, 32)
    )  # fmt: skip
    return one.model_copy(
        update={
            "macs": (1_800_000_000, int(1_800_000_000 * kept)), "params": (11_700_000, int(11_700_000 * params)),
            "latency": () if one.status == "FAILED" else times, "metrics": metrics, "recipe": recipe,
            "memory": (52_000_000, int(52_000_000 * params)), "speedup_theory": 1 / kept,
            "removed": {"groups": budget, "params": 1 - params, "macs": 1 - kept},
            "seconds": {"method": draw.uniform(1, 90), "finetune": 210.5}, "versions": {"torch": "2.15.0"},
            "hardware": {"device": "cpu", "threads": "1"}, "commit": "a0b70c4", "paper": "Authors, Title, Venue 2020",
        }
    )  # fmt: skip


def write(folder: Path, made: list[Row]) -> Path:
    """The rows as rows.jsonl in the folder."""
    write_rows(folder / "rows.jsonl", made)
    return folder / "rows.jsonl"


def history(folder: Path, steps: int = 400) -> None:
    """A history of a run: loss at every step, the rest after each epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(str(folder.name))
    lines = []
    for step in range(steps):
        one = {"phase": "train", "step": step, "loss": 2.3 * 0.99**step + draw.uniform(0, 0.2)}
        if step % 40 == 39:
            one |= {"sparsity": min(0.5, step / 500), "validation_accuracy": 0.95 - 0.8 * 0.99**step}
        lines.append(json.dumps(one))
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
