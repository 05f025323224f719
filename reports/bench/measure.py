"""Speed and memory of a subnet beside its dense model: in turns, in one process, with an interval for the ratio."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.method.timing import in_turns
from reports.rows import Latency


def latency(
    dense: torch.nn.Module, subnet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *,
    batch: int, turns: int, seconds: float,
) -> Latency:  # fmt: skip
    """Seconds of forward passes in eval mode without gradients, dense and subnet in turns.

    What goes first changes with every turn, so that drift of the machine falls on both. Ends after `turns` turns, or
    after `seconds` with 7 at least.
    """
    modules = [copy.deepcopy(module).eval() for module in (dense, subnet)]
    with torch.inference_mode():
        one, other = in_turns(
            lambda: modules[0](*args, **kwargs), lambda: modules[1](*args, **kwargs), turns=turns, seconds=seconds
        )
    ratio, low, high = ratio_interval(one, other)
    return Latency(
        batch=batch, turns=len(one),
        dense_p50=float(np.quantile(one, 0.5)), dense_p90=float(np.quantile(one, 0.9)),
        subnet_p50=float(np.quantile(other, 0.5)), subnet_p90=float(np.quantile(other, 0.9)),
        ratio=ratio, ratio_low=low, ratio_high=high, throughput=batch / float(np.quantile(other, 0.5)),
    )  # fmt: skip


def ratio_interval(one: np.ndarray, other: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Median of one / other over paired turns, with a 95 % percentile bootstrap interval of that median."""
    ratios = one / other
    rng = np.random.default_rng(0)
    medians = np.median(ratios[rng.integers(0, ratios.size, (draws, ratios.size))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def peak_memory(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Bytes that one forward pass holds at most, parameters and buffers included.

    On CUDA the allocator's own peak; on the CPU what torch's allocator asked for, by its profiler.
    """
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    state = sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        with torch.inference_mode():
            module(*args, **kwargs)
        return int(torch.cuda.max_memory_allocated(device))
    return state + _cpu_activations(module, args, kwargs)


def _cpu_activations(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The most bytes of results that were alive at once during a pass; views count with what they look at."""
    given = pytree.tree_leaves((args, kwargs, list(module.parameters()), list(module.buffers())))
    watch = _Watch(leaf.untyped_storage().data_ptr() for leaf in given if isinstance(leaf, torch.Tensor))
    with torch.no_grad(), watch:
        module(*args, **kwargs)
    return watch.peak


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory behind every result, from its first tensor to the end of its last."""

    def __init__(self, known: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = set(known)
        self.holders: dict[int, int] = {}
        self.alive = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._hold(leaf)
        return result

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self.known or not size:
            return
        if not self.holders.get(place):
            self.alive += size
            self.peak = max(self.peak, self.alive)
        self.holders[place] = self.holders.get(place, 0) + 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self.holders[place] -= 1
        if not self.holders[place]:
            self.alive -= size
