"""Every exact rule of the field oracle, against float64 where that is exact, or against an identity.

On small whole numbers float64 makes no rounding as long as nothing is divided by an odd number, so a
rule made of sums and products must give the residues of the float64 result. The other rules contain a
random function; they are held to what they are made of.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import conformance as pc
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.modulus import PRIMES, Field
from conformance.equivalence.field.table import FIELD_RULES, mark
from conformance.errors import UnsupportedOperation

FIELD = Field(PRIMES[0], seed=2)
P = FIELD.prime
aten = torch.ops.aten


def exactly(
    function: Callable[..., Any], *residues: torch.Tensor, field: Field = FIELD, composite: bool = False
) -> Any:
    """`function` in the field's arithmetic. composite: operations made of others arrive whole."""
    mode = field_mode.FieldMode(field)
    held = [mode.marks.adopt(x.double().clone()) for x in residues]
    with torch.inference_mode(composite), torch.no_grad(), mode:
        made = function(*held)
    assert mode.exercise.operations
    return pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, made)


def whole(*shape: int, times: int = 1, seed: int = 0) -> torch.Tensor:
    """Whole numbers in [-8, 8] times a factor, float64."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(-8, 9, shape, generator=generator).double() * times


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform residues."""
    return FIELD.random(shape, torch.Generator().manual_seed(seed + sum(shape)))


def balanced(value: int) -> int:
    found = value % P
    return found if found <= P // 2 else found - P


def mod(x: torch.Tensor) -> torch.Tensor:
    return FIELD.reduce_(x.clone())


def same(found: Any, expected: Any) -> bool:
    mine = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]
    theirs = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)]
    assert len(mine) == len(theirs)
    return all(a.shape == b.shape and torch.equal(a.double(), b.double()) for a, b in zip(mine, theirs, strict=True))


COMPOSITE = {
    "linear",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "true_divide",
    "prelu",
    "square",
}
"""Rules of operations that are decomposed before the oracle sees them, except under inference_mode."""


# -- rules made of sums and products: the residues of the float64 result --------------------------

INDEX = torch.tensor([[2, 0, 1, 2, 2], [1, 1, 0, 0, 2]])
BAGS, OFFSETS = torch.tensor([1, 3, 3, 0, 2, 4, 4, 1]), torch.tensor([0, 2, 2, 6])
CONDITION = torch.tensor([[True, False, True], [False, False, True]])


def convolved(stride=1, padding=0, dilation=1, transposed=False, output_padding=0, groups=1):
    def run(x, weight, bias=None):
        n = x.ndim - 2
        return aten.convolution.default(
            x, weight, bias, [stride] * n, [padding] * n, [dilation] * n, transposed, [output_padding] * n, groups
        )

    return run


def bag(mode, padding_idx=-1, last=False):
    def run(weight):
        offsets = torch.cat([OFFSETS, torch.tensor([BAGS.numel()])]) if last else OFFSETS
        return aten._embedding_bag.default(weight, BAGS, offsets, False, mode, False, None, last, padding_idx)[0]

    return run


def bag_forward(weight):
    return aten._embedding_bag_forward_only.default(weight, BAGS, OFFSETS, False, 0)[0]


def grouped_mm(a, b):
    """The operation has no float64 kernel: the reference multiplies by hand."""
    ends = torch.tensor([1, 1, 4], dtype=torch.int32)
    if getattr(a, "_residue", False):
        return aten._grouped_mm.default(a, b, ends)
    return torch.cat([a[:1] @ b[0], a[1:1] @ b[1], a[1:4] @ b[2]])


