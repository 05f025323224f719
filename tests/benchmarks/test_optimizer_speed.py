"""A step of each sparse optimizer beside a step of its base with the same hyperparameters."""

from __future__ import annotations

import copy
import functools
import gc
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from measure import Clock, against, backend_of, built, called, inputs_of, seconds

import conformance as pc
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import (
    DHSPG,
    HESSO,
    HESSOCRIC,
    HSPG,
    LHSPG,
    AdaHSPG,
    Cycles,
    Lora,
    Quota,
    Rows,
    attach,
)

pytestmark = [pytest.mark.bench, pytest.mark.zoo, pytest.mark.slow, pytest.mark.benchmark(timer=time.process_time)]

TITLE = "A step of a sparse optimizer, beside its base"
FADING_GOAL, HALF_SPACE_GOAL = 1.15, 1.5
MODELS = {
    "torchvision:resnet50": lambda p, **told: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4, **told),
    "transformers:bert-base": lambda p, **told: torch.optim.AdamW(p, lr=1e-5, **told),
}


@dataclass(frozen=True)
class Case:
    """An optimizer, its options, the steps before the clock runs (0: one, which is made again), and the goal."""

    made: type
    options: dict[str, Any]
    steps: int = 3
    goal: float | None = None
    state: dict[str, Any] = field(default_factory=dict)
    """Attributes that are set once it is made."""


CASES = {
    "HESSO, a step that scores": Case(HESSO, {"start_step": 0, "pruning_steps": 10000, "periods": 10000}, 0),
    "HESSO, groups fading": Case(HESSO, {"start_step": 0, "pruning_steps": 1000, "periods": 10}, goal=FADING_GOAL),
    "HESSO, groups at zero": Case(HESSO, {"start_step": 0, "pruning_steps": 1, "periods": 1}, goal=FADING_GOAL),
    "HSPG, first stage": Case(HSPG, {"start_step": 10000}, goal=HALF_SPACE_GOAL),
    "HSPG, projecting": Case(HSPG, {"start_step": 0}, goal=HALF_SPACE_GOAL),
    "DHSPG, penalising": Case(DHSPG, {"start_step": 0, "penalty": 1e-5}, goal=HALF_SPACE_GOAL),
    # No goals: these do more in a step than steps of the others. HESSO-CRIC scores all groups in every step of a cycle,
    # AdaHSPG+ wants the gradient at its anchor, of which only what follows from it is timed, and LHSPG's base steps
    # adapters, next to nothing beside the frozen weights that fade.
    "HESSO-CRIC, in a cycle": Case(
        HESSOCRIC, {"start_step": 0, "fade_steps": 10, "cycles": Cycles(steps=10000, most=1, loss_weight=0)}
    ),
    "AdaHSPG+, proximal": Case(AdaHSPG, {"phase_steps": 10000, "penalty": 1e-5}),
    "AdaHSPG+, half-space": Case(AdaHSPG, {"phase_steps": 10000, "penalty": 1e-5}, state={"phase": "half-space"}),
    "LHSPG, groups fading": Case(LHSPG, {"start_step": 1, "pruning_steps": 1000, "periods": 10}),
}


@dataclass(frozen=True)
class Use:
    """How training differs from the plain case."""

    fresh: bool = False
    """Gradients are tensors of their own in every step, as backward leaves them after zero_grad."""
    split: bool = False
    """Two param_groups: no weight decay for tensors of one dimension."""
    dtype: torch.dtype = torch.float32


USES = {
    "fresh gradients": Use(fresh=True),
    "fresh gradients, two param_groups": Use(fresh=True, split=True),
    "fresh gradients, bfloat16": Use(fresh=True, dtype=torch.bfloat16),
}
USED = ["HESSO, groups fading", "HSPG, projecting", "DHSPG, penalising"]


