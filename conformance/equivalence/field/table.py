"""The table of exact rules: what each ATen operation computes on residues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.equivalence.field.modulus import Field

FieldRule = Callable[["Exact"], Any]
FIELD_RULES: dict[str, FieldRule] = {}
MOVEMENTS: set[str] = set()


ANSWERS = frozenset((
    "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "argmax", "argmin", "argsort", "logical_not",
    "logical_and", "logical_or", "zeros_like", "ones_like", "new_zeros", "new_ones", "nonzero", "any", "all",
    "isclose", "sym_size", "sym_stride", "sym_numel", "is_same_size", "searchsorted", "bucketize", "rand_like",
    "torchvision::nms",
))  # fmt: skip
"""Operations whose result is no residue: answers about order, and fresh constants."""


def bind(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by schema name, defaults included."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(op._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


class Exact:
    """One operation over residues: its arguments by schema name, and the field's arithmetic."""

    def __init__(self, field: Field, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        self.field = field
        self.op = op
        self.name = name
        self.bound = bind(op, args, kwargs)

    def get(self, name: str, default: Any = None) -> Any:
        """An argument as given."""
        return self.bound.get(name, default)

    def residue(self, name: str) -> Any:
        """An argument as residues: tensors are embedded if they are not residues yet, numbers too."""
        return self.lift(self.bound.get(name))

    def fitting(self, name: str, *shape: int) -> Any:
        """As `residue`, of an argument that has exactly this shape: torch's kernel would not broadcast it.

        Raises ValueError otherwise, as the kernel would.
        """
        value = self.residue(name)
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{self.name} takes a {name} of shape {shape}, got {tuple(value.shape)}")
        return value

    def lift(self, value: Any) -> Any:
        """Residues of a tensor, number or None."""
        if isinstance(value, torch.Tensor):
            if not is_residue(value):
                return self.field.embed(value)
            return value.to(torch.complex128) if value.is_complex() else value.double()
        if value is None:
            return None
        return self.field.number(value)

    def reduce(self, x: torch.Tensor, bound: float = 2.0**53) -> torch.Tensor:
        """Balanced residues of a fresh tensor of integers up to `bound`."""
        return self.field.reduce_(x, bound)

    def product(self, a: Any, b: Any) -> torch.Tensor:
        """Elementwise product."""
        return self.reduce(a * b, 2.0**37)

    def random(
        self, name: str, x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """A fixed random function named `name`, equal to `function` at zero."""
        return self.field.apply(name, function, x)


def bounds(tensor: torch.Tensor) -> tuple[float, float] | None:
    """The range of a computed tensor of whole numbers, where it is known to hold such; else None."""
    return getattr(tensor, "_bounds", None)


def bounded(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Say that a tensor holds the residues of whole numbers from low to high."""
    tensor._bounds = (low, high)  # type: ignore[attr-defined]
    return tensor


def is_residue(tensor: torch.Tensor) -> bool:
    """Whether a tensor was made by the field's arithmetic."""
    return getattr(tensor, "_residue", False)


def mark(tensor: torch.Tensor) -> torch.Tensor:
    """Say that a tensor holds residues."""
    tensor._residue = True  # type: ignore[attr-defined]
    return tensor


class Marks:
    """Which tensors of a run are computed: state, floating inputs, and what follows from them."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.Tensor] = {}

    def adopt(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mark a tensor, and whatever else shows the same memory (`parameter.data`, the base of a view)."""
        self._storages[tensor.untyped_storage()._cdata] = tensor
        return mark(tensor)

    def any_held(self, tree: Any) -> bool:
        """Whether an argument structure has a marked tensor; all that show adopted memory are marked."""
        leaves = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        held = [self._holds(leaf) for leaf in leaves]  # all are looked at: each one is marked
        return any(held)

    def _holds(self, tensor: torch.Tensor) -> bool:
        if is_residue(tensor):
            return True
        if may_hold_residues(tensor.dtype) and tensor.untyped_storage()._cdata in self._storages:
            mark(tensor)
            return True
        return False


def may_hold_residues(dtype: torch.dtype) -> bool:
    """Whether tensors of this type hold real or complex numbers, neither integers nor answers."""
    return dtype.is_floating_point or dtype.is_complex


def storage(dtype: torch.dtype) -> torch.dtype:
    """The type that holds residues where the model expects `dtype`: float32 and float64 hold them
    exactly and are kept, so that code which asks for a tensor's type takes its usual path; complex likewise.
    """
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def exact(*names: str) -> Callable[[FieldRule], FieldRule]:
    """Register one function as the exact rule of these operations (in-place forms included)."""

    def register(function: FieldRule) -> FieldRule:
        for name in names:
            if name in FIELD_RULES:
                raise ValueError(f"two exact rules for {name}")
            FIELD_RULES[name] = function
        return function

    return register