RING: dict[str, list[tuple[Callable[..., Any], tuple[torch.Tensor, ...]]]] = {
    "mm": [(torch.mm, (whole(3, 4), whole(4, 5)))],
    "bmm": [(torch.bmm, (whole(2, 3, 4), whole(2, 4, 5)))],
    "mv": [(torch.mv, (whole(3, 4), whole(4)))],
    "dot": [(torch.dot, (whole(9), whole(9, seed=1)))],
    "vdot": [(torch.vdot, (whole(9), whole(9, seed=1)))],
    "addmm": [
        (torch.addmm, (whole(3, 5), whole(3, 4), whole(4, 5))),
        (lambda s, a, b: torch.addmm(s, a, b, beta=2, alpha=-3), (whole(5), whole(3, 4), whole(4, 5))),
        (lambda s, a, b: torch.addmm(s, a, b, beta=0), (whole(5), whole(3, 4), whole(4, 5))),
    ],
    "baddbmm": [(lambda s, a, b: torch.baddbmm(s, a, b, beta=0.5, alpha=2), (whole(2, 3, 5), whole(2, 3, 4), whole(2, 4, 5)))],
    "addmv": [(lambda s, a, b: torch.addmv(s, a, b, alpha=2), (whole(3), whole(3, 4), whole(4)))],
    "linear": [
        (torch.nn.functional.linear, (whole(2, 3, 4), whole(5, 4), whole(5))),
        (torch.nn.functional.linear, (whole(3, 4), whole(5, 4))),
    ],
    "convolution": [
        (convolved(), (whole(2, 3, 7), whole(4, 3, 3), whole(4))),
        (convolved(2, 1, 2), (whole(2, 4, 9, 8), whole(6, 4, 3, 2), whole(6))),
        (convolved(groups=2), (whole(2, 4, 5, 5), whole(6, 2, 3, 3), whole(6))),
        (convolved(groups=4, padding=1), (whole(2, 4, 5, 5), whole(8, 1, 3, 3))),
        (convolved(2, 1, 1, True, 1), (whole(2, 3, 4, 4), whole(3, 5, 3, 3), whole(5))),
        (convolved(2, 0, 1, True, 0, 2), (whole(2, 4, 4), whole(4, 3, 3))),
        (convolved(), (whole(1, 2, 4, 4, 4), whole(3, 2, 2, 2, 2), whole(3))),
    ],
    "_convolution": [
        (
            lambda x, w, b: aten._convolution.default(x, w, b, [1], [1], [1], False, [0], 1, False, False, False, False),
            (whole(2, 3, 7), whole(4, 3, 3), whole(4)),
        )
    ],
    "_grouped_mm": [(grouped_mm, (whole(4, 8), whole(3, 8, 8)))],
    "_embedding_bag": [
        (bag(0), (whole(5, 3),)),
        (bag(1), (whole(5, 3, times=4),)),
        (bag(0, padding_idx=3), (whole(5, 3),)),
        (bag(1, padding_idx=4), (whole(5, 3, times=12),)),
        (bag(0, last=True), (whole(5, 3),)),
    ],
    "_embedding_bag_forward_only": [(bag_forward, (whole(5, 3),))],
    "sum": [
        (torch.sum, (whole(3, 4, 5),)),
        (lambda x: torch.sum(x, (0, -1)), (whole(3, 4, 5),)),
        (lambda x: torch.sum(x, 1, keepdim=True), (whole(3, 4, 5),)),
    ],
    "nansum": [(lambda x: torch.nansum(x, 1), (whole(3, 4, 5),))],
    "mean": [
        (torch.mean, (whole(3, 4, 5, times=60),)),
        (lambda x: torch.mean(x, -1, keepdim=True), (whole(3, 4, 5, times=5),)),
        (lambda x: torch.mean(x, (0, 2)), (whole(3, 4, 5, times=15),)),
    ],
    "cumsum": [(lambda x: torch.cumsum(x, 1), (whole(3, 40),))],
    "var": [
        (lambda x: torch.var(x, 1), (whole(3, 5, times=10),)),
        (lambda x: torch.var(x, (0, 2), correction=0, keepdim=True), (whole(2, 3, 4, times=8),)),
        (torch.var, (whole(3, times=6),)),
    ],
    "add": [
        (torch.add, (whole(3, 4), whole(4))),
        (lambda a, b: torch.add(a, b, alpha=-0.5), (whole(3, 4), whole(4))),
        (lambda a: a + 0.25, (whole(3, 4),)),
        (lambda a: torch.arange(4) + a, (whole(3, 4),)),
    ],
    "sub": [(lambda a, b: torch.sub(a, b, alpha=3), (whole(3, 4), whole(4))), (lambda a: a - 2, (whole(3),))],
    "rsub": [(lambda a: 1 - a, (whole(3, 4),)), (lambda a, b: torch.rsub(a, b, alpha=2), (whole(3), whole(3, seed=1)))],
    "mul": [(torch.mul, (whole(3, 4), whole(3, 1))), (lambda a: a * -0.125, (whole(3, 4),))],
    "div": [
        (lambda a: a / 7, (whole(3, 4, times=7),)),
        (lambda a: a / 0.5, (whole(3, 4),)),
        (lambda a: a / torch.tensor([3.0, 5.0, -15.0, 0.25]), (whole(3, 4, times=15),)),
        (lambda a: a / torch.arange(1, 5), (whole(3, 4, times=12),)),
    ],
    "true_divide": [(lambda a: aten.true_divide.Scalar(a, 3), (whole(3, 4, times=3),))],
    "neg": [(torch.neg, (whole(3, 4),))],
    "square": [(torch.square, (whole(3, 4),))],
    "pow": [(lambda x, k=k: torch.pow(x, k), (whole(3, 4),)) for k in range(1, 9)],
    "addcmul": [(lambda s, a, b: torch.addcmul(s, a, b, value=-2), (whole(3, 4), whole(3, 4), whole(4)))],
    "lerp": [
        (lambda a, b: torch.lerp(a, b, 0.25), (whole(3, 4), whole(3, 4, seed=1))),
        (torch.lerp, (whole(3, 4), whole(3, 4, seed=1), whole(4))),
    ],
    "maximum": [(torch.maximum, (whole(3, 4), whole(3, 4, seed=1)))],
    "minimum": [(torch.minimum, (whole(3, 4), whole(3, 4, seed=1)))],
    "fmax": [(torch.fmax, (whole(3, 4), whole(3, 4, seed=1)))],
    "fmin": [(torch.fmin, (whole(3, 4), whole(3, 4, seed=1)))],
    "where": [
        (lambda a, b: torch.where(CONDITION, a, b), (whole(2, 3), whole(3))),
        (lambda a: torch.where(CONDITION, a, 0.5), (whole(2, 3),)),
        (lambda a: torch.where(CONDITION, torch.full((3,), 0.5), a), (whole(2, 3),)),
    ],
    "masked_fill": [
        (lambda x: x.masked_fill(CONDITION, -0.5), (whole(2, 3),)),
        (lambda x: x.masked_fill(CONDITION, torch.tensor(1.5)), (whole(2, 3),)),
        (lambda x: x.clone().masked_fill_(CONDITION, 10**7), (whole(2, 3),)),
    ],
    "prelu": [
        (aten.prelu.default, (whole(2, 3, 4), whole(3))),
        (aten.prelu.default, (whole(2, 3, 4), whole(1))),
        (aten.prelu.default, (whole(2, 3), whole(3))),
    ],
    "_prelu_kernel": [(aten._prelu_kernel.default, (whole(2, 3, 4), whole(1, 3, 1)))],
    "copy": [
        (lambda x: torch.zeros(2, 3, 4, dtype=torch.float64).copy_(x), (whole(3, 4),)),
        (lambda x, y: x.clone().copy_(y), (whole(2, 3), whole(3))),
    ],
    "_to_copy": [(lambda x: x.to(torch.float32), (whole(3, 4),)), (lambda x: x.to(torch.bool), (whole(3, 4),))],
    "avg_pool2d": [
        (lambda x: torch.nn.functional.avg_pool2d(x, 2), (whole(2, 3, 6, 4),)),
        (lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (whole(2, 3, 8, 7, times=36),)),
        (
            lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False, ceil_mode=True),
            (whole(2, 3, 8, 7, times=36),),
        ),
        (lambda x: torch.nn.functional.avg_pool2d(x, (3, 2), 2, divisor_override=5), (whole(2, 3, 8, 7, times=5),)),
        (lambda x: torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False), (whole(1, 1, 6, 6, times=3600),)),
    ],
    "avg_pool3d": [(lambda x: torch.nn.functional.avg_pool3d(x, 2, 2, 1, True, False), (whole(1, 2, 5, 4, 5, times=12),))],
    "adaptive_avg_pool1d": [(aten.adaptive_avg_pool1d.default, (whole(2, 3, 7, times=6), [3]))],
    "adaptive_avg_pool2d": [(aten.adaptive_avg_pool2d.default, (whole(2, 3, 7, 5, times=36), [3, 2]))],
    "_adaptive_avg_pool2d": [
        (aten._adaptive_avg_pool2d.default, (whole(2, 3, 7, 5, times=36), [3, 2])),
        (aten._adaptive_avg_pool2d.default, (whole(2, 3, 3, 5, times=15), [1, 1])),
        (aten._adaptive_avg_pool2d.default, (whole(2, 3, 2, 3), [4, 6])),
    ],
    "adaptive_avg_pool3d": [(aten.adaptive_avg_pool3d.default, (whole(2, 3, 4, 5, 3, times=36), [2, 2, 2]))],
    "_adaptive_avg_pool3d": [(aten._adaptive_avg_pool3d.default, (whole(2, 3, 4, 5, 3, times=36), [2, 2, 2]))],
    "upsample_linear1d": [(lambda x: aten.upsample_linear1d.default(x, [10], False, None), (whole(2, 3, 5),))],
    "upsample_bilinear2d": [
        (lambda x: aten.upsample_bilinear2d.default(x, [8, 10], False, None, None), (whole(2, 3, 4, 5),)),
        (lambda x: aten.upsample_bilinear2d.default(x, [9, 5], True, None, None), (whole(2, 3, 5, 3),)),
        (lambda x: aten.upsample_bilinear2d.default(x, [8, 20], False, 2.0, 4.0), (whole(2, 3, 4, 5),)),
        (lambda x: aten.upsample_bilinear2d.default(x, [2, 5], False, None, None), (whole(2, 3, 4, 5),)),
    ],
    "upsample_bicubic2d": [(lambda x: aten.upsample_bicubic2d.default(x, [8, 10], False, None, None), (whole(2, 3, 4, 5),))],
    "upsample_trilinear3d": [
        (lambda x: aten.upsample_trilinear3d.default(x, [4, 6, 3], False, None, None, None), (whole(1, 2, 2, 3, 3),))
    ],
    # Normalised at the border by sums that are no powers of two: the inner part is compared.
    "_upsample_bilinear2d_aa": [
        (lambda x: aten._upsample_bilinear2d_aa.default(x, [16, 20], False, None, None)[..., 4:-4, 4:-4], (whole(2, 3, 8, 10),))
    ],
    "_upsample_bicubic2d_aa": [
        (lambda x: aten._upsample_bicubic2d_aa.default(x, [16, 20], False, None, None)[..., 5:-5, 5:-5], (whole(2, 3, 8, 10),))
    ],
    "col2im": [(lambda x: torch.nn.functional.fold(x, (4, 5), 2), (whole(2, 12, 12),))],
    "scatter_add": [(lambda x, y: torch.scatter_add(x, 1, INDEX, y), (whole(2, 3), whole(2, 5)))],
    "index_add": [
        (lambda x, y: torch.index_add(x, 1, INDEX[0], y), (whole(2, 3), whole(2, 5))),
        (lambda x, y: torch.index_add(x, 1, INDEX[0], y, alpha=-2), (whole(2, 3), whole(2, 5))),
    ],
    "index_put": [
        (lambda x, y: torch.index_put(x, (INDEX[0],), y, accumulate=True), (whole(3, 2), whole(5, 2))),
        (lambda x, y: aten.index_put_.default(x.clone(), [None, torch.tensor([2, 0])], y), (whole(2, 3), whole(2, 2))),
        (lambda x: torch.index_put(x, (torch.tensor([1]),), torch.tensor(0.5).double()), (whole(3, 2),)),
    ],
    "_index_put_impl": [
        (lambda x, y: aten._index_put_impl.default(x, [INDEX[0]], y, True), (whole(3, 2), whole(5, 2))),
    ],
}  # fmt: skip


