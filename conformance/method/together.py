"""Processes that train together: each takes its share of a batch, and all come to what one would with the whole.

`torch.distributed` says whether there are others; gradients are averaged by DistributedDataParallel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from conformance.errors import UsageError
from conformance.method.task import Batch


def rank() -> int:
    """This process's number among those that train together; 0 alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(batch: Batch) -> Batch:
    """Samples of this process: equal, consecutive shares of the batch. Raises UsageError where there are none."""
    if world() == 1:
        return batch
    size, rest = divmod(batch.size, world())
    if rest:
        raise UsageError(f"a batch of {batch.size} cannot be shared equally by {world()} processes")
    start, whole = rank() * size, batch.size

    def cut(leaf: torch.Tensor) -> torch.Tensor:
        return leaf[start : start + size] if leaf.ndim and leaf.shape[0] == whole else leaf

    return Batch(*pytree.tree_map_only(torch.Tensor, cut, (batch.args, dict(batch.kwargs), batch.target)))


def distributed(model: torch.nn.Module) -> torch.nn.Module:
    """The model, with gradients averaged over the processes where there are several."""
    return model if world() == 1 else torch.nn.parallel.DistributedDataParallel(model)


def mean(loss: torch.Tensor) -> torch.Tensor:
    """The loss of the whole batch, from that of each process's share."""
    if world() > 1:
        loss = loss.clone()  # backward comes after it
        dist.all_reduce(loss)
        loss = loss / world()
    return loss


def whole_batches() -> contextlib.AbstractContextManager[object]:
    """Within it batch norms that train normalise by the batch of all processes, and keep its statistics.

    torch's SyncBatchNorm does that on a GPU alone, and in modules that would have to take the place of the model's.
    """
    return _WholeBatches() if world() > 1 else contextlib.nullcontext()


class _WholeBatches(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the place of both functions that modules call; what the first calls itself is not seen here."""
        if func is torch.nn.functional.batch_norm:
            return _functional(*args, **(kwargs or {}))
        if func is torch.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _functional(
    input: torch.Tensor,  # noqa: A002 - torch's names
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As torch.nn.functional.batch_norm."""
    cudnn = torch.backends.cudnn.enabled
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)


def _batch_norm(
    input: torch.Tensor,  # noqa: A002 - torch's names
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> torch.Tensor:
    """As torch.batch_norm; the input has shape (batch, channels, *positions), and the processes' are of one shape."""
    x = input
    if not training:
        return torch.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    wide = x if x.dtype == torch.float64 else x.float()
    dims = [0, *range(2, x.ndim)]
    line = [1, -1, *[1] * (x.ndim - 2)]
    count = x.numel() // x.shape[1] * world()
    average = _total(wide.sum(dims)) / count
    centred = wide - average.view(line)
    variance = _total((centred**2).sum(dims)) / count
    found: torch.Tensor = centred * (variance + eps).rsqrt().view(line)
    if weight is not None:
        found = found * weight.view(line)
    if bias is not None:
        found = found + bias.view(line)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(average.to(running_mean), momentum)
        if running_var is not None:
            running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var), momentum)
    return found.to(x.dtype)


def _total(line: torch.Tensor) -> torch.Tensor:
    """The sum over processes, with a gradient."""
    found: torch.Tensor = all_reduce(line)  # type: ignore[no-untyped-call]
    return found
