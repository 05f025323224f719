"""Operations that act position by position, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.partition.labels import Labelled, Labels, Pass, fixed, is_fixed, nonzero, zero_if
from conformance.partition.rules.registry import Call, Dims, rule

Combine = Callable[[list[np.ndarray[Any, Any]]], np.ndarray[Any, Any]]


def broadcast(p: Pass, operands: list[Labelled], shape: tuple[int, ...], zero: str) -> Dims:
    """Join aligned dimensions. zero: `any` (one zero operand suffices), `all`, or `none`."""
    dims: Dims = []
    for out in range(len(shape)):
        if shape[out] == 1:
            dims.append(fixed(1))
            continue
        lines: list[Labels] = []
        spread = 0
        for operand in operands:
            at = out - (len(shape) - operand.ndim)
            if at >= 0 and operand.shape[at] == shape[out]:
                lines.append(operand.dims[at])
            else:
                spread += 1
        for line in lines[1:]:
            p.join(lines[0], line)
        base = next((line for line in lines if not is_fixed(line)), None)
        if base is None:
            dims.append(fixed(shape[out]))
        elif p.collecting:
            dims.append(base)
        elif zero == "any":
            dims.append(zero_if(base, np.any([line > 0 for line in lines], axis=0)))
        elif zero == "all" and not spread:
            dims.append(zero_if(base, np.all([line > 0 for line in lines], axis=0)))
        else:
            dims.append(nonzero(base))
    return dims


ZERO_KEEPING = (
    "relu", "relu6", "gelu", "silu", "tanh", "hardswish", "elu", "leaky_relu", "celu", "selu", "mish", "abs",
    "neg", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "erfinv", "expm1", "log1p", "sqrt",
    "square", "sign", "sgn", "floor", "ceil", "round", "trunc", "frac", "softshrink", "hardshrink",
    "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "positive",
    "nan_to_num", "real", "rad2deg", "deg2rad", "hardtanh", "native_dropout", "dropout",
)  # fmt: skip
ZERO_LOSING = (
    "sigmoid", "hardsigmoid", "exp", "exp2", "log", "log2", "log10", "cos", "cosh", "acos", "rsqrt", "reciprocal",
    "softplus", "log_sigmoid_forward", "logical_not", "bitwise_not", "isnan", "isinf", "isfinite", "erfc",
    "threshold", "digamma", "lgamma", "logit",
)  # fmt: skip


@rule(*ZERO_KEEPING)
def keeps_zero(p: Pass, call: Call) -> list[Dims]:
    """f(0) = 0: labels pass through."""
    x = call.tensors[0]
    return [list(x.dims) for _ in call.out_shapes]


@rule(*ZERO_LOSING)
def loses_zero(p: Pass, call: Call) -> list[Dims]:
    """f(0) != 0: the slice is no longer zero."""
    x = call.tensors[0]
    return [[nonzero(labels) for labels in x.dims] for _ in call.out_shapes if len(_) == x.ndim] or [[]]


@rule("clamp", "clamp_min", "clamp_max")
def clamp(p: Pass, call: Call) -> list[Dims]:
    """Zero stays zero when it lies within the bounds."""
    low, high = call.get("min"), call.get("max")
    bounds = [bound for bound in (low, high) if isinstance(bound, Labelled)]
    if bounds:
        return [broadcast(p, call.tensors, call.shape, "none")]
    inside = (low is None or low <= 0) and (high is None or high >= 0)
    return keeps_zero(p, call) if inside else loses_zero(p, call)


@rule("mul", "_conj", "logical_and", "bitwise_and")
def mul(p: Pass, call: Call) -> list[Dims]:
    """One zero factor suffices."""
    return [broadcast(p, call.tensors, call.shape, "any")]


@rule("div", "true_divide", "floor_divide", "remainder", "fmod")
def div(p: Pass, call: Call) -> list[Dims]:
    """Zero over anything is zero; anything over a structure is not."""
    tensors = call.tensors
    if len(tensors) == 1:
        return keeps_zero(p, call)
    dims = broadcast(p, tensors, call.shape, "none")
    top = tensors[0]
    offset = len(call.shape) - top.ndim
    return [
        [
            zero_if(labels, top.dims[at - offset] > 0)
            if at >= offset and top.shape[at - offset] == labels.size and labels.size > 1
            else labels
            for at, labels in enumerate(dims)
        ]
    ]


@rule("add", "sub", "rsub", "maximum", "minimum", "fmax", "fmin", "lerp", "addcmul", "addcdiv", "logical_or",
      "bitwise_or", "logical_xor", "hypot", "atan2", "copysign", "where", "logaddexp")  # fmt: skip
def add(p: Pass, call: Call) -> list[Dims]:
    """Every operand must be zero; a number added to all positions is not."""
    tensors = call.tensors
    if call.node.op._schema.name == "aten::where" and len(tensors) == 3:
        # The condition chooses, its own value never shows.
        dims = broadcast(p, tensors, call.shape, "none")
        branches = broadcast(p, tensors[1:], call.shape, "all")
        return [[_sign_of(d, b) for d, b in zip(dims, branches, strict=True)]]
    number = [a for a in call.args if isinstance(a, (int, float)) and not isinstance(a, bool)][:1]
    name = call.node.op._schema.name.rstrip("_")
    scalar_first = name in {"aten::add", "aten::sub", "aten::rsub"} and len(tensors) == 1
    kept = scalar_first and number == [0]
    return [broadcast(p, tensors, call.shape, "all" if len(tensors) > 1 or kept else "none")]


def _sign_of(labels: Labels, sign: Labels) -> Labels:
    return labels if is_fixed(sign) else zero_if(labels, sign > 0)


@rule("pow")
def power(p: Pass, call: Call) -> list[Dims]:
    """x**k keeps zero for k > 0."""
    exponent = call.get("exponent")
    base = call.get("self")
    if isinstance(base, Labelled) and isinstance(exponent, (int, float)) and exponent > 0:
        return keeps_zero(p, call)
    return [broadcast(p, call.tensors, call.shape, "none")]


@rule("eq", "ne", "lt", "le", "gt", "ge", "isclose")
def compare(p: Pass, call: Call) -> list[Dims]:
    """Comparisons: position by position, never known to be zero."""
    return [broadcast(p, call.tensors, call.shape, "none")]


@rule("masked_fill")
def masked_fill(p: Pass, call: Call) -> list[Dims]:
    """Zero stays only when the fill is zero."""
    zero = call.get("value")
    tensors = [call["self"], call["mask"]]
    return [_first_sign(p, tensors, call.shape) if zero == 0 and not isinstance(zero, Labelled)
            else broadcast(p, tensors, call.shape, "none")]  # fmt: skip


def _first_sign(p: Pass, tensors: list[Labelled], shape: tuple[int, ...]) -> Dims:
    dims = broadcast(p, tensors, shape, "none")
    return [
        _sign_of(labels, tensors[0].dims[at]) if tensors[0].ndim == len(shape) and tensors[0].shape[at] > 1 else labels
        for at, labels in enumerate(dims)
    ]


@rule("prelu", "_prelu_kernel")
def prelu(p: Pass, call: Call) -> list[Dims]:
    """A slope for each channel (dimension 1), already broadcast or of one dimension."""
    x, weight = call["self"], call["weight"]
    dims = list(x.dims)
    at = 1 if weight.ndim == 1 else None
    for dim, labels in enumerate(weight.dims):
        place = at if at is not None else dim
        if labels.size > 1 and place < x.ndim:
            p.join(x.dims[place], labels)
    return [dims]


@rule("copy")
def copy(p: Pass, call: Call) -> list[Dims]:
    """x.copy_(source): the result is the source, spread over x."""
    target, source = call["self"], call["src"]
    dims = broadcast(p, [target, source], call.shape, "none")
    offset = target.ndim - source.ndim
    return [[
        _sign_of(labels, source.dims[at - offset]) if at >= offset and source.shape[at - offset] > 1 else labels
        for at, labels in enumerate(dims)
    ]]  # fmt: skip


@rule("fill", "zero", "fill_diagonal")
def fill(p: Pass, call: Call) -> list[Dims]:
    """Every position the same number."""
    x = call["self"]
    value = call.get("value", 0)
    if call.node.op._schema.name == "aten::fill_diagonal_":
        return [[nonzero(labels) for labels in x.dims]]
    zero = not isinstance(value, Labelled) and value == 0
    return [[np.abs(labels) if zero else nonzero(labels) for labels in x.dims]]
