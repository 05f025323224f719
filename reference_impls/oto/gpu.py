"""Loops over rows on a GPU: one launch reads or writes the rows of all tensors of a dtype.

torch has no operation on some rows of many tensors, and one launch a tensor takes longer than the arithmetic. The
kernels are Triton's, which comes with torch where there is CUDA; elsewhere torch's operations do the same, tensor by
tensor.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reference_impls.oto.layout import Place, in_rows

kernels: Any
try:
    from reference_impls.oto import kernels
except ImportError:  # no CUDA, or a platform that Triton does not know
    kernels = None

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton runs kernels as Python then, on tensors of the CPU: for tests."""

_BLOCK, _WARPS = 512, 2

Numbers = npt.NDArray[np.int64]


def usable(device: torch.device) -> bool:
    """Whether rows of tensors there are for these kernels."""
    return kernels is not None and (device.type == "cuda" or _INTERPRETED) and _works(device)


@functools.cache
def _works(device: torch.device) -> bool:
    """Whether the kernels find there what torch finds: asked once, as Triton needs a C compiler and a GPU it knows."""
    try:
        wrong = _trial(device)
    except Exception as error:  # noqa: BLE001 - whatever Triton raises, torch's own operations can do the same work
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        warnings.warn(f"rows on {device} are left to torch, which is slower: {wrong}", stacklevel=3)
    return not wrong


def _trial(device: torch.device) -> str:
    """Both kernels on a few rows; what is wrong with the results, or nothing."""
    x = torch.arange(1.0, 13.0, device=device).view(3, 4)
    step, rows = 0.5 * x.flip(0), np.array([0, 2])
    table = Table([Item(x, rows, np.arange(2))])
    found, kept, taken = (torch.zeros(size, 2, device=device) for size in (3, 1, 1))
    kept += torch.tensor([1.0, 0.5], device=device)
    taken -= 0.25
    picked, moved = x[[0, 2]], step[[0, 2]]
    wanted = torch.stack([(one * other).sum(1) for one, other in ((picked, picked), (picked, moved), (moved, moved))])
    combined = kept.T * picked + taken.T * moved
    table.products([step], [False], found)
    table.combine(kept, taken, [step])
    right = torch.allclose(found, wanted) and torch.allclose(x[[0, 2]], combined) and float(x[1].sum()) == 26
    return "" if right else "Triton's kernels give other numbers there than torch does"


@dataclass(frozen=True)
class Item:
    """Rows of a tensor (positions in dimension 0), and their places in a long line; both int64."""

    tensor: torch.Tensor
    rows: Numbers
    places: Numbers


class Table:
    """Rows of tensors of one dtype on one device, as the kernels find them.

    Tensors are where they are when a method is called. That they still have their rows in one piece is the caller's to
    see.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        """All tensors have their rows in one piece (`in_rows`)."""
        self.tensors = [item.tensor for item in items]
        self.device, self.dtype = self.tensors[0].device, self.tensors[0].dtype
        self.sums = torch.float64 if self.dtype is torch.float64 else torch.float32
        """The dtype in which to give factors."""
        sizes = [item.rows.size for item in items]
        self.count = sum(sizes)
        self._which = self._line([np.repeat(np.arange(len(items)), sizes)])
        self._rows = self._line([item.rows for item in items])
        self.places = self._line([item.places for item in items])
        self._lengths = self._line([np.array([math.prod(one.shape[1:]) for one in self.tensors])])
        self._held: dict[str, tuple[list[int], torch.Tensor]] = {}

    def _line(self, parts: list[Numbers]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(self.device)

    def _sent(self, name: str, numbers: list[int]) -> torch.Tensor:
        """A number a tensor, on the device; sent there when one of them has changed."""
        held = self._held.get(name)
        if held is None or held[0] != numbers:
            held = self._held[name] = numbers, sent(torch.tensor(numbers, dtype=torch.int64), self.device)
        return held[1]

    def _at(self, name: str, tensors: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Where tensors lie, 0 for None."""
        return self._sent(name, [0 if tensor is None else tensor.data_ptr() for tensor in tensors])

    def products(self, steps: Sequence[torch.Tensor | None], copied: Sequence[bool], figures: torch.Tensor) -> None:
        """<x, x>, <x, moved> and <moved, moved> of every row, into three lines of shape (3, positions).

        moved is a row of steps, or that less x for tensors that are flagged in `copied`. Nothing is written for tensors
        with None among the steps.
        """
        self._launch(
            kernels.products,
            *(self._at("x", self.tensors), self._at("step", steps), self._sent("copied", [*map(int, copied)])),
            *(self._lengths, self._which, self._rows, self.places, figures, figures.stride(0)),
            SUM=kernels.TYPES[figures.dtype],
        )

    def _launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """A program a row. Triton launches on the current device, whatever the tensors are on."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext():
            kernel[(self.count,)](
                *arguments, **constants, TYPE=kernels.TYPES[self.dtype], BLOCK=_BLOCK, num_warps=_WARPS
            )

    def combine(
        self,
        kept: torch.Tensor | None,
        taken: torch.Tensor | None = None,
        others: Sequence[torch.Tensor | None] = (),
        into: Sequence[torch.Tensor | None] | None = None,
    ) -> None:
        """Rows become kept * row + taken * other's row; kept and taken are long lines, None for 1 and for 0.

        Rows that stay as they are are not read; where kept is 0 it does not matter what a row held. `into` are tensors
        of the same shapes to be changed in place of these. Tensors with None in either stay as they are.
        """
        if not self.count:
            return
        line = kept if kept is not None else taken
        assert line is not None
        pointers = self._at("x", self.tensors) if into is None else self._at("into", into)
        self._launch(
            kernels.combine,
            *(pointers, pointers if taken is None else self._at("other", others), self._lengths, self._which),
            *(self._rows, self.places, line if kept is None else kept, line if taken is None else taken),
            KEPT=kept is not None,
            TAKEN=taken is not None,
            SUM=kernels.TYPES[line.dtype],
        )


def sent(line: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A line from the CPU on a device; from pinned memory to a GPU, so that nothing waits for what it is doing."""
    return line.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else line.to(device)


def tables(places: Sequence[Place]) -> tuple[list[Table], list[Place]]:
    """Tables of places that are rows, one a device and dtype, and the places that are none."""
    found: dict[tuple[torch.device, torch.dtype], list[Item]] = {}
    rest: list[Place] = []
    for tensor, dim, positions in places:
        if dim or not usable(tensor.device) or not in_rows(tensor):
            rest.append((tensor, dim, positions.to(tensor.device)))
            continue
        items = found.setdefault((tensor.device, tensor.dtype), [])
        start = sum(item.rows.size for item in items)
        items.append(Item(tensor, positions.cpu().numpy(), np.arange(start, start + positions.numel())))
    return [Table(items) for items in found.values()], rest
