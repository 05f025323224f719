"""The library's door to the checks: one call on a module at hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.backend import Backend, Inputs
from conformance.checks.runner import GIVEN, Progress, check
from conformance.errors import UsageError
from conformance.graph.tape import as_arguments
from conformance.report.schema import ModelReport


def check_model(
    model: torch.nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    level: int = 2,
    seed: int = 0,
    name: str = "",
    progress: Progress | None = None,
    only: tuple[str, ...] = ("*",),
    remove: tuple[str, ...] = (),
) -> ModelReport:
    """Every check up to `level` on a module and its example inputs. The module is not changed.

    The inputs' first dimension is taken for the batch: other batch sizes and inputs are drawn by
    resampling the given ones along it (floats get fresh normal values). Degenerate state is
    randomised in a copy first, so that faults show. `only` and `remove` restrict level 2, as the command's
    options of these names do. Raises UsageError when there is no tensor input, and for what these two
    name and the model does not have.
    """
    backend = as_backend(model, args, kwargs, name)
    device = str(next((p.device for p in model.parameters()), torch.device("cpu")))
    return check(backend, level=level, seed=seed, device=device, progress=progress, only=only, remove=remove)


def as_backend(model: torch.nn.Module, args: Any = (), kwargs: dict[str, Any] | None = None, name: str = "") -> Backend:
    """The record of a module at hand, whose example inputs are drawn anew at other batch sizes.

    Raises UsageError when there is no tensor input with a batch dimension.
    """
    given: Inputs = (as_arguments(args), kwargs or {})
    tensors = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
    if not tensors or not tensors[0].ndim:
        raise UsageError("a module at hand needs example inputs with at least one tensor that has a batch dimension")
    size = tensors[0].shape[0]

    def inputs(batch: int, generator: torch.Generator) -> Inputs:
        drawn: Inputs = pytree.tree_map_only(torch.Tensor, lambda leaf: redrawn(leaf, size, batch, generator), given)
        return drawn

    return Backend(name or type(model).__name__, lambda: copy.deepcopy(model), inputs, source=GIVEN)


def redrawn(tensor: torch.Tensor, size: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """The tensor at another batch size: floats normal, others picked from the rows given."""
    if not tensor.ndim or tensor.shape[0] != size:
        return tensor.clone()
    if tensor.is_floating_point():
        noise = torch.randn((batch, *tensor.shape[1:]), generator=generator, dtype=torch.float64)
        return noise.to(tensor.dtype).to(tensor.device)
    rows = torch.randint(size, (batch,), generator=generator).to(tensor.device)
    return tensor[rows].clone()
