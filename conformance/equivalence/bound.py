"""How far apart two float64 evaluations of one function may be, measured on the model itself.

Removing zeros changes the order of sums, which moves each result by some roundings: at most
n * u relative to the sum of magnitudes for n terms (u = 2**-53), typically sqrt(n) * u. The bound
is found by moving every parameter by up to AMPLIFIED relative (512 u, more than the typical error of
sums of 2**17 terms) and seeing how far the outputs move; the model's own conditioning is thereby
part of the bound. A margin covers the luck of one draw.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.graph.tape import tensors_in
from conformance.graph.trace import decomposed

AMPLIFIED = 2.0**-44
MARGIN = 16.0
FLOOR = 2.0**-44


def error_bound(model: torch.nn.Module, given: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[Any, float]:
    """(outputs of a float64 model, largest acceptable difference relative to the largest output).

    The model must be the caller's own copy: its parameters are moved afterwards.
    """
    outputs = evaluate_wide(model, given)
    _perturb_(model)
    moved = evaluate_wide(model, given)
    worst = 0.0
    for a, b in zip(tensors_in(outputs), tensors_in(moved), strict=True):
        if a.is_floating_point() and a.shape == b.shape and torch.isfinite(a).any():
            scale = float(a[torch.isfinite(a)].abs().max())
            if scale > 0:
                worst = max(worst, float((a - b).nan_to_num().abs().max()) / scale)
    return outputs, max(MARGIN * worst, FLOOR)


def _perturb_(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=generator).to(parameter.device)
                parameter.mul_(1 + (2 * noise.double() - 1) * AMPLIFIED)


_FULL = torch.ops.aten.full.default


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a computation in float64: code that casts down to a narrower float gets float64 instead."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        dtype = kwargs.get("dtype")
        given = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        # Without a dtype a float fills the default type, which cannot hold the least number of a wider one.
        if given or (func is _FULL and dtype is None and isinstance(args[1], float)):
            kwargs["dtype"] = torch.float64
        result = _DECOMPOSED.get(func, func)(*args, **kwargs)
        if func._schema.is_mutable:
            return result
        return pytree.tree_map_only(torch.Tensor, _widened, result)


def _widened(leaf: torch.Tensor) -> torch.Tensor:
    """Constants made in the default type join the computation at its own width."""
    return leaf.double() if leaf.is_floating_point() else leaf


def _grouped_mm(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """aten._grouped_mm has no float64 kernel: one product for each expert's rows."""
    rows = torch.tensor_split(a, ends[:-1].tolist())
    return torch.cat([part @ b[expert] for expert, part in enumerate(rows)])


_DECOMPOSED = {torch.ops.aten._grouped_mm.default: _grouped_mm} if hasattr(torch.ops.aten, "_grouped_mm") else {}


def evaluate_wide(
    model: torch.nn.Module,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    above: Callable[[list[torch.Tensor]], AbstractContextManager[Any]] | None = None,
) -> Any:
    """One forward pass of a float64 model in float64 throughout.

    above makes a dispatch mode that sees the operations as the model's code calls them, of the tensors among
    the arguments it is called with.
    """
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.clone(), given)
    seen = nullcontext() if above is None else above(tensors_in((args, kwargs)))
    with decomposed(), torch.random.fork_rng(devices=[]), _Wide(), seen:  # type: ignore[no-untyped-call]
        torch.manual_seed(0)
        return model.eval()(*args, **kwargs)
