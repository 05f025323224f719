"""Run a module in exact arithmetic: a dispatch mode that replaces every float operation.

Parameters, buffers and floating inputs become residues; tensors the forward makes from numbers
alone (positions, masks, interpolation grids) stay plain until they meet a residue. An operation on
residues needs an exact rule, or must only move data; any other raises UnsupportedOperation.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.equivalence.field import detection, linear, normal, pointwise, spatial  # noqa: F401 - they register
from conformance.equivalence.field.complex import COMPLEX_MOVES, COMPLEX_RULES, is_complex
from conformance.equivalence.field.modulus import Field
from conformance.equivalence.field.reads import Followed, NumbersNeededError, Reads, ReadsDifferentError, read_by
from conformance.equivalence.field.table import (
    ANSWERS,
    FIELD_RULES,
    Exact,
    Marks,
    bounded,
    bounds,
    is_residue,
    mark,
    may_hold_residues,
    storage,
)  # fmt: skip
from conformance.errors import UnsupportedOperation
from conformance.graph.tape import tensors_in
from conformance.graph.trace import decomposed
from conformance.partition.rules import base_name

_MOVES = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand",
    "repeat", "cat", "stack", "slice", "narrow", "split", "split_with_sizes", "chunk", "select", "unbind", "flip",
    "roll", "pixel_shuffle", "pixel_unshuffle", "unfold", "im2col", "diagonal", "as_strided", "tril", "triu", "clone",
    "detach", "alias", "contiguous", "lift_fresh", "lift_fresh_copy", "embedding", "index_select", "index", "gather",
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool2d", "max_pool1d", "upsample_nearest1d",
    "adaptive_max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool3d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "amax", "amin", "max", "min", "topk", "sort", "masked_select",
    "slice_scatter", "select_scatter", "index_copy", "empty_like", "new_empty", "zero", "unsafe_split",
    "unsafe_chunk", "unsafe_split_with_sizes", "broadcast_to", "repeat_interleave", "take_along_dim", "aminmax",
    "new_empty_strided", "masked_scatter", "positive", "_pack_padded_sequence",
))  # fmt: skip
"""Operations that only move or choose values: they run as they are."""

_FILLS = frozenset(("constant_pad_nd", "fill", "full_like", "new_full", "index_fill", "scatter", "fill_diagonal"))
"""Operations with a number, named value or fill_value, that becomes part of the result."""

_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


@dataclass
class Exercise:
    """What a run did: a run without contractions proves nothing."""

    contractions: int = 0
    nonlinear: int = 0
    operations: int = 0
    by_name: dict[str, int] = field(default_factory=dict)


class FieldMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context every operation computes on residues.

    reads has the numbers for code that reads computed values; without it such code is refused.
    """

    def __init__(self, arithmetic: Field, reads: Reads | Followed | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.field = arithmetic
        self.exercise = Exercise()
        self.reads = reads
        self.marks = Marks()
        self.refused: UnsupportedOperation | ReadsDifferentError | NumbersNeededError | None = None
        self.state: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.marks.any_held((args, kwargs)):
            return func(*args, **kwargs)
        try:
            return self._compute(func, args, kwargs)
        except (UnsupportedOperation, ReadsDifferentError, NumbersNeededError) as error:
            self.refused = error  # also when the model's own code catches it and goes another way
            raise

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = base_name(func)
        self._count(name)
        if name in ANSWERS:
            return func(*args, **kwargs)
        read = read_by(func, args, kwargs) if self.reads is not None else None
        if read is not None:
            number = self.reads.take(read)  # type: ignore[union-attr]
            return args[0].copy_(number) if func._schema.is_mutable else number
        if is_complex(name, args, kwargs):
            return self._of_complex(func, args, kwargs, name)
        if name in FIELD_RULES:
            result = FIELD_RULES[name](Exact(self.field, func, args, kwargs, name))
        elif name in _MOVES or (name in _FILLS and "reduce" not in func._overloadname):
            lifted_args, lifted_kwargs = self._lift(func, args, kwargs, name)
            # Exact rules may lay results out differently, so a view must be allowed to copy.
            run_op = torch.ops.aten.reshape.default if func in _VIEWS else func
            result = run_op(*lifted_args, **lifted_kwargs)
        else:
            raise UnsupportedOperation(func._schema.name.replace("::", "."))
        if func._schema.is_mutable:
            return self._write_back(func, args, kwargs, result)
        dtype = _result_dtype(name, args, kwargs)
        return pytree.tree_map_only(torch.Tensor, lambda leaf: _as_residue(leaf, dtype), result)

    def _of_complex(self, func: Any, args: Any, kwargs: Any, name: str) -> Any:
        """Complex numbers are pairs of residues; where an operation has no rule for them it is refused."""
        if func._schema.is_mutable or name not in COMPLEX_RULES | dict.fromkeys(COMPLEX_MOVES):
            raise UnsupportedOperation(func._schema.name.replace("::", "."), "no exact rule for complex numbers")
        if name in COMPLEX_RULES:
            result = COMPLEX_RULES[name](Exact(self.field, func, args, kwargs, name))
        else:
            args, kwargs = self._lift(func, args, kwargs, name)
            result = (torch.ops.aten.reshape.default if func in _VIEWS else func)(*args, **kwargs)
        dtype = _result_dtype(name, args, kwargs)
        return pytree.tree_map_only(torch.Tensor, lambda leaf: _as_residue(leaf, dtype), result)

    def _count(self, name: str) -> None:
        self.exercise.operations += 1
        self.exercise.by_name[name] = self.exercise.by_name.get(name, 0) + 1
        if name in {"mm", "addmm", "bmm", "baddbmm", "convolution", "mv", "dot", "linear", "addmv"}:
            self.exercise.contractions += 1
        elif name in FIELD_RULES and name not in {"add", "sub", "mul", "sum", "mean", "copy", "_to_copy"}:
            self.exercise.nonlinear += 1

    def _lift(self, func: Any, args: Any, kwargs: Any, name: str) -> Any:
        def lift(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not may_hold_residues(leaf.dtype) or is_residue(leaf):
                return leaf
            return self.field.embed(leaf).to(storage(leaf.dtype))

        if name in _FILLS:
            named = [argument.name for argument in func._schema.arguments]
            args = tuple(self._number(at, value) for at, value in zip(named, args, strict=False))
            kwargs = {at: self._number(at, value) for at, value in kwargs.items()}
        return pytree.tree_map(lift, (args, kwargs))

    def _number(self, argument: str, value: Any) -> Any:
        fills = argument in {"value", "fill_value"} and isinstance(value, (int, float))
        return self.field.number(value) if fills else value

    def _write_back(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """In-place forms: the target takes the residues."""
        target = args[0] if args else kwargs["self"]
        if not isinstance(result, torch.Tensor) or not isinstance(target, torch.Tensor):
            raise UnsupportedOperation(func._schema.name.replace("::", "."), "writes to several tensors")
        if not target.is_floating_point():
            raise UnsupportedOperation(
                func._schema.name.replace("::", "."), "a computed value is written as an integer"
            )
        if target.dtype not in (torch.float64, torch.float32):
            raise UnsupportedOperation(func._schema.name.replace("::", "."), f"residues do not fit {target.dtype}")
        if result is not target:
            target.copy_(result)
        target._bounds = bounds(result)  # type: ignore[attr-defined]
        if target.untyped_storage()._cdata in self.state:
            _KEPT.clear()  # a forward that writes to parameters: nobody else shall see that
        return self.marks.adopt(target)


_WIDE = (torch.float64, torch.complex128)


def _result_dtype(name: str, args: Any, kwargs: Any) -> torch.dtype:
    """The floating type the model would see: as asked for, else the widest among the operands."""
    asked = kwargs.get("dtype")
    if isinstance(asked, torch.dtype) and may_hold_residues(asked):
        return storage(asked).to_real()
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    # A 0-dimensional float64 operand does not widen the others, as in ordinary promotion.
    wide = any(leaf.dtype in _WIDE and (leaf.ndim or name == "_to_copy") for leaf in tensors)
    wide |= all(leaf.ndim == 0 for leaf in tensors) and any(leaf.dtype in _WIDE for leaf in tensors)
    return torch.float64 if wide else torch.float32


def _as_residue(leaf: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if leaf.is_complex():
        return mark(leaf.to(dtype.to_complex()))
    if not leaf.is_floating_point():
        return leaf
    made, known = mark(leaf.to(dtype)), bounds(leaf)
    return bounded(made, *known) if known else made


def embedded(model: torch.nn.Module, arithmetic: Field) -> torch.nn.Module:
    """A copy of the model, in evaluation mode, whose floating parameters and buffers are residues."""
    memo: dict[int, Any] = {}
    of = _residues_of if sum(parameter.numel() for parameter in model.parameters()) <= _KEEP else _fresh_residues
    for parameter in model.parameters():
        if may_hold_residues(parameter.dtype):
            memo[id(parameter)] = of(parameter, arithmetic)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            memo[id(buffer)] = mark(arithmetic.embed(buffer).to(storage(buffer.dtype)))
    _forget()
    return copy.deepcopy(model, memo).eval()


@dataclass(frozen=True)
class _Kept:
    """Residues of a parameter, which serve again while its values are the same.

    Values are compared, not version counters: writes through `.data` or numpy leave no trace in those.
    """

    source: weakref.ref[torch.Tensor]
    values: torch.Tensor
    residues: torch.nn.Parameter


_KEPT: dict[tuple[int, Field], _Kept] = {}
_KEEP = 10**8
"""How many parameters' residues are kept: enough for a model and its subnet, unless they are huge."""


def _residues_of(parameter: torch.nn.Parameter, arithmetic: Field) -> torch.nn.Parameter:
    key = (id(parameter), arithmetic)
    kept = _KEPT.pop(key, None)
    if kept is None or not _unchanged(parameter, kept):
        kept = _Kept(weakref.ref(parameter), parameter.detach().clone(), _fresh_residues(parameter, arithmetic))
    _KEPT[key] = kept
    return kept.residues


def _fresh_residues(parameter: torch.nn.Parameter, arithmetic: Field) -> torch.nn.Parameter:
    held = arithmetic.embed(parameter).to(storage(parameter.dtype))
    residues: torch.nn.Parameter = mark(torch.nn.Parameter(held, requires_grad=False))  # type: ignore[assignment]
    return residues


def _unchanged(parameter: torch.nn.Parameter, kept: _Kept) -> bool:
    values = kept.values
    alike = kept.source() is parameter and parameter.dtype == values.dtype and parameter.device == values.device
    return alike and torch.equal(parameter, values)


def _forget() -> None:
    """Drop residues of parameters that are gone, and the oldest beyond the limit."""
    total = 0
    for key, kept in reversed(list(_KEPT.items())):
        total += kept.values.numel()
        if total > _KEEP or kept.source() is None:
            del _KEPT[key]


def run(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    arithmetic: Field,
    reads: Reads | Followed | None = None,
) -> tuple[Any, Exercise]:
    """The model's outputs as residues, in evaluation mode. Floating inputs must already be residues.

    Raises UnsupportedOperation when an operation has no exact rule, ReadsDifferentError when the model does not
    read what it should follow.
    """
    return execute(embedded(model, arithmetic), args, kwargs, arithmetic, reads)


def execute(
    twin: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    arithmetic: Field,
    reads: Reads | Followed | None = None,
) -> tuple[Any, Exercise]:
    """As `run`, of a model that `embedded` made."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.clone(), (args, kwargs))
    mode = FieldMode(arithmetic, reads)
    for leaf in [*tensors_in((args, kwargs)), *twin.parameters(), *twin.buffers()]:
        if leaf.is_floating_point():
            mode.marks.adopt(leaf)
    mode.state = {parameter.untyped_storage()._cdata for parameter in twin.parameters()}
    with decomposed(), torch.random.fork_rng(devices=[]), mode:
        torch.manual_seed(0)
        outputs = twin(*args, **kwargs)
    if mode.refused is not None:
        raise mode.refused
    if isinstance(reads, Followed):
        reads.finish()
    return outputs, mode.exercise