@functools.cache
def prepared(spec):
    """The model and its groups, once for all cases."""
    backend = backend_of(spec)
    model = built(backend)
    args, kwargs = inputs_of(backend, 2)
    return model, pc.partition(pc.trace(model, args, kwargs))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def drawn(parameters):
    """Random gradients, the same for the same parameters."""
    draw = torch.Generator().manual_seed(1)
    noise = 1e-3 * torch.randn(1 << 20, generator=draw)
    found = []
    for parameter in parameters:
        size = parameter.numel()
        values = noise.repeat(-(-size // noise.numel()))[:size].view(parameter.shape).clone()
        found.append(values.to(parameter.device, parameter.dtype))
    return found


def give(parameters, values, fresh=False):
    """The gradients as they were drawn: penalties are added to them in place."""
    for parameter, value in zip(parameters, values, strict=True):
        if fresh or parameter.grad is None:
            parameter.grad = value.clone()
        else:
            parameter.grad.copy_(value)


models = pytest.mark.parametrize("spec", MODELS)
devices = pytest.mark.parametrize("device", DEVICES)


@models
@pytest.mark.parametrize("case", CASES)
@devices
def test_beside_the_base(benchmark, row, spec, case, device):
    """Half of the groups are to leave; gradients are random, and the same before each step."""
    goal = CASES[case].goal
    assert beside(benchmark, row, spec, case, device) <= (goal or float("inf"))


@models
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.steps])
@devices
def test_beside_a_fused_base(benchmark, row, spec, case, device):
    """Told, without a goal: what is there beyond a step that is as fast already."""
    beside(benchmark, row, spec, case, device, fused=True)


@models
@pytest.mark.parametrize("case", USED)
@pytest.mark.parametrize("use", USES)
@pytest.mark.gpu
def test_as_it_is_used(benchmark, row, spec, case, use):
    """On a GPU, where what a step sends there and launches is much of its time. Without a goal."""
    beside(benchmark, row, spec, case, "cuda", use)


def stepper(case, model, groups, base):
    """The optimizer and what it trains. base makes one over parameters."""
    quota, extra = Quota(groups, Budget("groups", 0.5), Limits(), Cost(groups)), {}
    rows = Rows(units(model, groups))
    if case.made is LHSPG:
        extra["adapters"] = attach(model, groups, Lora(), torch.Generator().manual_seed(0))
        rows = Rows(extra["adapters"].units(units(model, groups)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if case.made is AdaHSPG:
        values = drawn(trained)
        extra["full"] = lambda: give(trained, values)
    sparse = case.made(base(trained), rows, quota, **extra, **case.options)
    for name, value in case.state.items():
        setattr(sparse, name, value)
    return sparse, trained


def based(spec, use, **told):
    """Makes the base over parameters."""

    def base(parameters):
        if not use.split:
            return MODELS[spec](parameters, **told)
        flat, rest = ([one for one in parameters if (one.ndim == 1) is short] for short in (True, False))
        return MODELS[spec]([{"params": rest}, {"params": flat, "weight_decay": 0.0}], **told)

    return base


def beside(benchmark, row, spec, case, device, use=None, **told):
    """The ratio of a step to one of a base that was told so; adds a row."""
    name, case = case, CASES[case]
    using = USES[use] if use else Use()
    model, groups = prepared(spec)
    model, twin = (copy.deepcopy(model).to(device, using.dtype) for _ in range(2))
    sparse, trained = stepper(case, model, groups, based(spec, using, **told))
    base, others = stepper(case, twin, groups, based(spec, using, **told))
    base = base.base
    values = drawn(trained)

    def prepare(parameters):
        give(parameters, values, using.fresh)

    def step():
        if isinstance(sparse, AdaHSPG):
            sparse.correct(lambda: give(trained, values))
        sparse.step(loss=1.0)

    for _ in range(case.steps or 1):
        prepare(others)
        base.step()
        prepare(trained)
        step()
    clock = Clock(device)

    def turn() -> None:
        if not case.steps:
            sparse.steps = 0  # the step that scores, again
        prepare(others)
        gc.collect()
        clock.time("base", base.step)
        prepare(trained)

    rounds = 7 if device == "cpu" else 15
    benchmark.pedantic(lambda: clock.time("sparse", step), setup=turn, rounds=rounds)
    ratio = clock["sparse"] / clock["base"]
    row(
        TITLE if device == "cpu" else f"{TITLE}, on a GPU",
        model=called(spec, None),
        optimizer=f"{name}, {use}" if use else name,
        base=f"{type(base).__name__}{''.join(f', {word}' for word in told)} {seconds(clock['base'])}",
        step=seconds(clock["sparse"]),
        ratio=f"{ratio:.3g}" if case.goal is None or told or use else against(ratio, case.goal),
    )
    return ratio
