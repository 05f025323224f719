"""Give every piece of state a value that would show a mistake.

Default initialisation hides bugs: batch-norm scales of one, biases of zero and equal running
statistics make channels interchangeable. `randomised` redraws what is degenerate.
"""

from __future__ import annotations

import copy

import torch

_SPREAD = 0.35


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A deep copy whose constant or near-constant parameters and running statistics are random.

    A floating parameter whose entries are all equal (norm scales, biases, layer scales, class
    tokens) is redrawn around its value, away from zero; running variances become positive,
    running means and biases are drawn about zero. Other parameters, masks and tables are kept.
    Random generator and model are left as they were.
    """
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for tensor in twin.parameters():
            if id(tensor) not in done and _degenerate(tensor):
                done.add(id(tensor))
                tensor.copy_(_around(tensor, generator))
        for module in twin.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if id(buffer) in done or not buffer.is_floating_point() or buffer.is_meta:
                    continue
                if _is_statistic(name, buffer):
                    done.add(id(buffer))
                    buffer.copy_(_statistic(name, buffer, generator))
    return twin


def _degenerate(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return False
    return bool((tensor == tensor.flatten()[0]).all())


def _around(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Near the constant value, never zero: scales keep the signal's size, biases become alive."""
    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    signs = torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, -1.0, 1.0)
    centre = float(tensor.flatten()[0])
    if abs(centre) < 1e-3:
        made = signs * (0.05 + _SPREAD * noise)
    else:
        made = centre * (1 + signs * _SPREAD * (0.2 + 0.8 * noise))
    return made.to(tensor.dtype).to(tensor.device)


def _is_statistic(name: str, buffer: torch.Tensor) -> bool:
    """Buffers of a normalisation layer: one-dimensional, constant, beside each other."""
    return buffer.ndim == 1 and name in {"running_mean", "running_var", "weight", "bias"} and _degenerate(buffer)


def _statistic(name: str, buffer: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
    made = 0.5 + noise if name in {"running_var", "weight"} else noise - 0.5
    return made.to(buffer.dtype).to(buffer.device)
