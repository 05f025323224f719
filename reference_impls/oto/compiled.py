"""Loops over rows on a CPU, compiled: a row is read once for all that is asked of it, and other rows are not read.

torch has no operation that leaves rows out, and one product of two tensors' rows takes it a temporary of their size.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from reference_impls.oto.layout import in_rows

Array = npt.NDArray[Any]
Job = tuple[Any, ...]
"""Arguments of one of the loops below: its first is a matrix, its third the rows that are looked at."""


def _loop(function: Callable[..., None]) -> Callable[..., None]:
    """The function compiled. Its sums may be taken in any order, by vectors; what is not a number stays so."""
    options: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}
    compiled: Callable[..., None]
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it: compiled in every process
        compiled = numba.njit(**options)(function)
    return compiled


@_loop
def products(x: Array, step: Array, rows: Array, copied: bool, new: Array, cross: Array, length: Array) -> None:
    """<x, x>, <x, moved> and <moved, moved> of rows of x; moved is step's row, or step less x where it was copied.

    Copied rows are in the order in which they are looked at.
    """
    for place in range(rows.size):
        row, xx, xm, mm = x[rows[place]], x.dtype.type(0), x.dtype.type(0), x.dtype.type(0)
        for index in range(row.size):  # by itself: the same bits, whatever the step is
            xx += row[index] * row[index]
        if copied:
            old = step[place]
            for index in range(row.size):
                moved = old[index] - row[index]
                xm += row[index] * moved
                mm += moved * moved
        else:
            moves = step[rows[place]]
            for index in range(row.size):
                xm += row[index] * moves[index]
                mm += moves[index] * moves[index]
        new[place], cross[place], length[place] = xx, xm, mm


@_loop
def pull(x: Array, step: Array, rows: Array, copied: bool, factors: Array, scale: float) -> None:
    """Rows of x lose factor * x_old: step's row where that was copied, else x + scale * step's row."""
    for place in range(rows.size):
        row, factor = x[rows[place]], factors[place]
        if copied:
            old = step[place]
            for index in range(row.size):
                row[index] -= factor * old[index]
        else:
            moves, kept, taken = step[rows[place]], x.dtype.type(1) - factor, factor * x.dtype.type(scale)
            for index in range(row.size):
                row[index] = kept * row[index] - taken * moves[index]


def run(loop: Callable[..., None], jobs: Sequence[Job]) -> None:
    """All jobs, on as many threads as torch has."""
    threads = torch.get_num_threads()
    if threads == 1 or len(jobs) < 2:
        _all(loop, jobs)
        return
    loads: list[list[Job]] = [[] for _ in range(threads)]
    sizes = np.zeros(threads)
    for job in sorted(jobs, key=_size, reverse=True):
        least = int(sizes.argmin())
        loads[least].append(job)
        sizes[least] += _size(job)
    # The first load is this thread's own.
    others = [_pool(os.getpid(), threads - 1).submit(_all, loop, load) for load in loads[1:] if load]
    _all(loop, loads[0])
    for other in others:
        other.result()


def _all(loop: Callable[..., None], jobs: Sequence[Job]) -> None:
    for job in jobs:
        loop(*job)


def _size(job: Job) -> int:
    return int(job[0].shape[1] * job[2].size)


@functools.cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work. A process that was forked has none of its parent's."""
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="rows")


def as_rows(*tensors: torch.Tensor) -> tuple[Array, ...] | None:
    """Tensors that are `in_rows` as matrices that share their memory; None for others."""
    if not in_rows(*tensors):
        return None
    size = math.prod(tensors[0].shape[1:])
    return tuple(one.detach().as_strided((one.shape[0], size), (size, 1)).numpy() for one in tensors)
