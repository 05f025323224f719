"""A configured run from beginning to end: what `conformance prune` and benchmarks do with a `RunConfig`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from conformance.backend import Backend, Inputs
from conformance.errors import UsageError
from conformance.method.config import RunConfig
from conformance.method.host import Options, Result, run
from conformance.method.protocol import DataNeed, Facts, Method
from conformance.method.registry import method_of
from conformance.method.task import DEFAULT, Task, backend_for, load_task, tasks
from conformance.method.train import Progress
from conformance.spec_loader import load


def execute(
    config: RunConfig, folder: Path | None = None, *, every: float = 60.0, progress: Progress = lambda *_: None
) -> Result:
    """Build the model, load its weights and data, and run the method.

    `folder` keeps the state of the run until `write_outcome` has written its result there.

    With a task the model is the one that fits it. Raises UsageError for everything of the configuration that
    cannot be, and whatever `run` raises.
    """
    chosen = method_for(config)
    budget = config.parsed_budget
    task = task_of(config)
    model, (args, kwargs) = built(config, task)
    options = Options(seed=config.seed, device=config.device, folder=folder, carry=config.carry, every=every, keep=True)
    return run(
        chosen, model, args, kwargs, budget=budget, task=task, recipe=config.recipe, limits=config.limits,
        options=options, progress=progress,
    )  # fmt: skip


def method_for(config: RunConfig) -> Method:
    """The method with its options. Raises UsageError for an unknown one, and for a class that declares no facts."""
    found = method_of(config.method, **config.options)
    if not isinstance(getattr(found, "facts", None), Facts):
        raise UsageError(f"{config.method} declares no facts, so nobody knows how to run it")
    return found


def with_task(config: RunConfig) -> RunConfig:
    """The same run with the default task where it needs one and names none; whoever asked should be told.

    A method without need of data gets one only where the recipe trains before or after it. Raises UsageError, with
    the tasks there are, for a model that the default does not fit.
    """
    chosen, trains = method_for(config), bool(config.recipe.dense_epochs or config.recipe.finetune_epochs)
    need = chosen.facts.data
    if config.task is not None or (need is DataNeed.NONE and not trains):
        return config
    known = f"give --task, one of {', '.join(sorted(tasks()))}"
    if config.data is not None:
        raise UsageError(f"--data says where a task looks, and there is none: {known}")
    load(config.model)  # what is wrong with the model itself is said as such
    try:
        backend_for(config.model, load_task(DEFAULT))
    except UsageError as error:
        words = DataNeed.TRAINING.words if need is DataNeed.NONE else need.words
        raise UsageError(
            f"{config.method} needs {words}, and the default task will not do: {error}; {known}"
        ) from error
    return replace(config, task=DEFAULT)


def task_of(config: RunConfig) -> Task | None:
    """The task with its data, None where the configuration has none."""
    return None if config.task is None else load_task(config.task, None if config.data is None else Path(config.data))


def built(config: RunConfig, task: Task | None) -> tuple[torch.nn.Module, Inputs]:
    """The model as the seed draws it or with the given weights, and example inputs of batch 2."""
    backend: Backend = load(config.model) if task is None else backend_for(config.model, task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = backend.build()
    if config.weights is not None:
        load_weights(model, Path(config.weights))
    return model, backend.inputs(2, torch.Generator().manual_seed(config.seed))


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a state_dict from safetensors. Raises UsageError when the file is not there or not this model's."""
    try:
        state: dict[str, Any] = load_file(path)
        model.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{path} does not hold this model's weights: {first}") from error
