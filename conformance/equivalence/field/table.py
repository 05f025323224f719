"""The table of exact rules: what each ATen operation computes on residues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from conformance.equivalence.field.modulus import Field

FieldRule = Callable[["Exact"], Any]
FIELD_RULES: dict[str, FieldRule] = {}
MOVEMENTS: set[str] = set()


class Exact:
    """One operation over residues: its arguments by schema name, and the field's arithmetic."""

    def __init__(self, field: Field, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        self.field = field
        self.op = op
        self.name = name
        self.bound: dict[str, Any] = {}
        for position, argument in enumerate(op._schema.arguments):
            if position < len(args):
                self.bound[argument.name] = args[position]
            elif argument.name in kwargs:
                self.bound[argument.name] = kwargs[argument.name]
            elif argument.has_default_value():
                self.bound[argument.name] = argument.default_value

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
            return value.double() if is_residue(value) else self.field.embed(value)
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


def storage(dtype: torch.dtype) -> torch.dtype:
    """The type that holds residues where the model expects `dtype`: float32 and float64 hold them
    exactly and are kept, so that code which asks for a tensor's type takes its usual path.
    """
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
