"""Code that reads computed values: `int(x.sum())`, a cast to whole numbers, `if x.max() > float(y)`.

A residue says nothing about the size of the number it stands for, and code needs one that it can count or
index with. So the full model runs once in float64, on the inputs as given, and what its code reads there is
noted by line of code. On residues the full model is handed these numbers; the other model is handed the same
ones, as long as the residues it reads are those the full model read. Then both go on with the same number
because they read the same value, whatever that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.equivalence.field.pointwise import whole_range
from conformance.equivalence.field.table import ANSWERS, Marks, bind, bounds, mark, may_hold_residues
from conformance.errors import UnsupportedOperation
from conformance.graph.tape import Source
from conformance.graph.trace import calling_line
from conformance.partition.rules import base_name

Number = torch.Tensor | float
"""What code gets to see: a Python number, or a tensor of whole numbers."""


class NumbersNeededError(Exception):
    """The model's code reads computed values: it has to run in float64 first."""


class ReadsDifferentError(Exception):
    """A model does not read what the full model reads; the message says at which read."""


@dataclass(frozen=True)
class Read:
    """How an operation reads a computed tensor; what names the operation and the type it reads as."""

    what: str
    value: torch.Tensor

    def __str__(self) -> str:
        return f"{self.what} of shape {tuple(self.value.shape)}"


def read_by(func: Any, args: Any, kwargs: Any) -> Read | None:
    """What an operation reads as a number or as whole numbers; None where it reads nothing."""
    name = base_name(func)
    if name in ("_local_scalar_dense", "item"):
        return Read(f"aten.{name}", args[0])
    if name == "_to_copy":
        dtype = kwargs.get("dtype")
        known = bounds(args[0]) is not None and all(map(_is_finite, bounds(args[0]) or ()))
        if dtype is None or not _is_whole(dtype) or known:
            return None
        return Read(f"aten._to_copy to {dtype}", args[0])
    if name == "copy" and isinstance(args[0], torch.Tensor) and not may_hold_residues(args[0].dtype):
        return Read(f"aten.copy to {args[0].dtype}", args[1])
    return None


def _is_finite(bound: float) -> bool:
    return abs(bound) != float("inf")


def _is_whole(dtype: torch.dtype) -> bool:
    """A type of integers. To booleans is a question (is it non-zero) that residues answer."""
    return not (may_hold_residues(dtype) or dtype is torch.bool)


# -- the float64 run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noted:
    """One number that code read, how, and on which line (None where none is known)."""

    what: str
    at: Source | None
    number: Number


class _Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs everything as it is, and notes what code reads of values that follow from state or inputs."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.marks = marks
        self.noted: list[Noted] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        computed = self.marks.any_held((args, kwargs))
        read = read_by(func, args, kwargs) if computed else None
        result = func(*args, **kwargs)
        if read is not None:
            number = result.detach().clone() if isinstance(result, torch.Tensor) else result
            self.noted.append(Noted(read.what, calling_line(2), number))
        elif computed and base_name(func) not in ANSWERS:
            self._mark(func, args, kwargs, result)
        return result

    def _mark(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and may_hold_residues(leaf.dtype):
                self.marks.adopt(leaf) if func._schema.is_mutable else mark(leaf)
                known = whole_range(base_name(func), bind(func, args, kwargs))
                leaf._bounds = known  # type: ignore[attr-defined]


def noted(
    model: torch.nn.Module, run: Callable[[Callable[[list[torch.Tensor]], TorchDispatchMode]], Any]
) -> list[Noted]:
    """What the model's code reads while `run` runs it, in order.

    `run` is given a function that makes the dispatch mode to run under, of the tensors the model is called with.
    """
    notes = _Notes(Marks())

    def above(inputs: list[torch.Tensor]) -> TorchDispatchMode:
        for leaf in [*inputs, *model.parameters(), *model.buffers()]:
            if leaf.is_floating_point():
                notes.marks.adopt(leaf)
        return notes

    run(above)
    return notes.noted


# -- runs on residues ----------------------------------------------------------------------------------


class Reads:
    """The reads of the full model on residues: each gets the next number that its line of code got in float64.

    Where residues order things otherwise than floats do there may be more reads than numbers, or more rows in
    one: numbers and rows then come again from the first.
    """

    def __init__(self, noted: list[Noted] | None) -> None:
        self._noted = noted
        self._counts: dict[tuple[str, Source | None], int] = {}
        self.taken: list[tuple[Read, Number]] = []

    def take(self, read: Read) -> Number:
        """The number that code gets to see.

        Raises NumbersNeededError before the float64 run (its operations would not be the same within this one),
        UnsupportedOperation where no number fits this read.
        """
        if self._noted is None:
            raise NumbersNeededError
        at = calling_line(2)
        alike = [one for one in self._noted if one.what == read.what]
        here = [one for one in alike if one.at == at] or ([] if at else alike)
        if not here:
            raise UnsupportedOperation(
                read.what, f"code reads a computed value{_line(at)}, which it does not in float64"
            )
        count = self._counts.get((read.what, at), 0)
        self._counts[read.what, at] = count + 1
        number = _fitting(here[count % len(here)].number, read, at)
        self.taken.append((Read(read.what, read.value.detach().clone()), number))
        return number


def _line(at: Source | None) -> str:
    return f" at {at}" if at else ""


def _fitting(number: Number, read: Read, at: Source | None) -> Number:
    """The number in the shape of what is read: rows are left out, or come again."""
    if not isinstance(number, torch.Tensor) or number.shape == read.value.shape:
        return number
    if number.ndim != read.value.ndim or number.shape[1:] != read.value.shape[1:] or not len(number):
        found = f"code reads shape {tuple(read.value.shape)}{_line(at)} where in float64 it reads {tuple(number.shape)}"
        raise UnsupportedOperation(read.what, found)
    return number[torch.arange(len(read.value), device=number.device) % len(number)]


class Followed:
    """The reads of another model: what the full model got, as long as what is read is the same."""

    def __init__(self, taken: list[tuple[Read, Number]]) -> None:
        self._taken = taken
        self._count = 0

    def take(self, read: Read) -> Number:
        """The number the full model got. Raises ReadsDifferentError where it read something else.

        Raises UnsupportedOperation where both read whole tensors of different shapes: which positions
        correspond is not known.
        """
        if self._count == len(self._taken):
            raise ReadsDifferentError(f"code reads a computed value more often than the full model's: {read}")
        (expected, number), which = self._taken[self._count], f"read {self._count + 1} of a computed value"
        self._count += 1
        if read.what != expected.what:
            raise ReadsDifferentError(f"{which} is {read}, the full model's is {expected}")
        if read.value.shape != expected.value.shape:
            raise UnsupportedOperation(read.what, f"{which} is {read}, the full model's is {expected}")
        wrong = int((read.value != expected.value).sum())
        if wrong:
            raise ReadsDifferentError(f"{which}, {read}, differs in {wrong} of {read.value.numel()} elements")
        return number.clone() if isinstance(number, torch.Tensor) else number

    def finish(self) -> None:
        """The run is over. Raises ReadsDifferentError when it left reads of the full model out."""
        if self._count < len(self._taken):
            found = f"code reads {self._count} computed values, the full model's {len(self._taken)}"
            raise ReadsDifferentError(found)
