"""What a run must leave as it was: the caller's model, and the process around it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conformance.backend import Inputs
from conformance.checks.subject import digest, traits
from conformance.graph.tape import tensors_in


@dataclass(frozen=True)
class Snapshot:
    """Everything that is compared, by name; values are equal when nothing changed."""

    seen: Mapping[str, Any]

    @classmethod
    def of(cls, model: torch.nn.Module, given: Inputs) -> Snapshot:
        """The model, what it computes on its inputs, random generators and settings, as they are now."""
        return cls({**traits(model), **_outside(model), **_generators(), **_settings(), **_outputs(model, given)})

    def changed(self, now: Snapshot) -> str:
        """The first name whose value is another one now; '' where there is none."""
        names = {**self.seen, **now.seen}
        return next((name for name in names if self.seen.get(name) != now.seen.get(name)), "")


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


def _outputs(model: torch.nn.Module, given: Inputs) -> dict[str, str]:
    """Another forward of the model's class shows here, though the state is the same."""
    args, kwargs = given
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = tensors_in(model(*args, **kwargs))
    return {f"output {number} of the caller's model": digest(tensor) for number, tensor in enumerate(found)}
