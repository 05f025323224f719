"""Seconds of two calls in turns, so that what else the machine does falls on both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Seconds = npt.NDArray[np.float64]


def in_turns(
    one: Callable[[], Any], other: Callable[[], Any], *, turns: int, seconds: float, least: int = 7
) -> tuple[Seconds, Seconds]:
    """Seconds of each call in each turn, after two calls of each that do not count.

    Which goes first changes with every turn. Ends after `turns` turns, or after `seconds` with `least` at least.
    """
    calls = (one, other)
    taken: tuple[list[float], list[float]] = ([], [])
    for call in calls:
        for _ in range(2):
            _once(call)
    end = time.perf_counter() + seconds
    for turn in range(turns):
        if turn >= least and time.perf_counter() > end:
            break
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            taken[which].append(_once(calls[which]))
    return np.array(taken[0]), np.array(taken[1])


def _once(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
