"""Operations that move positions, and those that pick or make them, against reduced tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from brute_force import Board, aten, check_case

Case = Callable[[Board], Any]
F64 = torch.float64


def on(op: Any, *shape: int, args: tuple[Any, ...] = (), **kwargs: Any) -> Case:
    """The operation on one activation of this shape."""
    return lambda b: b.op(op, b.act(*shape), *args, **kwargs)


def index(*numbers: Any) -> torch.Tensor:
    return torch.tensor(numbers)


RESHAPES = [
    on(aten.view.default, 2, 3, 4, args=(shape,))
    for shape in ([6, 4], [2, 12], [24], [2, 3, 2, 2], [3, 8], [1, 2, 3, 4, 1])
]
SHAPE: dict[str, list[Case]] = {
    "view": [*RESHAPES, on(aten.view.default, 24, args=([2, 3, 4],)), on(aten.view.dtype, 3, 4, args=(torch.int64,)),
             lambda b: b.op(aten.view.default, b.op(aten.relu.default, b.op(aten.view.default, b.act(2, 12), [2, 3, 4])), [6, 4]),
             lambda b: b.op(aten.view.default, b.param(4, 6), [2, 2, 6])],
    "_unsafe_view": [on(aten._unsafe_view.default, 2, 3, 4, args=([6, 4],))],
    "reshape": [on(aten.reshape.default, 2, 3, 4, args=([2, -1],))],
    "_reshape_alias": [on(aten._reshape_alias.default, 2, 3, 4, args=([6, 4], [4, 1]))],
    "unflatten": [on(aten.unflatten.int, 12, 3, args=(0, [4, 3]))],
    "flatten": [on(aten.flatten.using_ints, 3, 4, 2, args=(0, 1))],
    "view_copy": [on(aten.view_copy.default, 3, 4, args=([2, 6],))],
    "permute": [on(aten.permute.default, 2, 3, 4, args=([2, 0, -2],))],
    "permute_copy": [on(aten.permute_copy.default, 2, 3, 4, args=([1, 0, 2],))],
    "transpose": [on(aten.transpose.int, 2, 3, 4, args=(-1, 0))],
    "transpose_copy": [on(aten.transpose_copy.int, 2, 3, 4, args=(0, 1))],
    "swapaxes": [on(aten.swapaxes.default, 2, 3, 4, args=(1, 2))],
    "t": [on(aten.t.default, 3, 4), on(aten.t.default, 4)],
    "t_copy": [on(aten.t_copy.default, 3, 4)],
    "numpy_T": [on(aten.numpy_T.default, 2, 3), on(aten.numpy_T.default, 2, 3, 4)],
    "unsqueeze": [on(aten.unsqueeze.default, 3, 4, args=(1,)), on(aten.unsqueeze.default, 3, 4, args=(-1,))],
    "squeeze": [on(aten.squeeze.dim, 3, 1, 4, args=(1,)), on(aten.squeeze.default, 1, 3, 1), on(aten.squeeze.dims, 1, 3, 1, args=([0],))],
    "expand": [on(aten.expand.default, 3, 1, args=([2, 3, 4],)), on(aten.expand.default, 3, args=([2, -1],)),
               lambda b: b.op(aten.expand.default, b.param(3, 1), [3, 4])],
    "broadcast_to": [on(aten.broadcast_to.default, 1, 3, args=([2, 3],))],
    "expand_copy": [on(aten.expand_copy.default, 1, 3, args=([2, 3],))],
    "repeat": [on(aten.repeat.default, 3, 4, args=([2, 1, 3],)), on(aten.repeat.default, 3, 4, args=([1, 1],))],
    "tile": [on(aten.tile.default, 3, 4, args=([2],))],
    "cat": [lambda b: b.op(aten.cat.default, [b.act(2, 3), b.act(2, 4), b.given(b.draw(2, 2))], 1),
            lambda b: b.op(aten.cat.default, [b.act(2, 3), b.act(4, 3)], -2),
            lambda b: b.op(aten.cat.default, [b.op(aten.exp.default, b.act(2, 3)), b.act(2, 3), b.given(torch.empty(0, dtype=F64))], 1)],
    "concat": [lambda b: b.op(aten.concat.default, [b.act(2, 3), b.act(2, 4)], 1)],
    "stack": [lambda b: b.op(aten.stack.default, [b.act(3, 4), b.act(3, 4)], 1), lambda b: b.op(aten.stack.default, [b.act(3), b.act(3)], -1)],
    "slice": [on(aten.slice.Tensor, 3, 7, args=(1, 2, 6)), on(aten.slice.Tensor, 7, args=(0, -3)), on(aten.slice.Tensor, 3, 7, args=(1, 0, 7, 2)),
              on(aten.slice.Tensor, 3, 4, args=(1, 1, 2)), on(aten.slice.Tensor, 5, 3, args=(-2, 0, 9223372036854775807))],
    "narrow": [on(aten.narrow.default, 3, 7, args=(1, 2, 3)), on(aten.narrow.default, 3, 7, args=(1, 2, 1))],
    "split": [on(aten.split.Tensor, 3, 7, args=(3, 1)), on(aten.split.Tensor, 7, 2, args=(3, -2))],
    "split_with_sizes": [on(aten.split_with_sizes.default, 3, 7, args=([2, 4, 1], 1))],
    "chunk": [on(aten.chunk.default, 3, 7, args=(3, 1))],
    "tensor_split": [on(aten.tensor_split.sections, 7, 3, args=(2,)), on(aten.tensor_split.indices, 7, 3, args=([2, 5],))],
    "unsafe_split": [on(aten.unsafe_split.Tensor, 3, 6, args=(3, 1))],
    "unsafe_chunk": [on(aten.unsafe_chunk.default, 3, 6, args=(2, 1))],
    "unsafe_split_with_sizes": [on(aten.unsafe_split_with_sizes.default, 3, 6, args=([2, 4], 1))],
    "split_copy": [on(aten.split_copy.Tensor, 3, 6, args=(4, 1))],
    "split_with_sizes_copy": [on(aten.split_with_sizes_copy.default, 3, 6, args=([2, 4], 1))],
    "select": [on(aten.select.int, 3, 4, args=(1, 2))],
    "select_copy": [on(aten.select_copy.int, 3, 4, args=(0, -1))],
    "unbind": [on(aten.unbind.int, 3, 4, args=(1,))],
    "flip": [on(aten.flip.default, 3, 4, args=([1],)), on(aten.flip.default, 3, 4, args=([0, -1],))],
    "roll": [on(aten.roll.default, 3, 4, args=([1], [1])), on(aten.roll.default, 3, 4, args=([2],))],
    "constant_pad_nd": [on(aten.constant_pad_nd.default, 3, 4, args=([2, 3],)), on(aten.constant_pad_nd.default, 3, 4, args=([2, 3], 1.5)),
                        on(aten.constant_pad_nd.default, 3, 4, args=([-1, 2],)), on(aten.constant_pad_nd.default, 3, 4, args=([1, 0, 0, 2],)),
                        lambda b: b.op(aten.constant_pad_nd.default, b.given(b.draw(3, 4)), [2, 0]),
                        lambda b: b.op(aten.add.Tensor, b.op(aten.constant_pad_nd.default, b.act(3, 4), [2, 3]), b.act(3, 9))],
    "pad": [on(aten.pad.default, 3, 4, args=([1, 1],))],
    "pixel_shuffle": [on(aten.pixel_shuffle.default, 2, 12, 2, 3, args=(2,))],
    "pixel_unshuffle": [on(aten.pixel_unshuffle.default, 2, 3, 4, 2, args=(2,))],
    "unfold": [on(aten.unfold.default, 3, 7, args=(1, 3, 2))],
    "im2col": [on(aten.im2col.default, 2, 3, 4, 4, args=([2, 2], [1, 1], [0, 0], [1, 1]))],
    "col2im": [on(aten.col2im.default, 2, 12, 9, args=([4, 4], [2, 2], [1, 1], [0, 0], [1, 1])), on(aten.col2im.default, 12, 9, args=([4, 4], [2, 2], [1, 1], [0, 0], [1, 1]))],
    "diagonal": [on(aten.diagonal.default, 4, 4)],
    "as_strided": [on(aten.as_strided.default, 3, 4, args=([2, 2], [4, 1]))],
    "unfold_copy": [on(aten.unfold_copy.default, 3, 7, args=(1, 3, 2))],
    "tril": [on(aten.tril.default, 2, 3, 4)],
    "triu": [on(aten.triu.default, 2, 3, 4, args=(1,))],
    "glu": [on(aten.glu.default, 3, 8), on(aten.glu.default, 8, 3, args=(0,)), lambda b: b.op(aten.glu.default, b.op(aten.exp.default, b.act(3, 8)))],
}  # fmt: skip
CREATED: dict[str, list[Case]] = {
    name: [lambda b, name=name, overload=overload, args=args: b.op(aten.add.Tensor, b.op(getattr(getattr(aten, name), overload), *args, dtype=F64), b.act(3, 4))]
    for name, overload, args in (
        ("zeros", "default", ([3, 4],)), ("ones", "default", ([3, 4],)), ("full", "default", ([3, 4], 2.0)),
        ("linspace", "default", (0, 1, 4)), ("logspace", "default", (0, 1, 4)), ("arange", "default", (4,)), ("eye", "m", (3, 4)),
        ("scalar_tensor", "default", (2.0,)), ("rand", "default", ([3, 4],)), ("randn", "default", ([3, 4],)),
        ("randint", "default", (9, [3, 4])), ("randperm", "default", (4,)),
    )
}  # fmt: skip
CREATED["full"] += [lambda b: b.op(aten.add.Tensor, b.op(aten.full.default, [3, 4], 0.0, dtype=F64), b.act(3, 4))]
for like, given in (("new_zeros", ()), ("new_ones", ()), ("new_full", (2.0,))):
    CREATED[like] = [
        lambda b, like=like, given=given: b.op(
            aten.sub.Tensor, b.op(getattr(aten, like).default, b.act(5), [3, 4], *given), b.act(3, 4)
        )
    ]
for like, given in (
    ("zeros_like", ()),
    ("ones_like", ()),
    ("full_like", (2.0,)),
    ("full_like", (0.0,)),
    ("rand_like", ()),
    ("randn_like", ()),
):
    CREATED.setdefault(like, []).append(
        lambda b, like=like, given=given: b.op(getattr(aten, like).default, b.act(3, 4), *given)
    )
for filled, overload, given in (
    ("new_empty", "default", ([3, 4],)),
    ("new_empty_strided", "default", ([3, 4], [1, 3])),
    ("empty_like", "default", ()),
):
    CREATED[filled] = [lambda b, filled=filled, overload=overload, given=given: b.op(
        aten.copy_.default, b.op(getattr(getattr(aten, filled), overload), b.act(3, 4), *given), b.act(3, 4))]  # fmt: skip
for filled, overload, given in (("empty", "memory_format", ([3, 4],)), ("empty_strided", "default", ([3, 4], [4, 1]))):
    CREATED[filled] = [lambda b, filled=filled, overload=overload, given=given: b.op(
        aten.copy_.default, b.op(getattr(getattr(aten, filled), overload), *given, dtype=F64), b.act(3, 4))]  # fmt: skip
for drawn in ("bernoulli", "normal", "uniform", "exponential"):
    CREATED[drawn] = [
        lambda b, drawn=drawn: b.op(getattr(aten, f"{drawn}_" if drawn != "bernoulli" else drawn).default, b.unit(3, 4))
    ]
for indices in ("tril_indices", "triu_indices"):
    CREATED[indices] = [
        lambda b, indices=indices: b.op(aten.mul.Tensor, b.op(getattr(aten, indices).default, 3, 3), b.act(2, 6))
    ]
CREATED["result_type"], CREATED["item"], CREATED["_local_scalar_dense"] = [], [], []

INDEXING: dict[str, list[Case]] = {
    "embedding": [lambda b: b.op(aten.embedding.default, b.param(5, 4), b.given(index(0, 3, 3))),
                  lambda b: b.op(aten.embedding.default, b.act(5, 4), b.given(index([0, 3], [1, 2])), 3),
                  lambda b: b.op(aten.embedding.default, b.param(5, 4), b.op(aten._to_copy.default, b.op(aten.abs.default, b.act(3)), dtype=torch.int64))],
    "index_select": [lambda b: b.op(aten.index_select.default, b.act(3, 4), 1, b.given(index(0, 2, 2))),
                     lambda b: b.op(aten.index_select.default, b.act(3, 4), 0, b.op(aten._to_copy.default, b.unit(3), dtype=torch.int64))],
    "index": [lambda b: b.op(aten.index.Tensor, b.act(3, 4, 5), [None, b.given(index(0, 2))]),
              lambda b: b.op(aten.index.Tensor, b.act(3, 4, 5), [b.given(index(0, 2)), None, b.given(index(1, 1))]),
              lambda b: b.op(aten.index.Tensor, b.act(3, 4, 5), [None, b.given(index([0], [2])), b.given(index(1, 1))]),
              lambda b: b.op(aten.index.Tensor, b.act(3, 4, 5), [b.given(index(True, False, True))]),
              lambda b: b.op(aten.index.Tensor, b.act(2, 3, 5), [b.given(index([True, False, True], [False, True, False]))]),
              lambda b: b.op(aten.index.Tensor, b.act(2, 3, 5), [None, b.given(b.draw(3, 5) > 0)])],
    "gather": [lambda b: b.op(aten.gather.default, b.act(3, 4), 1, b.given(index([0, 2], [1, 1], [3, 0]))),
               lambda b: b.op(aten.gather.default, b.act(3, 4), 0, b.given(index([0, 2, 1], [1, 1, 0]))),
               lambda b: b.op(aten.gather.default, b.act(3, 4), 1, b.op(aten.argsort.default, b.act(3, 4)))],
    "take_along_dim": [lambda b: b.op(aten.take_along_dim.default, b.act(3, 4), b.op(aten.argsort.default, b.act(3, 4)), 1)],
    "isin": [lambda b: b.op(aten.isin.Tensor_Tensor, b.act(3, 4), b.act(5)), lambda b: b.op(aten.isin.Tensor_Scalar, b.act(3, 4), 1.0)],
    "_fft_r2c": [on(aten._fft_r2c.default, 3, 6, args=([1], 0, True))],
    "_fft_c2c": [lambda b: b.op(aten._fft_c2c.default, b.op(aten.view_as_complex.default, b.act(3, 6, 2)), [0], 0, True)],
    "_fft_c2r": [lambda b: b.op(aten._fft_c2r.default, b.op(aten.view_as_complex.default, b.act(3, 4, 2)), [1], 2, 6)],
    "view_as_complex": [lambda b: b.op(aten.view_as_complex.default, b.act(3, 4, 2))],
    "view_as_real": [lambda b: b.op(aten.view_as_real.default, b.op(aten.view_as_complex.default, b.act(3, 4, 2)))],
    "_embedding_bag": [lambda b: b.op(aten._embedding_bag.default, b.param(5, 4), b.given(index(0, 3, 3, 1)), b.given(index(0, 2)), False, 1)[0]],
    "_embedding_bag_forward_only": [lambda b: b.op(aten._embedding_bag_forward_only.default, b.param(5, 4), b.given(index(0, 3, 3, 1)), b.given(index(0, 2)))[0]],
}  # fmt: skip
WRITTEN: dict[str, Case] = {
    "scatter": lambda b: b.op(aten.scatter.src, b.act(3, 4), 1, b.given(index([0], [1], [2])), b.act(3, 1)),
    "scatter_add": lambda b: b.op(aten.scatter_add.default, b.act(3, 4), 1, b.given(index([0], [1], [2])), b.act(3, 1)),
    "scatter_reduce": lambda b: b.op(aten.scatter_reduce.two, b.act(3, 4), 1, b.given(index([0], [1], [2])), b.act(3, 1), "sum"),
    "index_add": lambda b: b.op(aten.index_add.default, b.act(3, 4), 1, b.given(index(0, 2)), b.act(3, 2)),
    "index_copy": lambda b: b.op(aten.index_copy.default, b.act(3, 4), 1, b.given(index(0, 2)), b.act(3, 2)),
    "index_fill": lambda b: b.op(aten.index_fill.int_Scalar, b.act(3, 4), 1, b.given(index(0, 2)), 1.0),
    "index_put": lambda b: b.op(aten.index_put.default, b.act(3, 4), [b.given(index(0, 2))], b.act(4)),
    "_index_put_impl": lambda b: b.op(aten._index_put_impl_.default, b.act(3, 4), [b.given(index(0, 2))], b.act(4)),
    "slice_scatter": lambda b: b.op(aten.slice_scatter.default, b.act(3, 4), b.act(3, 2), 1, 1, 3),
    "select_scatter": lambda b: b.op(aten.select_scatter.default, b.act(3, 4), b.act(3), 1, 1),
    "masked_scatter": lambda b: b.op(aten.masked_scatter.default, b.act(3, 4), b.given(b.draw(3, 4) > 0), b.act(12)),
    "masked_select": lambda b: b.op(aten.masked_select.default, b.act(3, 4), b.given(b.draw(3, 4) > 0)),
    "one_hot": lambda b: b.op(aten.one_hot.default, b.op(aten._to_copy.default, b.unit(3), dtype=torch.int64), 4),
    "bincount": lambda b: b.op(aten.bincount.default, b.given(index(0, 2, 2)), b.act(3)),
    "searchsorted": lambda b: b.op(aten.searchsorted.Tensor, b.op(aten.cumsum.default, b.unit(5), 0), b.act(3)),
    "bucketize": lambda b: b.op(aten.bucketize.Tensor, b.act(3), b.op(aten.cumsum.default, b.unit(5), 0)),
    "nonzero": lambda b: b.op(aten.nonzero.default, b.op(aten.relu.default, b.act(3, 4))),
    "unique_dim": lambda b: b.op(aten.unique_dim.default, b.act(3, 4), 0),
    "_unique2": lambda b: b.op(aten._unique2.default, b.act(3, 4)),
    "repeat_interleave": lambda b: b.op(aten.repeat_interleave.self_int, b.act(3, 4), 2, 1),
}  # fmt: skip
CASES = {**SHAPE, **CREATED, **INDEXING, **{name: [case] for name, case in WRITTEN.items()}}
HELD = {("roll", 1), ("constant_pad_nd", 4), ("gather", 0), ("gather", 1), ("index", 4), ("index", 5)} | {(name, 0) for name in (
    "diagonal", "as_strided", "unfold_copy", "rand", "randn", "randint", "eye", "rand_like", "randn_like", "bernoulli", "normal",
    "uniform", "exponential", "tril_indices", "triu_indices", *WRITTEN,
)}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, cases in CASES.items() for place in range(len(cases))]
)
def test_against_reduced_tensors(name, place):
    strict, loose = check_case(CASES[name][place])
    assert (loose == 0) == ((name, place) in HELD)
    assert strict <= loose
