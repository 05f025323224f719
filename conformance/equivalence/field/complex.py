"""Exact rules for complex numbers: pairs of residues, held as the real and imaginary parts of a complex tensor.

The field has no square root of -1, so a complex number stays two residues. Sums, products and Fourier
transforms over dimensions of known size are sums of products of the parts; everything else is `unsupported`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.equivalence.field.linear import matmul, mean_over
from conformance.equivalence.field.table import Exact
from conformance.errors import UnsupportedOperation

COMPLEX_RULES: dict[str, Callable[[Exact], Any]] = {}
_MAKERS = frozenset(("polar", "complex", "view_as_complex", "_fft_r2c"))
COMPLEX_MOVES = frozenset((
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "repeat", "cat",
    "stack", "slice", "narrow", "split", "split_with_sizes", "select", "unbind", "flip", "roll", "clone", "detach",
    "alias", "index_select", "index", "gather", "slice_scatter", "select_scatter", "_reshape_alias",
))  # fmt: skip
"""Operations that only move complex values."""


def is_complex(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation takes or makes complex numbers."""
    asked = kwargs.get("dtype")
    if name in _MAKERS or (isinstance(asked, torch.dtype) and asked.is_complex):
        return True
    return any(isinstance(leaf, torch.Tensor) and leaf.is_complex() for leaf in pytree.tree_leaves((args, kwargs)))


def complex_rule(*names: str) -> Callable[[Callable[[Exact], Any]], Callable[[Exact], Any]]:
    """Register one function as the exact rule of these operations on complex numbers."""

    def register(function: Callable[[Exact], Any]) -> Callable[[Exact], Any]:
        COMPLEX_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _parts(e: Exact, name: str) -> tuple[Any, Any]:
    """Real and imaginary part of an argument, as residues in float64; a real one has the imaginary part 0."""
    value = e.residue(name)
    if not isinstance(value, torch.Tensor) or not value.is_complex():
        return value, 0.0
    pairs = torch.view_as_real(value.resolve_conj())
    return pairs[..., 0].double(), pairs[..., 1].double()


def _joined(real: torch.Tensor, imaginary: torch.Tensor) -> torch.Tensor:
    return torch.complex(real.double(), imaginary.double())


def _product(e: Exact, a: tuple[Any, Any], b: tuple[Any, Any]) -> torch.Tensor:
    real = torch.as_tensor(e.reduce(torch.as_tensor(a[0] * b[0] - a[1] * b[1]), 2.0**38))
    imaginary = e.reduce(torch.as_tensor(a[0] * b[1] + a[1] * b[0]).expand(real.shape).clone(), 2.0**38)
    return _joined(real, imaginary)


@complex_rule("polar")
def polar(e: Exact) -> torch.Tensor:
    """Size times the random functions for cosine and sine of the angle."""
    size, angle = e.residue("abs"), e.residue("angle")
    return _joined(
        e.product(size, e.random("cos", angle, torch.cos)), e.product(size, e.random("sin", angle, torch.sin))
    )


@complex_rule("complex")
def paired(e: Exact) -> torch.Tensor:
    """From its parts."""
    real, imaginary = e.residue("real"), e.residue("imag")
    return _joined(real + torch.zeros_like(imaginary), imaginary + torch.zeros_like(real))


@complex_rule("view_as_complex")
def view_as_complex(e: Exact) -> torch.Tensor:
    """From pairs in the last dimension."""
    pairs = e.residue("self")
    return _joined(pairs[..., 0], pairs[..., 1])


@complex_rule("view_as_real")
def view_as_real(e: Exact) -> torch.Tensor:
    """To pairs in the last dimension."""
    return torch.stack(_parts(e, "self"), -1)


