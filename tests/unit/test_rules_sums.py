"""Contractions, reductions, pooling and normalisations against running them on reduced tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from brute_force import Board, aten, check_case

Case = Callable[[Board], Any]


def on(op: Any, *shape: int, args: tuple[Any, ...] = (), **kwargs: Any) -> Case:
    """The operation on one activation of this shape."""
    return lambda b: b.op(op, b.act(*shape), *args, **kwargs)


def product(
    op: Any, left: tuple[int, ...], right: tuple[int, ...], first: tuple[int, ...] | None = None, **kwargs: Any
) -> list[Case]:
    """Two activations; a parameter on either side. first: the shape of what is added."""

    def case(kinds: str) -> Case:
        def make(b: Board) -> Any:
            operands = [
                b.act(*shape) if kind == "a" else b.param(*shape)
                for kind, shape in zip(kinds, (left, right), strict=True)
            ]
            added = [] if first is None else [b.param(*first)]
            return b.op(op, *added, *operands, **kwargs)

        return make

    return [case("aa"), case("ap"), case("pa")]


def conv(
    x: tuple[int, ...], weight: tuple[int, ...], *, stride: int = 1, padding: int = 0, transposed: bool = False,
    groups: int = 1, bias: bool = True, input_free: bool = True,
) -> Case:  # fmt: skip
    def make(b: Board) -> Any:
        rank = len(x) - 2
        out = weight[1] * groups if transposed else weight[0]
        return b.op(
            aten.convolution.default, b.act(*x) if input_free else b.given(b.draw(*x)), b.param(*weight), b.param(out) if bias else None,
            [stride] * rank, [padding] * rank, [1] * rank, transposed, [0] * rank, groups,
        )  # fmt: skip

    return make


def heads_in_batch(groups: int = 1) -> Case:
    """The batch of the convolution is made of heads, so its positions are free."""
    return lambda b: b.op(
        aten.convolution.default, b.op(aten.view.default, b.act(2, 3, 4, 5), [6, 4, 5]), b.param(4, 4 // groups, 2), b.param(4),
        [1], [0], [1], False, [0], groups,
    )  # fmt: skip


CONTRACTION: dict[str, list[Case]] = {
    "mm": product(aten.mm.default, (3, 4), (4, 5)),
    "addmm": [*product(aten.addmm.default, (3, 4), (4, 5), (5,)), *product(aten.addmm.default, (3, 4), (4, 5), (3, 5)),
              *product(aten.addmm.default, (3, 4), (4, 5), (1,)), *product(aten.addmm.default, (3, 4), (4, 5), (3, 1), beta=0, alpha=2)],
    "bmm": product(aten.bmm.default, (2, 3, 4), (2, 4, 5)),
    "baddbmm": [*product(aten.baddbmm.default, (2, 3, 4), (2, 4, 5), (2, 3, 5)), *product(aten.baddbmm.default, (2, 3, 4), (2, 4, 5), (5,)),
                *product(aten.baddbmm.default, (2, 3, 4), (2, 4, 5), (1, 1, 1), beta=0)],
    "mv": product(aten.mv.default, (3, 4), (4,)),
    "dot": product(aten.dot.default, (4,), (4,)),
    "vdot": product(aten.vdot.default, (4,), (4,)),
    "linear": [lambda b: b.op(aten.linear.default, b.act(2, 3, 4), b.param(5, 4), b.param(5)), lambda b: b.op(aten.linear.default, b.act(3, 4), b.param(5, 4)),
               lambda b: b.op(aten.linear.default, b.op(aten.exp.default, b.act(3, 4)), b.param(5, 4))],
    "_grouped_mm": [],
    "convolution": [
        conv((2, 3, 5), (4, 3, 2)), conv((2, 3, 5), (4, 3, 2), bias=False), conv((2, 3, 4, 4), (4, 3, 1, 1)),
        conv((2, 3, 3, 3), (4, 3, 1, 1), stride=2, padding=1), conv((2, 3, 5), (5, 3, 2), input_free=False),
        conv((2, 4, 5), (4, 1, 2), groups=4), conv((2, 3, 5), (6, 1, 2), groups=3, bias=False), conv((2, 4, 5), (4, 1, 1), groups=4),
        conv((2, 6, 5), (4, 3, 2), groups=2), conv((2, 4, 5), (6, 2, 2), groups=2), conv((2, 6, 5), (3, 2, 2), groups=3),
        conv((2, 3, 5), (3, 4, 2), transposed=True), conv((2, 4, 3, 3), (4, 3, 2, 2), transposed=True, groups=2, stride=2),
        conv((2, 6, 3), (6, 1, 2), transposed=True, groups=3), conv((2, 3, 3), (3, 2, 2), transposed=True, groups=3, bias=False),
        heads_in_batch(), heads_in_batch(2), heads_in_batch(4),
        lambda b: b.op(aten.convolution.default, b.op(aten.exp.default, b.act(2, 6, 5)), b.param(4, 3, 2), b.param(4), [1], [0], [1], False, [0], 2),
        lambda b: b.op(aten.convolution.default, b.act(2, 4, 3), b.op(aten.exp.default, b.param(4, 3, 2)), None, [1], [0], [1], True, [0], 2),
    ],
}  # fmt: skip
SAMPLED = {
    "avg_pool1d": (1, ([2],)), "avg_pool2d": (2, ([2, 2],)), "avg_pool3d": (3, ([2, 2, 2],)),
    "adaptive_avg_pool1d": (1, ([2],)), "adaptive_avg_pool2d": (2, ([2, 2],)), "adaptive_avg_pool3d": (3, ([2, 2, 2],)),
    "_adaptive_avg_pool2d": (2, ([2, 2],)), "_adaptive_avg_pool3d": (3, ([2, 2, 2],)),
    "adaptive_max_pool1d": (1, ([2],)), "adaptive_max_pool2d": (2, ([2, 2],)), "adaptive_max_pool3d": (3, ([2, 2, 2],)),
    "max_pool1d": (1, ([2],)), "max_pool2d": (2, ([2, 2],)), "max_pool3d": (3, ([2, 2, 2],)),
    "max_pool2d_with_indices": (2, ([2, 2],)), "max_pool3d_with_indices": (3, ([2, 2, 2],)),
    "upsample_nearest1d": (1, ([7],)), "upsample_nearest2d": (2, ([7, 7],)), "upsample_nearest3d": (3, ([7, 7, 7],)),
    "_upsample_nearest_exact1d": (1, ([7],)), "_upsample_nearest_exact2d": (2, ([7, 7],)), "_upsample_nearest_exact3d": (3, ([7, 7, 7],)),
    "upsample_linear1d": (1, ([7], False)), "upsample_bilinear2d": (2, ([7, 7], True)), "upsample_bicubic2d": (2, ([7, 7], False)),
    "upsample_trilinear3d": (3, ([7, 7, 7], False)), "_upsample_bilinear2d_aa": (2, ([3, 3], False)), "_upsample_bicubic2d_aa": (2, ([3, 3], False)),
    "reflection_pad1d": (1, ([1, 1],)), "reflection_pad2d": (2, ([1, 1, 2, 0],)), "reflection_pad3d": (3, ([1, 1, 1, 1, 0, 1],)),
    "replication_pad1d": (1, ([1, 1],)), "replication_pad2d": (2, ([1, 1, 2, 0],)), "replication_pad3d": (3, ([1, 1, 1, 1, 0, 1],)),
}  # fmt: skip
REDUCTION: dict[str, list[Case]] = {
    name: [on(getattr(aten, name).default, 2, 3, *([4] * rank), args=args)] for name, (rank, args) in SAMPLED.items()
}
for name in ("mean", "prod", "logsumexp", "amax", "amin"):
    REDUCTION[name] = [on(getattr(getattr(aten, name), "dim" if name == "mean" else "dim_int" if name == "prod" else "default"), 3, 4, args=(
        1 if name == "prod" else [1], keep)) for keep in (False, True)]  # fmt: skip
for name in ("max", "min", "median", "nanmedian", "mode", "cummax", "cummin", "sort"):
    REDUCTION[name] = [
        on(
            getattr(getattr(aten, name), "default" if name in ("mode", "cummax", "cummin", "sort") else "dim"),
            3,
            4,
            args=(1,),
        )
    ]
for name in (
    "argmax",
    "argmin",
    "any",
    "all",
    "softmax",
    "log_softmax",
    "cumsum",
    "cumprod",
    "argsort",
    "logcumsumexp",
    "_safe_softmax",
):
    REDUCTION[name] = [
        on(
            getattr(
                getattr(aten, name),
                {"any": "dim", "all": "dim", "softmax": "int", "log_softmax": "int"}.get(name, "default"),
            ),
            3,
            4,
            args=(1,),
        )
    ]
for name in ("var", "std", "var_mean", "std_mean"):
    REDUCTION[name] = [
        on(getattr(aten, name).correction, 3, 4, args=([1],)),
        on(getattr(aten, name).correction, 3, 4, correction=0),
    ]
REDUCTION["max"] += [lambda b: b.op(aten.max.other, b.act(3, 4), b.act(4)), on(aten.max.default, 3, 4)]
REDUCTION["any"] += [on(aten.any.default, 3, 4)]
REDUCTION["argmax"] += [on(aten.argmax.default, 3, 4)]
REDUCTION |= {
    "sum": [on(aten.sum.dim_IntList, 3, 4, args=([1],)), on(aten.sum.dim_IntList, 3, 4, args=([-1], True)), on(aten.sum.default, 3, 4),
            lambda b: b.op(aten.sum.dim_IntList, b.op(aten.exp.default, b.act(3, 4)), [1]),
            lambda b: b.op(aten.sum.dim_IntList, b.op(aten.gt.Scalar, b.act(3, 4), 0), [1])],
    "nansum": [on(aten.nansum.default, 3, 4, args=([1],))],
    "linalg_vector_norm": [on(aten.linalg_vector_norm.default, 3, 4, args=(2, [1])), on(aten.linalg_vector_norm.default, 3, 4, args=(1, [1], True)),
                           on(aten.linalg_vector_norm.default, 3, 4, args=(float("inf"), [1])), on(aten.linalg_vector_norm.default, 3, 4, args=(0, [1])),
                           on(aten.linalg_vector_norm.default, 3, 4, args=(-1, [1]))],
    "norm": [on(aten.norm.ScalarOpt_dim, 3, 4, args=(2, [1])), on(aten.norm.Scalar, 3, 4)],
    "_softmax": [on(aten._softmax.default, 3, 4, args=(1, False))],
    "_log_softmax": [on(aten._log_softmax.default, 3, 4, args=(-1, False))],
    "aminmax": [on(aten.aminmax.default, 3, 4, dim=1)],
    "topk": [on(aten.topk.default, 3, 4, args=(2, 1))],
    "kthvalue": [on(aten.kthvalue.default, 3, 4, args=(2, 1))],
    "grid_sampler_2d": [lambda b: b.op(aten.grid_sampler_2d.default, b.act(2, 3, 4, 4), b.given(b.draw(2, 3, 3, 2) / 3), 0, 0, False)],
    "grid_sampler_3d": [lambda b: b.op(aten.grid_sampler_3d.default, b.act(2, 3, 3, 3, 3), b.given(b.draw(2, 2, 2, 2, 3) / 3), 0, 0, False)],
    "grid_sampler": [lambda b: b.op(aten.grid_sampler.default, b.act(2, 3, 4, 4), b.act(2, 3, 3, 2), 0, 0, False)],
}  # fmt: skip


def batch_norm(op: Any, *tail: Any, affine: str = "wb", shape: tuple[int, ...] = (3, 4, 2)) -> Case:
    def make(b: Board) -> Any:
        return b.op(op, b.act(*shape), *(b.param(shape[1]) if part in affine else None for part in "wb"),
                    b.statistic(shape[1]), b.statistic(shape[1]), *tail)[0]  # fmt: skip

    return make


def group_norm(groups: int, *, affine: str = "wb", first: bool = False) -> Case:
    def make(b: Board) -> Any:
        made = b.op(
            aten.native_group_norm.default,
            b.act(2, 6, 3),
            *(b.param(6) if part in affine else None for part in "wb"),
            2,
            6,
            3,
            groups,
            1e-5,
        )
        return made[0] if first else made

    return make


def heads_group_norm(b: Board) -> Any:
    x = b.op(aten.view.default, b.act(2, 3, 4, 5), [6, 4, 5])
    return b.op(aten.native_group_norm.default, x, b.param(4), b.param(4), 6, 4, 5, 2, 1e-5)[0]


NORMALISATION: dict[str, list[Case]] = {
    "native_batch_norm": [*(batch_norm(aten.native_batch_norm.default, False, 0.1, 1e-5, affine=affine) for affine in ("wb", "w", "b", "")),
                          batch_norm(aten.native_batch_norm.default, True, 0.1, 1e-5),
                          lambda b: b.op(aten.native_batch_norm.default, b.act(3, 4, 2), None, None, None, None, True, 0.1, 1e-5)],
    "_native_batch_norm_legit": [batch_norm(aten._native_batch_norm_legit.default, False, 0.1, 1e-5)],
    "_native_batch_norm_legit_no_training": [batch_norm(aten._native_batch_norm_legit_no_training.default, 0.1, 1e-5)],
    "_native_batch_norm_legit_functional": [batch_norm(aten._native_batch_norm_legit_functional.default, False, 0.1, 1e-5)],
    "_batch_norm_with_update": [batch_norm(aten._batch_norm_with_update.default, 0.1, 1e-5)],
    "_batch_norm_no_update": [batch_norm(aten._batch_norm_no_update.default, 0.1, 1e-5)],
    "batch_norm": [lambda b: b.op(aten.batch_norm.default, b.act(3, 4, 2), b.param(4), b.param(4), b.statistic(4), b.statistic(4), False, 0.1, 1e-5, False)],
    "native_layer_norm": [lambda b: b.op(aten.native_layer_norm.default, b.act(3, 2, 4), [4], b.param(4), b.param(4), 1e-5),
                          lambda b: b.op(aten.native_layer_norm.default, b.act(3, 2, 4), [2, 4], None, None, 1e-5)],
    "layer_norm": [lambda b: b.op(aten.layer_norm.default, b.act(3, 4), [4], b.param(4))],
    "rms_norm": [lambda b: b.op(aten.rms_norm.default, b.act(3, 4), [4], b.param(4), 1e-5)],
    "_fused_rms_norm": [lambda b: b.op(aten._fused_rms_norm.default, b.act(3, 4), [4], b.param(4), 1e-5)],
    "native_group_norm": [group_norm(3), group_norm(2, affine="w"), group_norm(6, affine=""), group_norm(3, affine="b"), group_norm(1), heads_group_norm,
                          lambda b: b.op(aten.native_group_norm.default, b.given(b.draw(2, 6, 3)), b.param(6), b.param(6), 2, 6, 3, 3, 1e-5)],
    "group_norm": [],
    "_weight_norm_interface": [lambda b: b.op(aten.mm.default, b.act(3, 4), b.op(aten._weight_norm_interface.default, b.param(4, 5), b.param(1, 5), 1)[0]),
                               lambda b: b.op(aten.mm.default, b.act(3, 4), b.op(aten._weight_norm_interface.default, b.param(4, 5), b.param(4, 1), 0)[0]),
                               lambda b: b.op(aten._weight_norm_interface.default, b.param(3, 4, 2), b.param(3, 1, 1), 0)[0],
                               lambda b: b.op(aten.convolution.default, b.act(2, 4, 5), b.op(aten._weight_norm_interface.default, b.param(3, 4, 2), b.param(1, 1, 2), 2)[0],
                                              None, [1], [0], [1], False, [0], 1)],
}  # fmt: skip
CASES = {**CONTRACTION, **REDUCTION, **NORMALISATION}
HELD = {
    ("max", 2), ("argmax", 1), ("any", 1), ("std", 1),
    ("std_mean", 1), ("native_group_norm", 6),
}  # fmt: skip
"""Cases that look at everything, or whose channels are an input's: nothing may go."""


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, cases in CASES.items() for place in range(len(cases))]
)
def test_against_reduced_tensors(name, place):
    strict, loose = check_case(CASES[name][place])
    assert (loose == 0) == ((name, place) in HELD)
    assert strict <= loose
