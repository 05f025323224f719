"""Exact rules for elementwise operations: sums and products exact, the rest fixed random functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from conformance.equivalence.field.table import Exact, bounded, bounds, exact, is_residue
from conformance.errors import UnsupportedOperation


@exact("add", "sub", "rsub")
def add(e: Exact) -> torch.Tensor:
    """self + alpha * other."""
    a, b = e.residue("self"), e.residue("other")
    if e.name == "rsub":
        a, b = b, a
    if e.get("alpha", 1) != 1:
        b = e.reduce(torch.as_tensor(b, dtype=torch.float64) * e.field.number(e.get("alpha")), 2.0**37)
    made = a - b if e.name in {"sub", "rsub"} else a + b
    return e.reduce(made, 2.0**20)


@exact("mul")
def mul(e: Exact) -> torch.Tensor:
    """Product."""
    return e.product(e.residue("self"), e.residue("other"))


def _reciprocal(e: Exact, x: Any) -> Any:
    """1/x: exact for numbers and plain tensors, a random function of computed values."""
    if isinstance(x, torch.Tensor):
        if is_residue(x):
            return e.random("reciprocal", x)
        return e.field.inverses(e.field.embed(x))
    value = int(e.field.number(x))
    return e.field.inverse(value) if value else e.field.number(float("inf"))


@exact("div", "true_divide")
def div(e: Exact) -> torch.Tensor:
    """self times 1/other; rounding modes are random functions of the quotient."""
    made = e.product(e.residue("self"), _reciprocal(e, e.get("other")))
    mode = e.get("rounding_mode")
    return made if mode is None else e.random(f"round:{mode}", made, torch.round)


@exact("floor_divide")
def floor_divide(e: Exact) -> torch.Tensor:
    """Quotient under a random rounding."""
    made = e.product(e.residue("self"), _reciprocal(e, e.get("other")))
    return e.random("round:floor", made, torch.floor)


@exact("neg")
def neg(e: Exact) -> torch.Tensor:
    """Minus."""
    return -e.residue("self")


@exact("square")
def square(e: Exact) -> torch.Tensor:
    """x * x."""
    x = e.residue("self")
    return e.product(x, x)


@exact("pow")
def power(e: Exact) -> torch.Tensor:
    """Whole powers up to 8 exactly; others are random functions."""
    x, k = e.get("self"), e.get("exponent")
    if isinstance(k, torch.Tensor) or not isinstance(x, torch.Tensor):
        if isinstance(x, (int, float)) and isinstance(k, torch.Tensor):
            return e.random(f"power of {x}", e.lift(k), lambda z: torch.pow(x, z))
        raise UnsupportedOperation("aten.pow", "both base and exponent are computed")
    x = e.lift(x)
    if k == int(k) and 1 <= k <= 8:
        made = x
        for _ in range(int(k) - 1):
            made = e.product(made, x)
        return made.clone() if made is x else made
    if k == -0.5:
        return e.random("rsqrt", x)
    if k == 0.5:
        return e.random("sqrt", x, torch.sqrt)
    if k == -1:
        return e.random("reciprocal", x)
    return e.random(f"pow:{k}", x, lambda z: torch.pow(z, k) if k > 0 else torch.full_like(z, float("nan")))


@exact("addcmul")
def addcmul(e: Exact) -> torch.Tensor:
    """self + value * a * b."""
    made = e.product(e.product(e.residue("tensor1"), e.residue("tensor2")), e.field.number(e.get("value", 1)))
    return e.reduce(e.residue("self") + made, 2.0**20)


@exact("addcdiv")
def addcdiv(e: Exact) -> torch.Tensor:
    """self + value * a / b."""
    quotient = e.product(e.residue("tensor1"), _reciprocal(e, e.get("tensor2")))
    return e.reduce(e.residue("self") + e.product(quotient, e.field.number(e.get("value", 1))), 2.0**20)


@exact("lerp")
def lerp(e: Exact) -> torch.Tensor:
    """self + weight * (end - self)."""
    start = e.residue("self")
    away = e.reduce(e.residue("end") - start, 2.0**20)
    return e.reduce(start + e.product(away, e.residue("weight")), 2.0**20)


_UNARY = (
    "relu", "relu6", "gelu", "silu", "tanh", "hardswish", "elu", "leaky_relu", "celu", "selu", "mish", "abs", "sin",
    "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "expm1", "log1p", "sqrt", "sign", "sgn", "floor", "ceil",
    "round", "trunc", "frac", "softshrink", "hardshrink", "hardtanh", "sigmoid", "hardsigmoid", "exp", "exp2", "log",
    "log2", "log10", "cos", "cosh", "acos", "rsqrt", "reciprocal", "softplus", "erfc", "threshold", "clamp",
    "clamp_min", "clamp_max", "logit", "remainder", "fmod", "nan_to_num", "erfinv",
)  # fmt: skip


@exact(*_UNARY)
def unary(e: Exact) -> torch.Tensor:
    """f(x): a random function named by the operation and its numbers, right at zero."""
    names = [argument.name for argument in e.op._schema.arguments]
    others = [e.get(name) for name in names[1:]]
    if any(isinstance(other, torch.Tensor) for other in others):
        if e.name in {"clamp", "clamp_min", "clamp_max"}:  # by the order of residues, as maximum and minimum
            return torch.clamp(e.residue(names[0]), e.residue("min"), e.residue("max"))
        raise UnsupportedOperation(f"aten.{e.name}", "a bound or parameter is a computed tensor")
    # Named: clamp(min=0) and clamp(max=0) are different functions.
    numbers = ",".join(f"{n}={other}" for n, other in zip(names[1:], others, strict=True) if other is not None)
    op, first = e.op, names[0]
    rest = {name: e.get(name) for name in names[1:] if name in e.bound and name != "out"}

    def plain(z: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(torch.ops.aten, e.name).default(z, **rest) if _is_inplace(op) else op(z, **rest)
        return result

    made = e.random(f"{e.name}:{numbers}" if numbers else e.name, e.residue(first), plain)
    known = whole_range(e.name, e.bound)
    if known is None:
        return made
    return bounded(_chosen(e, made, plain, *known) if math.isfinite(known[0]) else made, *known)


def whole_range(name: str, bound: dict[str, Any]) -> tuple[float, float] | None:
    """The range of whole numbers that an operation's result has, None where it may have others.

    Whole numbers between two whole numbers stay such: code may read them as integers.
    """
    if name in ("floor", "ceil", "round", "trunc"):
        return -math.inf, math.inf
    if name != "clamp" or bounds(bound["self"]) is None:
        return None
    low, high = bound.get("min"), bound.get("max")
    if low is None or high is None or low != int(low) or high != int(high) or not 0 <= high - low < 2**10:
        return None
    return low, high


def _chosen(
    e: Exact, made: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], low: float, high: float
) -> torch.Tensor:
    """Random whole numbers from low to high, right at zero."""
    chosen = torch.remainder(made, high - low + 1) + low
    at_zero = float(plain(torch.zeros(1, dtype=torch.float64))[0])
    return torch.where(e.residue(next(iter(e.bound))) == 0, at_zero, chosen)


def _is_inplace(op: Any) -> bool:
    return bool(op._schema.is_mutable)


@exact("maximum", "fmax")
def maximum(e: Exact) -> torch.Tensor:
    """The larger residue."""
    return torch.maximum(*_pair(e))


@exact("minimum", "fmin")
def minimum(e: Exact) -> torch.Tensor:
    """The smaller residue."""
    return torch.minimum(*_pair(e))


def _pair(e: Exact) -> tuple[torch.Tensor, torch.Tensor]:
    return e.residue("self"), e.residue("other")


@exact("where")
def where(e: Exact) -> torch.Tensor:
    """Chosen by a condition."""
    a, b = e.residue("self"), e.residue("other")
    condition = e.get("condition")
    device = condition.device
    return torch.where(
        condition,
        torch.as_tensor(a, dtype=torch.float64, device=device),
        torch.as_tensor(b, dtype=torch.float64, device=device),
    )


@exact("masked_fill")
def masked_fill(e: Exact) -> torch.Tensor:
    """Filled with one number where the mask says so."""
    value = e.residue("value")
    if isinstance(value, torch.Tensor):
        return torch.where(e.get("mask"), value, e.residue("self"))
    return e.residue("self").masked_fill(e.get("mask"), value)


@exact("prelu", "_prelu_kernel")
def prelu(e: Exact) -> torch.Tensor:
    """Positive residues pass; the others are scaled."""
    x, slope = e.residue("self"), e.residue("weight")
    if e.name == "prelu" and slope.ndim == 1 and slope.numel() > 1:
        slope = slope.view(1, -1, *[1] * (x.ndim - 2))
    return torch.where(x > 0, x, e.product(x, slope))


@exact("copy")
def copy(e: Exact) -> torch.Tensor:
    """The source, spread over self."""
    return e.residue("src").expand(e.get("self").shape).clone()


@exact("_to_copy")
def to_copy(e: Exact) -> torch.Tensor:
    """Between floating types: the same residues. To booleans: is it non-zero. To integers: of a known range."""
    dtype = e.get("dtype")
    x = e.residue("self")
    device = e.get("device")
    if dtype is None or dtype.is_floating_point:
        return x.to(device) if device is not None else x.clone()
    if dtype == torch.bool:
        return x != 0
    low, high = bounds(e.get("self")) or (-math.inf, math.inf)
    if math.isfinite(high - low):
        return x.to(dtype)
    raise UnsupportedOperation("aten._to_copy", f"a computed value is read as {dtype}")


@exact("glu")
def glu(e: Exact) -> torch.Tensor:
    """First half times phi_sigmoid of the second."""
    first, second = torch.chunk(e.residue("self"), 2, e.get("dim", -1))
    return e.product(first, e.random("sigmoid", second, torch.sigmoid))