@complex_rule("_to_copy")
def to_copy(e: Exact) -> torch.Tensor:
    """Between complex types, and from real numbers: the imaginary part is 0. From complex to real: without it."""
    real, imaginary = _parts(e, "self")
    dtype = e.get("dtype")
    if dtype is None or dtype.is_complex:
        return _joined(real, torch.zeros_like(real) if isinstance(imaginary, float) else imaginary)
    if dtype.is_floating_point:
        return real.clone()
    raise UnsupportedOperation("aten._to_copy", f"a complex value is read as {dtype}")


@complex_rule("_conj", "_conj_physical")
def conjugate(e: Exact) -> torch.Tensor:
    """The imaginary part changes its sign."""
    real, imaginary = _parts(e, "self")
    return _joined(real, -imaginary)


@complex_rule("mul")
def mul(e: Exact) -> torch.Tensor:
    """(a + bi)(c + di)."""
    return _product(e, _parts(e, "self"), _parts(e, "other"))


@complex_rule("div")
def div(e: Exact) -> torch.Tensor:
    """By a whole number: times its inverse."""
    by = e.get("other")
    if isinstance(by, (torch.Tensor, complex)) or e.get("rounding_mode") is not None or by != int(by):
        raise UnsupportedOperation("aten.div", "complex numbers are only divided by whole numbers")
    return _product(e, _parts(e, "self"), (e.field.inverse(int(by)), 0.0))


@complex_rule("add", "sub")
def add(e: Exact) -> torch.Tensor:
    """Part by part."""
    a, b = _parts(e, "self"), _parts(e, "other")
    times = e.field.number(e.get("alpha", 1)) * (-1 if e.name == "sub" else 1)
    real, imaginary = (e.reduce(torch.as_tensor(x + y * times), 2.0**39) for x, y in zip(a, b, strict=True))
    return _joined(real + torch.zeros_like(imaginary), imaginary + torch.zeros_like(real))


@complex_rule("neg")
def neg(e: Exact) -> torch.Tensor:
    """Minus."""
    real, imaginary = _parts(e, "self")
    return _joined(-real, -imaginary)


@complex_rule("sum")
def total(e: Exact) -> torch.Tensor:
    """Part by part."""
    dim, keepdim = e.get("dim"), bool(e.get("keepdim"))
    sums = [torch.sum(x) if dim is None else torch.sum(x, dim, keepdim=keepdim) for x in _parts(e, "self")]
    return _joined(*[e.reduce(x) for x in sums])


@complex_rule("mean")
def mean(e: Exact) -> torch.Tensor:
    """The sum times the inverse of the count, part by part."""
    dim, keepdim = e.get("dim"), bool(e.get("keepdim"))
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    return _joined(*[mean_over(e, x, dims, keepdim) for x in _parts(e, "self")])


@complex_rule("constant_pad_nd")
def padded(e: Exact) -> torch.Tensor:
    """With a real number around."""
    real, imaginary = _parts(e, "self")
    around = e.field.number(e.get("value", 0))
    return _joined(torch.constant_pad_nd(real, e.get("pad"), around), torch.constant_pad_nd(imaginary, e.get("pad"), 0))


@complex_rule("abs")
def size(e: Exact) -> torch.Tensor:
    """A random root of the sum of squares."""
    real, imaginary = _parts(e, "self")
    return e.random("sqrt", e.reduce(real * real + imaginary * imaginary, 2.0**38), torch.sqrt)


@complex_rule("mm", "bmm")
def product(e: Exact) -> torch.Tensor:
    """Matrix products, in four real ones."""
    names = [argument.name for argument in e.op._schema.arguments[:2]]
    (a, b), (c, d) = (_both(_parts(e, name)) for name in names)
    real = e.reduce(matmul(e, a, c) - matmul(e, b, d), 2.0**20)
    return _joined(real, e.reduce(matmul(e, a, d) + matmul(e, b, c), 2.0**20))