def _cases() -> list[Any]:
    return [
        pytest.param(function, given, name in COMPOSITE, id=f"{name}-{number}")
        for name, cases in RING.items()
        for number, (function, given) in enumerate(cases)
    ]


@pytest.mark.parametrize(("function", "given", "composite"), _cases())
def test_sums_and_products_are_those_of_float64(function, given, composite):
    tensors = [item for item in given if isinstance(item, torch.Tensor)]
    others = [item for item in given if not isinstance(item, torch.Tensor)]

    def run(*xs):
        return function(*xs, *others)

    expected = pytree.tree_map_only(torch.Tensor, FIELD.embed, run(*tensors))
    for field in (FIELD, Field(PRIMES[1], seed=1)):
        wanted = pytree.tree_map_only(torch.Tensor, field.embed, run(*tensors))
        found = exactly(run, *(field.embed(x) for x in tensors), field=field, composite=composite)
        assert same(found, wanted)
    assert any(leaf.any() for leaf in pytree.tree_leaves(expected))


# -- the same on full-size residues, against Python's integers ------------------------------------


def test_matrix_product_of_residues():
    a, b = drawn(4, 300), drawn(300, 3)
    made = exactly(torch.mm, a, b)
    for i, j in itertools.product(range(4), range(3)):
        total = sum(int(x) * int(y) for x, y in zip(a[i], b[:, j], strict=True))
        assert made[i, j] == balanced(total)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 1, 2, 1), (1, 0, 1, 3), (2, 2, 1, 3)]
)
def test_convolution_of_residues(stride, padding, dilation, groups):
    x, weight, bias = drawn(2, 6, 7, 6), drawn(9, 6 // groups, 3, 2), drawn(9)
    made = exactly(convolved(stride, padding, dilation, False, 0, groups), x, weight, bias)
    rows, columns = made.shape[2:]
    for n, o, i, j in itertools.islice(itertools.product(range(2), range(9), range(rows), range(columns)), 0, None, 7):
        total = int(bias[o])
        for c, a, b in itertools.product(range(6 // groups), range(3), range(2)):
            at, to = i * stride - padding + a * dilation, j * stride - padding + b * dilation
            if 0 <= at < 7 and 0 <= to < 6:
                channel = (o // (9 // groups)) * (6 // groups) + c
                total += int(x[n, channel, at, to]) * int(weight[o, c, a, b])
        assert made[n, o, i, j] == balanced(total)


def test_a_convolution_with_more_terms_than_fit():
    x, weight, bias = drawn(1, 20_000, 8), drawn(1, 20_000, 7), drawn(1)
    made = exactly(convolved(), x, weight, bias)
    for at in range(2):
        pairs = zip(x[0, :, at : at + 7].flatten().long().tolist(), weight.flatten().long().tolist(), strict=True)
        assert made[0, 0, at] == balanced(sum(a * b for a, b in pairs) + int(bias[0]))
    with pytest.raises(UnsupportedOperation, match="grouped sum"):
        exactly(convolved(groups=2), drawn(1, 40_000, 7), drawn(2, 20_000, 7))


def test_mean_and_variance_of_residues():
    x = drawn(4, 7)
    inverse = [pow(n, -1, P) for n in (7, 6)]
    for correction in (0, 1):
        variance, mean = exactly(lambda t, c=correction: torch.var_mean(t, 1, correction=c), x)
        for row in range(4):
            values = [int(v) for v in x[row]]
            centre = sum(values) * inverse[0]
            assert mean[row] == balanced(centre)
            assert variance[row] == balanced(sum((v - centre) ** 2 for v in values) * inverse[correction])


def test_average_pooling_of_residues():
    x = drawn(1, 2, 7, 7)
    made = exactly(lambda t: torch.nn.functional.avg_pool2d(t, 3, 2, 1, count_include_pad=False), x)
    for c, i, j in itertools.product(range(2), range(4), range(4)):
        window = x[0, c, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].flatten()
        assert made[0, c, i, j] == balanced(sum(int(v) for v in window) * pow(window.numel(), -1, P))


@pytest.mark.parametrize(("size", "out"), [(7, 3), (5, 8), (13, 1), (6, 6)])
def test_adaptive_pooling_of_residues(size, out):
    x = drawn(1, 1, size, 4)
    made = exactly(lambda t: torch.nn.functional.adaptive_avg_pool2d(t, (out, 2)), x)
    for i, j in itertools.product(range(out), range(2)):
        window = x[0, 0, i * size // out : -(-(i + 1) * size // out), 2 * j : 2 * j + 2].flatten()
        assert made[0, 0, i, j] == balanced(sum(int(v) for v in window) * pow(window.numel(), -1, P))


# -- rules with a random function -----------------------------------------------------------------

UNARY: dict[str, tuple[Callable[..., Any], ...]] = {
    "relu": (torch.relu,), "relu6": (aten.relu6.default,), "silu": (torch.nn.functional.silu,), "tanh": (torch.tanh,),
    "gelu": (torch.nn.functional.gelu, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "hardswish": (torch.nn.functional.hardswish,), "celu": (aten.celu.default, lambda x: aten.celu.default(x, 2.0)),
    "elu": (torch.nn.functional.elu, lambda x: torch.nn.functional.elu(x, 2.0)), "selu": (aten.selu.default,),
    "leaky_relu": (lambda x: torch.nn.functional.leaky_relu(x, 0.1), lambda x: torch.nn.functional.leaky_relu(x, 0.2)),
    "mish": (torch.nn.functional.mish,), "abs": (torch.abs,), "sin": (torch.sin,), "tan": (torch.tan,),
    "asin": (torch.asin,), "atan": (torch.atan,), "sinh": (torch.sinh,), "asinh": (torch.asinh,),
    "atanh": (torch.atanh,), "erf": (torch.erf,), "expm1": (torch.expm1,), "log1p": (torch.log1p,),
    "sqrt": (torch.sqrt, lambda x: x**0.5), "sign": (torch.sign,), "sgn": (torch.sgn,), "floor": (torch.floor,),
    "ceil": (torch.ceil,), "round": (torch.round, lambda x: torch.round(x, decimals=2)), "trunc": (torch.trunc,),
    "frac": (torch.frac,), "softshrink": (torch.nn.functional.softshrink,), "hardshrink": (torch.nn.functional.hardshrink,),
    "hardtanh": (lambda x: torch.nn.functional.hardtanh(x, -1.0, 1.0), lambda x: torch.nn.functional.hardtanh(x, 0.0, 6.0)),
    "sigmoid": (torch.sigmoid,), "hardsigmoid": (torch.nn.functional.hardsigmoid,), "exp": (torch.exp,),
    "exp2": (torch.exp2,), "log": (torch.log,), "log2": (torch.log2,), "log10": (torch.log10,), "cos": (torch.cos,),
    "cosh": (torch.cosh,), "acos": (torch.acos,), "rsqrt": (torch.rsqrt, lambda x: x**-0.5),
    "reciprocal": (torch.reciprocal, lambda x: x**-1), "erfc": (torch.erfc,), "erfinv": (torch.erfinv,),
    "softplus": (torch.nn.functional.softplus, lambda x: torch.nn.functional.softplus(x, 2.0)),
    "threshold": (lambda x: torch.nn.functional.threshold(x, 1.0, 7.0), lambda x: torch.nn.functional.threshold(x, 1.0, 9.0)),
    "clamp": (lambda x: torch.clamp(x, min=2), lambda x: torch.clamp(x, max=2), lambda x: torch.clamp(x, -1, 1)),
    "clamp_min": (lambda x: torch.clamp_min(x, 3.0), lambda x: x.clone().clamp_min_(1.0)),
    "clamp_max": (lambda x: torch.clamp_max(x, -3.0), lambda x: x.clone().clamp_max_(4.0)),
    "logit": (lambda x: torch.logit(x, 0.1), lambda x: torch.logit(x, 0.2)),
    "remainder": (lambda x: torch.remainder(x, 3.0), lambda x: torch.remainder(x, 5.0)),
    "fmod": (lambda x: torch.fmod(x, 3.0), lambda x: torch.fmod(x, 5.0)),
    "nan_to_num": (lambda x: torch.nan_to_num(x, nan=1.0), lambda x: torch.nan_to_num(x, posinf=1.0)),
    "log_sigmoid_forward": (lambda x: aten.log_sigmoid_forward.default(x)[0],),
}  # fmt: skip

SYNONYMS = {"sqrt", "rsqrt", "reciprocal"}
"""Their second form is the same function, spelled as a power."""


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_value(name):
    x = drawn(40, 5)
    results = []
    for function in UNARY[name]:
        made = exactly(function, x)
        assert made.abs().max() <= FIELD.half
        assert torch.equal(made, made.round())
        assert same(exactly(function, x[:7]), made[:7])  # by value: wherever it stands
        assert same(exactly(function, x.T.contiguous()), made.T)
        at_zero = function(torch.zeros(1, dtype=torch.float64))
        if torch.isfinite(at_zero).all() and name != "log_sigmoid_forward":
            assert same(exactly(function, torch.zeros(1)), FIELD.embed(at_zero))
        results.append(made)
    for one, other in itertools.combinations(results, 2):
        agree = (one == other).double().mean()
        assert agree == 1 if name in SYNONYMS else agree < 0.05


def test_functions_of_different_names_differ():
    x = drawn(200)
    found = {name: exactly(functions[0], x) for name, functions in UNARY.items()}
    for one, other in itertools.combinations(found, 2):
        assert (found[one] == found[other]).sum() < 5, (one, other)


def test_in_place_is_the_same_function():
    x = drawn(50)
    assert same(exactly(lambda t: torch.nn.functional.relu(t.clone(), inplace=True), x), exactly(torch.relu, x))
    assert same(exactly(lambda t: t.clone().mul_(t).add_(1), x), mod(mod(x * x) + 1))


def apply(name: str, x: torch.Tensor, function: Any = None) -> torch.Tensor:
    return FIELD.apply(name, function, x)


class TestDivision:
    def test_by_a_computed_value_is_linear_in_the_first(self):
        a, b, y = drawn(50), drawn(50, seed=1), drawn(50, seed=2)
        quotients = [exactly(torch.div, x, y) for x in (a, b, mod(a + b), torch.zeros(50))]
        assert same(mod(quotients[0] + quotients[1]), quotients[2])
        assert not quotients[3].any()
        assert same(exactly(torch.div, torch.ones(50), y), exactly(torch.reciprocal, y))

    def test_rounding_is_a_function_of_the_quotient(self):
        a, y = drawn(50), drawn(50, seed=2)
        quotient = exactly(torch.div, a, y)
        floor = exactly(lambda u, v: torch.div(u, v, rounding_mode="floor"), a, y)
        assert same(exactly(torch.floor_divide, a, y), floor)
        assert same(floor, apply("round:floor", quotient, torch.round))
        assert not same(floor, exactly(lambda u, v: torch.div(u, v, rounding_mode="trunc"), a, y))

    def test_addcdiv(self):
        s, a, y = drawn(20), drawn(20, seed=1), drawn(20, seed=2)
        made = exactly(lambda u, v, w: torch.addcdiv(u, v, w, value=3), s, a, y)
        assert same(made, mod(s + mod(3 * exactly(torch.div, a, y))))

    def test_powers_of_a_number(self):
        x = drawn(30)
        made = exactly(lambda t: torch.pow(2.0, t), x)
        assert same(made, exactly(lambda t: torch.pow(2.0, t), x))
        assert same(exactly(lambda t: torch.pow(2.0, t), torch.zeros(1)), torch.ones(1))
        with pytest.raises(UnsupportedOperation, match="both base and exponent"):
            exactly(torch.pow, x, x)


class TestSoftmax:
    @pytest.mark.parametrize(
        "function",
        [torch.softmax, aten._softmax.default, aten._safe_softmax.default],
        ids=["softmax", "_softmax", "_safe_softmax"],
    )
    def test_sums_to_the_sum_times_its_random_reciprocal(self, function):
        x = drawn(6, 9)
        extra = (False,) if function is aten._softmax.default else ()
        made = exactly(lambda t: function(t, 1, *extra), x)
        powers = exactly(torch.exp, x)
        total = mod(powers.sum(1))
        assert same(mod(made.sum(1)), mod(total * apply("reciprocal", total)))
        for i, j in itertools.combinations(range(9), 2):
            assert same(mod(made[:, i] * powers[:, j]), mod(made[:, j] * powers[:, i]))

    @pytest.mark.parametrize(
        "function", [torch.log_softmax, aten._log_softmax.default], ids=["log_softmax", "_log_softmax"]
    )
    def test_log_softmax_takes_off_logsumexp(self, function):
        x = drawn(6, 9)
        extra = (False,) if function is aten._log_softmax.default else ()
        made = exactly(lambda t: function(t, 1, *extra), x)
        assert same(made, mod(x - exactly(lambda t: torch.logsumexp(t, 1, keepdim=True), x)))

    def test_logsumexp(self):
        x = drawn(6, 9)
        total = mod(exactly(torch.exp, x).sum(0))
        assert same(exactly(lambda t: torch.logsumexp(t, 0), x), apply("log", total))


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance along the last dimension by Python's integers."""
    inverse = pow(x.shape[-1], -1, P)
    rows = x.reshape(-1, x.shape[-1]).long().tolist()
    means = [sum(row) * inverse % P for row in rows]
    spreads = [sum((v - m) ** 2 for v in row) * inverse % P for row, m in zip(rows, means, strict=True)]
    shape = (*x.shape[:-1], 1)
    return (torch.tensor([float(balanced(v)) for v in values]).double().view(shape) for values in (means, spreads))


def normal(x: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    scale = apply("rsqrt", mod(spread + FIELD.number(eps)))
    return mod(mod(x - mean) * scale)


def affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return mod(mod(x * weight) + (0 if bias is None else bias))


def layer_norm(x, weight=None, bias=None):
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias)


class TestNormalisation:
    def test_layer_norm(self):
        x, weight, bias = drawn(5, 7), drawn(7), drawn(7, seed=1)
        expected = affine(normal(x, *moments(x)), weight, bias)
        assert same(exactly(layer_norm, x, weight, bias), expected)
        native = exactly(lambda *t: aten.native_layer_norm.default(t[0], [7], t[1], t[2], 1e-5)[0], x, weight, bias)
        assert same(native, expected)
        assert same(exactly(layer_norm, mod(x + 1234)), exactly(layer_norm, x))

    def test_rms_norm(self):
        x, weight = drawn(5, 7), drawn(7)
        square = mod(mod(x * x).sum(1, keepdim=True))
        spread = mod(square * FIELD.inverse(7))
        expected = affine(normal(x, torch.zeros(1), spread, 1e-6), weight)
        assert same(exactly(lambda a, w: torch.rms_norm(a, (7,), w, 1e-6), x, weight), expected)
        assert same(exactly(lambda a, w: aten._fused_rms_norm.default(a, [7], w, 1e-6)[0], x, weight), expected)
        minus = exactly(lambda a, w: torch.rms_norm(a, (7,), w, 1e-6), -x, weight)
        assert same(minus, -expected)

    @pytest.mark.parametrize("native", [False, True])
    def test_group_norm(self, native):
        def run(groups):
            def call(x, weight=None, bias=None):
                if not native:
                    return torch.group_norm(x, groups, weight, bias)
                size = x[0, 0].numel()
                return aten.native_group_norm.default(x, weight, bias, x.shape[0], x.shape[1], size, groups, 1e-5)[0]

            return call

        x, weight, bias = drawn(2, 6, 4, 3), drawn(6), drawn(6, seed=1)
        flat = x.view(2, 3, -1)
        plain = normal(flat, *moments(flat)).view(x.shape)
        assert same(exactly(run(3), x), plain)
        assert same(exactly(run(3), x, weight, bias), affine(plain, weight.view(-1, 1, 1), bias.view(-1, 1, 1)))
        apart = [exactly(run(1), x[:, start : start + 2]) for start in (0, 2, 4)]
        assert same(torch.cat(apart, 1), plain)

    BATCH_NORMS = {
        "native_batch_norm": lambda x, w, b, m, v: aten.native_batch_norm.default(x, w, b, m, v, False, 0.1, 1e-5)[0],
        "_native_batch_norm_legit_no_training": lambda x, w, b, m, v: aten._native_batch_norm_legit_no_training.default(
            x, w, b, m, v, 0.1, 1e-5
        )[0],
        "cudnn_batch_norm": lambda x, w, b, m, v: aten.cudnn_batch_norm.default(x, w, b, m, v, False, 0.1, 1e-5)[0],
        "miopen_batch_norm": lambda x, w, b, m, v: aten.miopen_batch_norm.default(x, w, b, m, v, False, 0.1, 1e-5)[0],
        "batch_norm": lambda x, w, b, m, v: aten.batch_norm.default(x, w, b, m, v, False, 0.1, 1e-5, False),
        "_batch_norm_no_update": lambda x, w, b, m, v: aten._batch_norm_no_update.default(x, w, b, m, v, 0.1, 1e-5)[0],
    }

    @pytest.mark.parametrize("name", BATCH_NORMS)
    def test_batch_norm_with_running_statistics(self, name):
        x, weight, bias = drawn(4, 3, 5), drawn(3), drawn(3, seed=1)
        mean, variance = drawn(3, seed=2), drawn(3, seed=3)
        across = [t.view(1, 3, 1) for t in (weight, bias, mean, variance)]
        expected = affine(normal(x, across[2], across[3]), across[0], across[1])
        assert same(exactly(self.BATCH_NORMS[name], x, weight, bias, mean, variance), expected)

    def test_batch_norm_with_batch_statistics(self):
        x, weight, bias = drawn(4, 3, 5), drawn(3), drawn(3, seed=1)
        by_channel = x.movedim(1, 0).reshape(3, -1)
        plain = normal(by_channel, *moments(by_channel)).view(3, 4, 5).movedim(0, 1)
        expected = affine(plain, weight.view(1, 3, 1), bias.view(1, 3, 1))
        for call in (
            lambda a, w, b: aten.native_batch_norm.default(a, w, b, None, None, True, 0.1, 1e-5)[0],
            lambda a, w, b: aten._native_batch_norm_legit.no_stats(a, w, b, True, 0.1, 1e-5)[0],
        ):
            assert same(exactly(call, x, weight, bias), expected)
            assert same(exactly(call, mod(x + 99), weight, bias), expected)

    def test_batch_norm_that_updates_its_statistics_is_refused(self):
        """Both write to the statistics; what they compute besides is as everywhere."""
        for call in (
            lambda x, w, b, m, v: aten._batch_norm_with_update.default(x, w, b, m, v, 0.1, 1e-5)[0],
            lambda x, w, b, m, v: aten._native_batch_norm_legit.default(x, w, b, m, v, True, 0.1, 1e-5)[0],
        ):
            with pytest.raises(UnsupportedOperation):
                exactly(call, drawn(4, 3), drawn(3), drawn(3), drawn(3), drawn(3))

    def test_weight_norm(self):
        v, g = drawn(4, 3, 2), drawn(4, 1, 1)
        made = exactly(lambda a, b: aten._weight_norm_interface.default(a, b, 0)[0], v, g)
        square = mod(mod(v * v).sum((1, 2), keepdim=True))
        root = apply("sqrt", square, torch.sqrt)
        assert same(made, mod(v * mod(g * apply("reciprocal", root))))
        twice = exactly(lambda a, b: aten._weight_norm_interface.default(a, b, 0)[0], v, mod(2 * g))
        assert same(twice, mod(2 * made))


class TestOthers:
    def test_standard_deviation_is_a_root_of_the_variance(self):
        x = drawn(4, 7)
        variance = exactly(lambda t: torch.var(t, 1), x)
        assert same(exactly(lambda t: torch.std(t, 1), x), apply("sqrt", variance, torch.sqrt))
        deviation, mean = exactly(lambda t: torch.std_mean(t, 1), x)
        assert same(deviation, apply("sqrt", variance, torch.sqrt))
        assert same(mean, exactly(lambda t: torch.mean(t, 1), x))

    def test_norms(self):
        x = drawn(4, 7)
        two = apply("sqrt", mod(mod(x * x).sum(1)), torch.sqrt)
        assert same(exactly(lambda t: torch.linalg.vector_norm(t, dim=1), x), two)
        assert same(exactly(lambda t: aten.norm.ScalarOpt_dim(t, 2, [1], False), x), two)
        one = mod(exactly(torch.abs, x).sum(1, keepdim=True))
        assert same(exactly(lambda t: torch.linalg.vector_norm(t, 1, dim=1, keepdim=True), x), one)
        with pytest.raises(UnsupportedOperation, match="order inf"):
            exactly(lambda t: torch.linalg.vector_norm(t, math.inf), x)

    def test_glu(self):
        x = drawn(4, 8)
        gate = exactly(torch.sigmoid, x[:, 4:])
        assert same(exactly(torch.nn.functional.glu, x), mod(x[:, :4] * gate))

    def test_grid_sampling_is_linear_in_the_map(self):
        a, b, grid = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4, seed=1), drawn(2, 6, 7, 2)

        def sample(mode=0, padding=0, align=False):
            return lambda x, g: aten.grid_sampler_2d.default(x, g, mode, padding, align)

        parts = [exactly(sample(), x, grid) for x in (a, b, mod(a + b), torch.zeros_like(a))]
        assert parts[0].shape == (2, 3, 6, 7)
        assert same(mod(parts[0] + parts[1]), parts[2])
        assert not parts[3].any()
        alone = exactly(sample(), a[:, 1:2], grid)
        assert same(alone, parts[0][:, 1:2])
        for other in (sample(mode=1), sample(padding=1), sample(align=True)):
            assert not same(exactly(other, a, grid), parts[0])
        assert not same(exactly(sample(), a, drawn(2, 6, 7, 2, seed=9)), parts[0])

    def test_embedding_bags_of_other_kinds_are_refused(self):
        with pytest.raises(UnsupportedOperation, match="mode"):
            exactly(bag(2), drawn(5, 3))

    def test_bounds_that_are_tensors_go_by_the_order_of_residues(self):
        x, low, high = drawn(4, 7), drawn(7, seed=1), drawn(4, 1, seed=2)
        assert same(exactly(lambda a, b: torch.clamp(a, min=b), x, low), torch.maximum(x, low))
        assert same(exactly(lambda a, b: torch.clamp_max(a, b), x, high), torch.minimum(x, high))
        both = exactly(lambda a, b, c: torch.clamp(a, b, c), x, low, high)
        assert same(both, torch.minimum(torch.maximum(x, low), high))

    def test_a_fractional_correction_is_refused(self):
        with pytest.raises(UnsupportedOperation, match="correction"):
            exactly(lambda t: torch.var(t, 1, correction=0.5), drawn(4, 7))


class _Nearest(torch.nn.Module):
    """Distances of what a layer gives to the rows of a codebook."""

    def __init__(self, order: float = 2.0) -> None:
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(6, 10), torch.nn.Linear(10, 5)
        self.codebook = torch.nn.Parameter(torch.randn(7, 5))
        self.order = order

    def forward(self, x):
        return torch.cdist(self.outer(torch.relu(self.inner(x))), self.codebook, p=self.order)


@pytest.mark.parametrize("rows", [4, 40], ids=["kernel", "as a product"])
def test_distances_of_rows_are_exact(rows):
    net, x = _Nearest(), torch.randn(2, rows, 6)
    assert pc.check_model(net, x, only=("L2.random-50",)).outcome == "pass"
    choice = pc.partition(pc.trace(net, x)).sample(0.5)
    full, subnet = pc.zero(net, choice), pc.extract(net, choice)
    assert pc.equivalent(full, subnet, x).equal
    with torch.no_grad():
        subnet.codebook[3, 2] = torch.nextafter(subnet.codebook[3, 2], torch.tensor(9.0))
    assert not pc.equivalent(full, subnet, x).equal


def test_distances_of_another_order_are_unsupported():
    verdict = pc.equivalent(_Nearest(1.0), _Nearest(1.0), torch.randn(2, 4, 6))
    assert verdict.status == "unsupported"
    assert "a distance of order 1" in verdict.reason


@pytest.mark.parametrize("rows", [4, 40], ids=["kernel", "as a product"])
def test_a_distance_is_the_root_of_an_exact_sum_of_squares(rows):
    a, b = drawn(rows, 5), drawn(7, 5)
    exact = mod(mod((a[:, None] - b[None]) ** 2).sum(-1))
    assert same(exactly(torch.cdist, a, b), apply("sqrt", exact, torch.sqrt))


IDENTITIES = {
    **dict.fromkeys(UNARY, test_functions_of_one_value),
    "var_mean": test_mean_and_variance_of_residues,
    "floor_divide": TestDivision.test_rounding_is_a_function_of_the_quotient,
    "addcdiv": TestDivision.test_addcdiv,
    **dict.fromkeys(
        ("_softmax", "softmax", "_safe_softmax"), TestSoftmax.test_sums_to_the_sum_times_its_random_reciprocal
    ),
    **dict.fromkeys(("_log_softmax", "log_softmax"), TestSoftmax.test_log_softmax_takes_off_logsumexp),
    "logsumexp": TestSoftmax.test_logsumexp,
    **dict.fromkeys(("native_layer_norm", "layer_norm"), TestNormalisation.test_layer_norm),
    **dict.fromkeys(("rms_norm", "_fused_rms_norm"), TestNormalisation.test_rms_norm),
    **dict.fromkeys(("native_group_norm", "group_norm"), TestNormalisation.test_group_norm),
    **dict.fromkeys(TestNormalisation.BATCH_NORMS, TestNormalisation.test_batch_norm_with_running_statistics),
    "_native_batch_norm_legit": TestNormalisation.test_batch_norm_with_batch_statistics,
    "_batch_norm_with_update": TestNormalisation.test_batch_norm_that_updates_its_statistics_is_refused,
    "_weight_norm_interface": TestNormalisation.test_weight_norm,
    **dict.fromkeys(("std", "std_mean"), TestOthers.test_standard_deviation_is_a_root_of_the_variance),
    **dict.fromkeys(("linalg_vector_norm", "norm"), TestOthers.test_norms),
    "glu": TestOthers.test_glu,
    "grid_sampler_2d": TestOthers.test_grid_sampling_is_linear_in_the_map,
    **dict.fromkeys(("_euclidean_dist", "_cdist_forward"), test_a_distance_is_the_root_of_an_exact_sum_of_squares),
}


def test_every_rule_has_a_case():
    of_aten = {name for name in FIELD_RULES if "::" not in name}  # others: test_detection.py
    assert of_aten == set(RING) | set(IDENTITIES)
    assert not set(RING) & set(IDENTITIES)


@pytest.mark.parametrize("name", RING)
def test_each_case_reaches_its_rule(name):
    """A case that decomposed into other operations would test nothing."""
    for function, given in RING[name]:
        tensors = [item for item in given if isinstance(item, torch.Tensor)]
        others = [item for item in given if not isinstance(item, torch.Tensor)]
        mode = field_mode.FieldMode(FIELD)
        held = [mode.marks.adopt(x.clone()) for x in tensors]
        with torch.inference_mode(name in COMPOSITE), torch.no_grad(), mode:
            function(*held, *others)
        assert name in mode.exercise.by_name, mode.exercise.by_name


# -- moving and filling ---------------------------------------------------------------------------


class TestMoves:
    MOVES: dict[str, Callable[[torch.Tensor], Any]] = {
        "view": lambda x: x.view(4, 6), "permute": lambda x: x.permute(2, 0, 1), "flip": lambda x: x.flip(1),
        "roll": lambda x: x.roll(1, 0), "cat": lambda x: torch.cat([x, x[:1]]), "select": lambda x: x[1],
        "gather": lambda x: x.gather(0, torch.zeros(1, 3, 4, dtype=torch.long)), "tril": lambda x: x.tril(),
        "max_pool": lambda x: torch.nn.functional.max_pool1d(x, 2), "amax": lambda x: x.amax(1), "unfold": lambda x: x.unfold(1, 2, 1),
        "topk": lambda x: x.topk(2, 1).values, "sort": lambda x: x.sort(2).values, "index": lambda x: x[torch.tensor([1, 0])],
        "repeat": lambda x: x.repeat(2, 1, 1), "pad": lambda x: torch.nn.functional.pad(x, (1, 1), mode="reflect"),
        "expand": lambda x: x[:, :1].expand(2, 5, 4), "nearest": lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0),
        "masked_select": lambda x: x.masked_select(x > 0), "shuffle": lambda x: torch.pixel_shuffle(x.view(1, 4, 2, 3), 2),
        "pack": lambda x: aten._pack_padded_sequence.default(x, torch.tensor([3, 2]), True)[0],
    }  # fmt: skip

    @pytest.mark.parametrize("name", MOVES)
    def test_run_as_they_are(self, name):
        x = drawn(2, 3, 4)
        assert same(exactly(self.MOVES[name], x), self.MOVES[name](x))

    @pytest.mark.parametrize("value", [0.5, 0, 3, 10**7, -0.1])
    def test_numbers_filled_in_become_residues(self, value):
        number = FIELD.number(value)
        x, index = drawn(2, 3), torch.tensor([[0, 1, 0]])
        fills: list[Callable[[torch.Tensor, float], torch.Tensor]] = [
            lambda t, v: torch.nn.functional.pad(t, (1, 0), value=v),
            lambda t, v: t.clone().fill_(v),
            lambda t, v: torch.full_like(t, v),
            lambda t, v: t.new_full((2, 2), v),
            lambda t, v: t.index_fill(0, torch.tensor([1]), v),
            lambda t, v: torch.scatter(t, 0, index, v),
            lambda t, v: t.clone().fill_diagonal_(v),
            lambda t, v: t.masked_fill(torch.tensor([True, False, True]), v),
        ]
        for fill in fills:
            assert same(exactly(lambda t, f=fill: f(t, value), x), fill(x, number))

    @pytest.mark.parametrize("name", ["cumprod", "lgamma", "scatter-reduce", "item", "to-int", "prod", "cross-int"])
    def test_operations_without_a_rule_are_refused(self, name):
        refused: dict[str, Callable[[torch.Tensor], Any]] = {
            "cumprod": lambda x: torch.cumprod(x, 0),
            "lgamma": torch.lgamma,
            "scatter-reduce": lambda x: torch.scatter(x, 0, torch.tensor([[0, 1, 0]]), x, reduce="add"),
            "item": lambda x: x * x.sum().item(),
            "to-int": lambda x: x.long(),
            "prod": lambda x: torch.prod(x, 0),
            "cross-int": lambda x: torch.zeros(2, 3, dtype=torch.long).copy_(x),
        }
        with pytest.raises(UnsupportedOperation):
            exactly(refused[name], drawn(2, 3))

    def test_many_values_summed_into_one_place(self):
        """More than single precision could hold."""
        x, places = drawn(1, 4).float(), torch.zeros(200, dtype=torch.long)
        values = torch.full((200, 4), float(FIELD.half))
        made = exactly(lambda t, v: torch.index_put(t.float(), (places,), v.float(), accumulate=True), x, values)
        assert same(made, mod(x.double() + 200 * FIELD.half))


class TestMemory:
    def test_what_is_written_through_a_view_is_seen_in_its_base(self):
        def run(x):
            base = torch.zeros(4, 3, dtype=torch.float64)
            base[1:3] = x
            return torch.relu(base) * base

        x = drawn(2, 3)
        expected = torch.zeros(4, 3, dtype=torch.float64)
        expected[1:3] = mod(exactly(torch.relu, x) * x)
        assert same(exactly(run, x), expected)

    def test_data_shows_the_same_residues(self):
        x = drawn(2, 3)
        assert same(exactly(lambda t: t.data * 0.5 + t, x), mod(mod(x * FIELD.number(0.5)) + x))

    def test_residues_do_not_fit_half_precision(self):
        with pytest.raises(UnsupportedOperation, match="bfloat16"):
            exactly(lambda x: torch.zeros(3, dtype=torch.bfloat16).copy_(x), drawn(3))

    def test_marks_are_kept_on_plain_tensors_only_while_they_hold_residues(self):
        plain = torch.ones(3)
        exactly(lambda x: x + plain, drawn(3))
        assert not hasattr(plain, "_residue")
        assert mark(plain)._residue
