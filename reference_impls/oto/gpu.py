"""Loops over rows on a GPU: one launch reads or writes the rows of all tensors of a dtype.

torch has no operation on some rows of many tensors, and one launch a tensor takes longer than the arithmetic. The
kernels are Triton's, which comes with torch where there is CUDA; elsewhere torch's operations do the same, tensor by
tensor.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UsageError
from reference_impls.oto.layout import FLOATS, Place, in_rows

kernels: Any = None
_missing = ""
try:
    from reference_impls.oto import kernels
except Exception as error:  # noqa: BLE001 - no Triton, or one that cannot be used here: the CPU needs none
    _missing = f"Triton cannot be imported: {type(error).__name__}: {error}"

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton runs kernels as Python then, on tensors of the CPU: for tests."""

_BLOCK, _WARPS = 512, 2

_TILE, _COLUMNS = 8, 128
"""Rows and columns that a program reads at a time."""

_LEAST, _PARTS = 64, 256
"""Rows that a program adds up at least, and in how many parts rows are added up at most."""

Numbers = npt.NDArray[np.int64]


_works: dict[tuple[torch.device, torch.dtype], bool] = {}
"""What was tried, and whether it did."""


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether rows of tensors there are for these kernels: tried once, as Triton needs a compiler and a GPU it knows.

    Rows asks first, when an optimizer is made. A trial that fails because the GPU does (out of memory, a fault before
    it) says nothing of the kernels: the error is raised, and whoever asks next tries again. Processes that train
    together need not find the same: they agree on what is decided, not on the way to it.
    """
    if dtype not in FLOATS or not (device.type == "cuda" or (_INTERPRETED and kernels is not None)):
        return False
    key = device, dtype
    if key not in _works:
        wrong = _missing or _tried(device, dtype)
        _works[key] = not wrong  # before the warning, which may be an error
        if wrong:
            warnings.warn(f"rows of {dtype} on {device} are left to torch, which is slower: {wrong}", stacklevel=2)
    return _works[key]


def _tried(device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong there, or nothing."""
    try:
        return _trial(device, dtype)
    except Exception as error:
        if _of_the_device(error):
            raise
        # Whatever Triton raises, torch's own operations can do the same work.
        return f"{type(error).__name__}: {error}"


def _of_the_device(error: Exception) -> bool:
    """Whether it is the GPU that fails; Triton gives the driver's words in a RuntimeError."""
    known = isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)
    return known or any(words in str(error) for words in ("out of memory", "illegal memory access", "launch failure"))


