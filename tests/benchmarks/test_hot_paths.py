"""What every check and every run goes through, against a yardstick, and that against what was saved: the gate.

`--save-baselines` writes baselines.json anew. A path fails that takes more than GATE times its saved ratio.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from measure import Clock, backend_of, built, inputs_of, machine, race, seconds

import conformance as pc
from conformance.method.budget import Budget, Cost, solve
from conformance.method.ladder import ladder

pytestmark = [pytest.mark.bench, pytest.mark.zoo, pytest.mark.benchmark(timer=time.process_time)]

BASELINES = Path(__file__).parent / "baselines.json"
GATE, ATTEMPTS = 1.5, 3
"""Ratios move by up to a third from run to run on a busy machine: the least of several attempts counts."""

TITLE = "Hot paths, beside a yardstick"
MODELS = {"resnet50": ("torchvision:resnet50", (3, 224, 224)), "bert-base": ("transformers:bert-base", None)}


@functools.cache
def prepared(name):
    """Model, inputs, groups, half of them, and scores."""
    backend = backend_of(*MODELS[name])
    model, given = built(backend), inputs_of(backend, 2)
    groups = pc.partition(pc.trace(model, *given))
    scores = torch.rand(groups.count + 1, generator=torch.Generator().manual_seed(0))
    return model, given, groups, groups.sample(fraction=0.5, seed=0), scores


def interpreter(name):
    """Python and NumPy as the engine uses them: objects made and looked up, arrays sorted. The same for every model."""
    del name
    table: dict[tuple[int, int], list[int]] = {}
    for number in range(100_000):
        table.setdefault((number % 997, number % 31), []).append(number)
    assert len(table) == 997 * 31
    line = np.random.default_rng(0).integers(0, 1 << 20, 1 << 20)
    np.unique(line, return_inverse=True)


def both(name):
    """What the interpreter does, and the model's own weights copied once: a copy by itself is as fast as the machine's
    memory, which says nothing of the Python around it on another machine.
    """
    interpreter(name)
    for parameter in prepared(name)[0].parameters():
        parameter.detach().clone()


def traced(name):
    """The graph of the operations, on the meta device."""
    model, given, *_ = prepared(name)
    pc.trace(model, *given)


def partitioned(name):
    """The groups of that graph."""
    pc.partition(prepared(name)[2].graph)


def solved(name):
    """A ranking of all groups, and the rung that meets a budget in multiply-adds."""
    _, _, groups, _, scores = prepared(name)
    assert solve(ladder(groups, scores), Budget("macs", 0.5), Cost(groups))


def zeroed(name):
    """The full model with its zeros."""
    model, _, _, half, _ = prepared(name)
    pc.zero(model, half)


def extracted(name):
    """The subnet."""
    model, _, _, half, _ = prepared(name)
    pc.extract(model, half)


PATHS = [
    (traced, interpreter),
    (partitioned, interpreter),
    (solved, interpreter),
    (zeroed, both),
    (extracted, both),
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("path", "yardstick"), PATHS, ids=[path.__name__ for path, _ in PATHS])
def test_no_slower_than_saved(benchmark, row, request, name, path, yardstick):
    prepared(name)
    saving = request.config.getoption("--save-baselines")
    key = f"{path.__name__} {name}"
    saved = json.loads(BASELINES.read_text())["ratios"] if BASELINES.exists() else {}
    if not saving:
        assert key in saved, f"no baseline of {key}: run with --save-baselines"

    def ours(clock: Clock) -> None:
        clock.time("path", lambda: path(name))

    def theirs(clock: Clock) -> None:
        clock.time("yardstick", lambda: yardstick(name))

    clock = race(benchmark, ours, theirs, rounds=7)
    for _ in range(ATTEMPTS - 1):
        if not saving and clock["path"] / clock["yardstick"] <= GATE * saved[key]:
            break
        for _ in range(7):
            theirs(clock)
            ours(clock)
    ratio = clock["path"] / clock["yardstick"]
    if saving:
        saved[key] = float(f"{ratio:.3g}")
        text = json.dumps({"machine": machine(), "ratios": dict(sorted(saved.items()))}, indent=2)
        BASELINES.write_text(text + "\n")
    row(
        TITLE,
        path=path.__name__,
        model=name,
        time=seconds(clock["path"]),
        yardstick=f"{yardstick.__name__} {seconds(clock['yardstick'])}",
        ratio=f"{ratio:.3g}",
        saved=f"{saved[key]:.3g}",
        of_saved=f"{ratio / saved[key]:.2f} (gate {GATE})",
    )
    assert ratio <= GATE * saved[key], f"{key} takes {ratio / saved[key]:.2f} times what it took"
