"""A step of each sparse optimizer beside a step of its base with the same hyperparameters."""

from __future__ import annotations

import copy
import functools
import gc
import time

import pytest
import torch
from measure import Clock, against, backend_of, built, called, inputs_of, seconds

import conformance as pc
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import DHSPG, HESSO, HSPG, Quota, Rows

pytestmark = [pytest.mark.bench, pytest.mark.zoo, pytest.mark.slow, pytest.mark.benchmark(timer=time.process_time)]

TITLE = "A step of a sparse optimizer, beside its base"
FADING_GOAL, HALF_SPACE_GOAL = 1.15, 1.5
MODELS = {
    "torchvision:resnet50": lambda p, **told: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4, **told),
    "transformers:bert-base": lambda p, **told: torch.optim.AdamW(p, lr=1e-5, **told),
}
CASES = {
    # name: class, options, steps before the clock runs, goal
    "HESSO, a step that scores": (HESSO, {"start_step": 0, "pruning_steps": 10000, "periods": 10000}, 0, None),
    "HESSO, groups fading": (HESSO, {"start_step": 0, "pruning_steps": 1000, "periods": 10}, 3, FADING_GOAL),
    "HESSO, groups at zero": (HESSO, {"start_step": 0, "pruning_steps": 1, "periods": 1}, 3, FADING_GOAL),
    "HSPG, first stage": (HSPG, {"start_step": 10000}, 3, HALF_SPACE_GOAL),
    "HSPG, projecting": (HSPG, {"start_step": 0}, 3, HALF_SPACE_GOAL),
    "DHSPG, penalising": (DHSPG, {"start_step": 0, "penalty": 1e-5}, 3, HALF_SPACE_GOAL),
}


@functools.cache
def prepared(spec):
    """The model and its groups, once for all cases."""
    backend = backend_of(spec)
    model = built(backend)
    args, kwargs = inputs_of(backend, 2)
    return model, pc.partition(pc.trace(model, args, kwargs))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def gradients(model):
    draw = torch.Generator().manual_seed(1)
    noise = 1e-3 * torch.randn(1 << 20, generator=draw)
    for parameter in model.parameters():
        size = parameter.numel()
        values = noise.repeat(-(-size // noise.numel()))[:size].view(parameter.shape).clone()
        parameter.grad = values.to(parameter.device)


models = pytest.mark.parametrize("spec", MODELS)
devices = pytest.mark.parametrize("device", DEVICES)


@models
@pytest.mark.parametrize("case", CASES)
@devices
def test_beside_the_base(benchmark, row, spec, case, device):
    """Half of the groups are to leave; gradients are random and stay the same."""
    goal = CASES[case][3]
    assert beside(benchmark, row, spec, case, device) <= (goal or float("inf"))


@models
@pytest.mark.parametrize("case", [name for name, (_, _, steps, _) in CASES.items() if steps])
@devices
def test_beside_a_fused_base(benchmark, row, spec, case, device):
    """Told, without a goal: what is there beyond a step that is as fast already."""
    beside(benchmark, row, spec, case, device, fused=True)


def beside(benchmark, row, spec, case, device, **told):
    """The ratio of a step to one of a base that was told so; adds a row."""
    made, options, steps, goal = CASES[case]
    model, groups = prepared(spec)
    model, twin = copy.deepcopy(model).to(device), copy.deepcopy(model).to(device)
    gradients(model)
    gradients(twin)
    quota = Quota(groups, Budget("groups", 0.5), Limits(), Cost(groups))
    sparse = made(MODELS[spec](model.parameters(), **told), Rows(units(model, groups)), quota, **options)
    base = MODELS[spec](twin.parameters(), **told)
    for _ in range(steps or 1):
        base.step()
        sparse.step()
    clock = Clock(device)

    def turn() -> None:
        if not steps:
            sparse.steps = 0  # the step that scores, again
        gc.collect()
        clock.time("base", base.step)

    rounds = 7 if device == "cpu" else 15
    benchmark.pedantic(lambda: clock.time("sparse", sparse.step), setup=turn, rounds=rounds)
    ratio = clock["sparse"] / clock["base"]
    row(
        TITLE if device == "cpu" else f"{TITLE}, on a GPU",
        model=called(spec, None),
        optimizer=case,
        base=f"{type(base).__name__}{''.join(f', {word}' for word in told)} {seconds(clock['base'])}",
        step=seconds(clock["sparse"]),
        ratio=f"{ratio:.3g}" if goal is None or told else against(ratio, goal),
    )
    return ratio