def _trial(device: torch.device, dtype: torch.dtype) -> str:
    """All kernels on a few rows, some longer than a block; what is wrong with the results, or nothing."""
    sums = torch.float64 if dtype is torch.float64 else torch.float32
    rows, size = np.array([0, 2]), _BLOCK + 3
    x = (torch.arange(3 * size, dtype=torch.float32).remainder(7) - 3).view(3, size).to(device, dtype)
    step, picked = 0.5 * x.flip(0), x[[0, 2]].to(sums)
    moved = step[[0, 2]].to(sums)
    table = Table([Item(x, rows, np.arange(2))])
    found = torch.zeros(3, 2, dtype=sums, device=device)
    right = []
    kept, taken = (torch.tensor(one, dtype=sums, device=device) for one in ([1.0, 0.5], [-0.25, 0.5]))
    for one, other in ((kept, taken), (kept, None), (None, taken)):
        into = x.clone()
        table.combine(one, other, [step], into=[into])
        combined = (1 if one is None else one[:, None]) * picked + (0 if other is None else other[:, None]) * moved
        right += [torch.allclose(into[[0, 2]], combined.to(dtype)), torch.equal(into[1], x[1])]
    for copied, other in ((False, step), (True, x)):
        at, moves = x.to(sums), torch.zeros_like(x, dtype=sums) if copied else step.to(sums)
        lines = torch.ones(3, size, dtype=sums, device=device)
        columns(x, other, copied, lines.unbind())
        pairs = ((at, at), (at, moves), (moves, moves))
        right.append(torch.allclose(lines, torch.stack([(one * another).sum(0) for one, another in pairs])))
        table.products([other], [copied], found)
        right.append(torch.allclose(found, torch.stack([(one * another).sum(1) for one, another in pairs])[:, [0, 2]]))
    return "" if all(right) else "Triton's kernels give other numbers there than torch does"


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
        with None among the steps. Where all steps are copies that are x itself, x alone is read.
        """
        at = [0 if step is None else step.data_ptr() for step in steps]
        pairs = zip(self.tensors, at, copied, strict=True)
        moves = any(step and not (copy and step == x.data_ptr()) for x, step, copy in pairs)
        name = "step" if moves else "still"  # asked in turns, each is known still
        self._launch(
            kernels.products,
            *(self._at("x", self.tensors), self._sent(name, at), self._sent(f"{name}, copied", [*map(int, copied)])),
            *(self._lengths, self._which, self._rows, self.places, figures, figures.stride(0)),
            MOVED=moves,
            SUM=kernels.TYPES[figures.dtype],
        )

    def _launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """A program a row."""
        with _on(self.device):
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


def _on(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current device, whatever the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def columns(x: torch.Tensor, step: torch.Tensor, copied: bool, out: Sequence[torch.Tensor]) -> None:
    """<x, x>, <x, moved> and <moved, moved> at each position of dimension 1, into three lines of shape (positions,).

    x and step are `in_rows` together; moved is step, or where it was copied step less x. Each is read once, without a
    temporary of its size: parts of the rows are added up side by side, and then the parts, always in the same order.
    Of a copy that is x itself only x is read.
    """
    rows, length = x.shape[0], math.prod(x.shape[1:])
    moves, each = not (copied and x.data_ptr() == step.data_ptr()), max(_LEAST, -(-rows // _PARTS))
    parts = max(-(-rows // each), 1)
    found = torch.empty(3 if moves else 1, parts, length, dtype=out[0].dtype, device=x.device)
    with _on(x.device):
        kernels.columns[(-(-length // _COLUMNS), parts)](
            *(x.detach(), step.detach(), float(copied), rows, length, each, found, parts * length),
            MOVED=moves,
            SUM=kernels.TYPES[found.dtype],
            TILE=_TILE,
            BLOCK=_COLUMNS,
        )
    # Entries of a row that belong to one position lie together, or with channels last behind one another.
    together = x.is_contiguous()
    shape = (x.shape[1], -1) if together else (-1, x.shape[1])
    totals = found.view(len(found), parts, *shape).sum((1, 3) if together else (1, 2))
    for number, line in enumerate(out):
        if number < len(totals):
            line.copy_(totals[number])
        else:
            line.zero_()


def not_captured() -> None:
    """Raise UsageError inside the capture of a CUDA graph: a replay would repeat one step's choices and addresses."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if started and torch.cuda.is_current_stream_capturing():
        raise UsageError("a sparse optimizer's step cannot be captured in a CUDA graph: capture forward and backward")


def sent(line: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A line from the CPU on a device; from pinned memory to a GPU, so that nothing waits for what it is doing."""
    return line.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else line.to(device)


def tables(places: Sequence[Place]) -> tuple[list[Table], list[Place]]:
    """Tables of places that are rows, one a device and dtype, and the places that are none."""
    found: dict[tuple[torch.device, torch.dtype], list[Item]] = {}
    rest: list[Place] = []
    for tensor, dim, positions in places:
        if dim or not usable(tensor.device, tensor.dtype) or not in_rows(tensor):
            rest.append((tensor, dim, positions.to(tensor.device)))
            continue
        items = found.setdefault((tensor.device, tensor.dtype), [])
        start = sum(item.rows.size for item in items)
        items.append(Item(tensor, positions.cpu().numpy(), np.arange(start, start + positions.numel())))
    return [Table(items) for items in found.values()], rest
