"""Processes that train together decide alike: what follows from one's own batch or clock is agreed on first.

Each function is a collective operation where torch.distributed has more than one process: all call it at the same
step. Gradients are averaged before a step, so parameters are the same in all processes; losses are not, and measured
costs need not be.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from reference_impls.oto.quota import Numbers
from reference_impls.oto.rows import numbers


def several() -> bool:
    """Whether there is another process to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def same_everywhere(left: Numbers, count: int, device: torch.device) -> Numbers:
    """The first process's choice of group numbers (1 to count), in all of them."""
    if not several():
        return left
    flags = torch.zeros(count + 1, dtype=torch.uint8, device=device)
    flags[torch.from_numpy(left).to(device)] = 1
    dist.broadcast(flags, src=0)
    return numbers(flags)


def first_says(decided: bool, device: torch.device) -> bool:
    """The first process's answer, in all of them."""
    if not several():
        return decided
    flag = torch.tensor(int(decided), dtype=torch.uint8, device=device)
    dist.broadcast(flag, src=0)
    return bool(flag)


def mean_everywhere(loss: torch.Tensor | float, device: torch.device) -> float:
    """The loss of the global batch: the mean over processes, whose shares of it are equal."""
    if not several():
        return float(loss)
    total = torch.tensor(float(loss), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
