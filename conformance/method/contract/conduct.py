"""What a method must leave alone: data above its level, the test split, and everything of the caller's."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from conformance.checks import subject as model_subject
from conformance.graph.tape import tensors_in
from conformance.method.contract.registry import CheckFailed, Finding, check
from conformance.method.contract.subject import Subject
from conformance.method.host import Options
from conformance.method.protocol import DataNeed


@check("M.data")
def data(subject: Subject) -> Finding:
    """It reads no data, no labels and no training split beyond the level it declares, and never the test split."""
    facts = subject.facts
    if facts.data is DataNeed.NONE:
        subject.result()  # made without a task
    task = subject.task
    task.seen.clear()
    subject.ran(subject.method(), task=task)
    seen = task.seen
    told = sorted(seen.asked) + [f"labels by {name}" for name in sorted(seen.labels)]
    if facts.data is DataNeed.NONE and told:
        raise CheckFailed(f"it declares D0 (no data) and read some: {', '.join(told)}", read=told)
    if "test" in seen.splits:
        raise CheckFailed("it asked for the test split, which no method may see", read=told)
    scored = {what for what in seen.asked if what == "loss" or what.startswith("evaluate")}
    if facts.data is DataNeed.UNLABELLED and (seen.labels or scored):
        raise CheckFailed(f"it declares D1 (unlabelled batches) and read labels: {', '.join(told)}", read=told)
    if facts.data is not DataNeed.NONE and not told:
        raise CheckFailed(f"it declares {facts.data.value} ({facts.data.words}) and read nothing")
    return Finding(1 + len(told), details={"read": told})


@check("M.untouched")
def untouched(subject: Subject) -> Finding:
    """The caller's model, its modes and class, and all random generators stay as they were."""
    model = subject.base.model
    caller, generators, settings = _outside(model), _generators(), _settings()
    before = _outputs(subject)
    # A shallow copy: what the method holds of the outside is the outside's.
    subject.ran(copy.copy(subject.given), options=Options(seed=subject.seed + 1, measure=False))
    looked = 0
    for what, one, other in (
        ("the caller's model", subject.before, model_subject.traits(model)),
        ("the caller's model", caller, _outside(model)),
        ("the process", generators, _generators()),
        ("the process", settings, _settings()),
    ):
        if changed := next((name for name in {**one, **other} if one.get(name) != other.get(name)), ""):
            raise CheckFailed(f"a run changes {changed} of {what}")
        looked += len(one)
    after = _outputs(subject)
    if len(before) != len(after) or any(
        model_subject.digest(one) != model_subject.digest(other) for one, other in zip(before, after, strict=True)
    ):
        raise CheckFailed("after a run the caller's model computes something else, with the same state")
    return Finding(looked + len(after))


def _outside(model: torch.nn.Module) -> dict[str, Any]:
    """What of a model is no state: gradients, what is trained, hooks, modules' classes."""
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        found[f"requires_grad of {name}"] = parameter.requires_grad
        found[f"the gradient of {name}"] = parameter.grad is not None
    for name, module in model.named_modules():
        found[f"the class of {name or 'the whole'}"] = type(module)
        found[f"the hooks of {name or 'the whole'}"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return found


def _generators() -> Mapping[str, Any]:
    return {
        "torch's random generator": torch.get_rng_state().numpy().tobytes(),
        "Python's random generator": hash(random.getstate()),
        "numpy's random generator": np.random.get_state()[1].tobytes(),  # type: ignore[index] # noqa: NPY002
    }


def _settings() -> dict[str, Any]:
    asked: dict[str, Callable[[], Any]] = {
        "the default dtype": torch.get_default_dtype,
        "whether gradients are recorded": torch.is_grad_enabled,
        "the number of threads": torch.get_num_threads,
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled,
    }
    return {name: function() for name, function in asked.items()}


def _outputs(subject: Subject) -> list[torch.Tensor]:
    args, kwargs = subject.base.inputs()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tensors_in(subject.base.model(*args, **kwargs))