def _both(parts: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return parts[0], torch.zeros_like(parts[0]) if isinstance(parts[1], float) else parts[1]


# -- Fourier transforms ------------------------------------------------------------------------------------


def _waves(e: Exact, rows: int, columns: int, period: int, sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Residues of cos and sin of sign * 2 pi j k / period, (rows, columns) each; exact where they are 0 or 1."""
    steps = torch.outer(torch.arange(rows), torch.arange(columns)) % period
    angle = steps.double() * (sign * 2 * math.pi / period)
    quarters = (4 * steps % period == 0)[None]
    values = torch.stack([torch.cos(angle), torch.sin(angle)])
    cos, sin = e.field.embed(torch.where(quarters, values.round(), values))
    return cos, sin


def _scaled(e: Exact, made: torch.Tensor, count: int) -> torch.Tensor:
    """Normalised as asked: not at all, by the root of the number of points, by the number."""
    mode = e.get("normalization")
    if mode == 0:
        return made
    factor = e.field.inverse(count) if mode == 2 else e.field.number(count**-0.5)
    if not made.is_complex():
        return e.product(made, factor)
    pairs = torch.view_as_real(made)
    return _joined(e.product(pairs[..., 0], factor), e.product(pairs[..., 1], factor))


def _over(e: Exact, parts: tuple[torch.Tensor, torch.Tensor], dim: int, sign: int, out: int) -> torch.Tensor:
    """The transform along one dimension, its first `out` points."""
    real, imaginary = (x.movedim(dim, -1) for x in parts)
    cos, sin = _waves(e, real.shape[-1], out, real.shape[-1], sign)
    made = (
        e.reduce(matmul(e, real, cos) - matmul(e, imaginary, sin), 2.0**20),
        e.reduce(matmul(e, real, sin) + matmul(e, imaginary, cos), 2.0**20),
    )
    return _joined(*[x.movedim(-1, dim) for x in made])


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.view_as_real(x)
    return pairs[..., 0], pairs[..., 1]


def _along(e: Exact, x: torch.Tensor, dims: Sequence[int], sign: int) -> torch.Tensor:
    for dim in dims:
        x = _over(e, _split(x), dim, sign, x.shape[dim])
    return x


@complex_rule("_fft_c2c")
def fourier(e: Exact) -> torch.Tensor:
    """The matrix of the transform along each dimension, its entries embedded like any float."""
    x = _joined(*_both(_parts(e, "self")))
    dims = list(e.get("dim"))
    made = _along(e, x, dims, -1 if e.get("forward") else 1)
    return _scaled(e, made, math.prod(x.shape[dim] for dim in dims))


@complex_rule("_fft_r2c")
def fourier_of_real(e: Exact) -> torch.Tensor:
    """As above, forwards, of real numbers; the last dimension may keep the first half only."""
    x = e.residue("self")
    *others, last = list(e.get("dim"))
    points = x.shape[last] // 2 + 1 if e.get("onesided") else x.shape[last]
    made = _over(e, (x, torch.zeros_like(x)), last, -1, points)
    return _scaled(e, _along(e, made, others, -1), math.prod(x.shape[dim] for dim in [*others, last]))


@complex_rule("_fft_c2r")
def fourier_to_real(e: Exact) -> torch.Tensor:
    """As above, backwards, of the first half of a spectrum whose other half mirrors it."""
    x = _joined(*_both(_parts(e, "self")))
    *others, last = list(e.get("dim"))
    size = int(e.get("last_dim_size"))
    x = _along(e, x, others, 1)
    real, imaginary = (part.movedim(last, -1)[..., : size // 2 + 1] for part in _split(x))
    twice = torch.full((real.shape[-1],), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    cos, sin = _waves(e, real.shape[-1], size, size, 1)
    cos, sin = e.product(cos, twice[:, None]), e.product(sin, twice[:, None])
    if size % 2 == 0:
        sin[-1] = 0  # the middle of the spectrum counts with its real part, as the first does
    sin[0] = 0
    made = e.reduce(matmul(e, real, cos) - matmul(e, imaginary, sin), 2.0**20).movedim(-1, last)
    return _scaled(e, made, math.prod([*(x.shape[dim] for dim in others), size]))
