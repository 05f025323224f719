"""Operations that act position by position, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.partition.labels import Labelled, Labels, Pass, fixed, is_fixed, nonzero, zero_if
from conformance.partition.rules.registry import Call, Dims, hold_all, rule

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
    "nan_to_num", "real", "rad2deg", "deg2rad", "dropout",
)  # fmt: skip
ZERO_LOSING = (
    "sigmoid", "hardsigmoid", "exp", "exp2", "cos", "cosh", "acos", "softplus", "log_sigmoid_forward", "logical_not",
    "bitwise_not", "isnan", "isinf", "isfinite", "erfc", "threshold",
)  # fmt: skip
WITHOUT_ZERO = ("log", "log2", "log10", "rsqrt", "reciprocal", "digamma", "lgamma", "logit")


@rule(*ZERO_KEEPING)
def keeps_zero(p: Pass, call: Call) -> list[Dims]:
    """f(0) = 0: labels pass through."""
    x = call.tensors[0]
    return [list(x.dims) for _ in call.out_shapes]


@rule(*ZERO_LOSING)
def loses_zero(p: Pass, call: Call) -> list[Dims]:
    """f(0) != 0: the slice is no longer zero."""
    x = call.tensors[0]
    return [[nonzero(labels) for labels in x.dims] for shape in call.out_shapes if shape == x.shape]


@rule(*WITHOUT_ZERO)
def no_value_at_zero(p: Pass, call: Call) -> list[Dims]:
    """f(0) is not finite: what is zero here cannot be multiplied away later."""
    for labels in call.tensors[0].dims:
        p.forbid_zero(labels, "has no finite value where the removed slice is zero")
    return loses_zero(p, call)


@rule("native_dropout")
def dropout(p: Pass, call: Call) -> list[Dims]:
    """The values, and the mask of what was kept."""
    x = call.tensors[0]
    return [list(x.dims), [nonzero(labels) for labels in x.dims]]


@rule("clamp", "clamp_min", "clamp_max", "hardtanh")
def clamp(p: Pass, call: Call) -> list[Dims]:
    """Zero stays zero when it lies within the bounds."""
    low, high = call.get("min", call.get("min_val")), call.get("max", call.get("max_val"))
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
    below = call["other"]
    for labels in below.dims if isinstance(below, Labelled) else ():
        p.forbid_zero(labels, "is divided by")
    if len(tensors) == 1:
        return loses_zero(p, call) if isinstance(below, Labelled) else keeps_zero(p, call)
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


@rule("add", "sub", "rsub", "maximum", "minimum", "fmax", "fmin", "lerp", "logical_or", "bitwise_or",
      "logical_xor", "hypot", "atan2", "copysign", "where")  # fmt: skip
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


@rule("addcmul")
def addcmul(p: Pass, call: Call) -> list[Dims]:
    """self + value * tensor1 * tensor2: zero where the first is, and a factor."""
    dims = broadcast(p, call.tensors, call.shape, "none")
    own = broadcast(p, call.tensors[:1], call.shape, "all")
    product = broadcast(p, call.tensors[1:], call.shape, "any")
    signs = zip(dims, own, product, strict=True)
    return [[
        labels if is_fixed(one) or is_fixed(other) else zero_if(labels, (one > 0) & (other > 0))
        for labels, one, other in signs
    ]]  # fmt: skip


@rule("addcdiv")
def addcdiv(p: Pass, call: Call) -> list[Dims]:
    """self + value * tensor1 / tensor2: zero where the first two are."""
    for labels in call["tensor2"].dims:
        p.forbid_zero(labels, "is divided by")
    dims = broadcast(p, call.tensors, call.shape, "none")
    above = broadcast(p, call.tensors[:2], call.shape, "all")
    return [[_sign_of(labels, sign) for labels, sign in zip(dims, above, strict=True)]]


@rule("pow")
def power(p: Pass, call: Call) -> list[Dims]:
    """x**k keeps zero for k > 0; an exponent that is not known, or negative, has no value there."""
    exponent = call.get("exponent")
    base = call.get("self")
    if isinstance(base, Labelled):
        number = None if isinstance(exponent, Labelled) else exponent
        if number is not None and number > 0:
            return keeps_zero(p, call)
        for labels in base.dims if number != 0 else ():
            p.forbid_zero(labels, "is raised to a power that has no finite value at zero")
    return [broadcast(p, call.tensors, call.shape, "none")]


@rule("eq", "ne", "lt", "le", "gt", "ge", "isclose", "logaddexp")
def compare(p: Pass, call: Call) -> list[Dims]:
    """Position by position, never known to be zero."""
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


@rule("fill_diagonal")
def fill_diagonal(p: Pass, call: Call) -> list[Dims]:
    """Writes where the numbers of the positions agree."""
    return hold_all(p, call, "is written along its diagonal")


@rule("fill", "zero")
def fill(p: Pass, call: Call) -> list[Dims]:
    """Every position the same number."""
    x = call["self"]
    value = call.get("value", 0)
    zero = not isinstance(value, Labelled) and value == 0
    return [[np.abs(labels) if zero else nonzero(labels) for labels in x.dims]]
