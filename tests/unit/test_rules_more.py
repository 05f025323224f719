"""Rules of operations that need more than a line: results that are no tensors, kernels other devices have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from brute_force import Board, aten, check_case

from conformance.graph.tape import Node, replace

Case = Callable[[Board], Any]
F64 = torch.float64


def without_result(b: Board, op: Any, *args: Any) -> None:
    """Run an operation whose result is no tensor, and write it down."""
    op(*replace(args, lambda ref: b.reals[ref.index]))
    b.nodes.append(Node(len(b.nodes), op, args, {}, None, "", None))


def read_as_number(op: Any) -> Case:
    """A sum is read as a number; the channels that were summed may still leave."""

    def case(b: Board) -> Any:
        x = b.act(3, 4)
        total = b.op(aten.sum.default, x)
        without_result(b, op, total)
        return b.op(aten.mul.Tensor, x, total)

    return case


def result_type(b: Board) -> Any:
    x = b.act(3, 4)
    without_result(b, aten.result_type.Scalar, x, 2.0)
    return x


def experts(b: Board) -> Any:
    """Tokens of an input times the matrix of their expert: 16 inner and 24 outer channels, in blocks of 8.

    There is no kernel for float64. Small whole numbers are exact in float32 too.
    """
    tokens = b.op(aten.mul.Tensor, b.given(torch.ones(5, 1, dtype=F64)), b.param(16))
    operands = [b.op(aten._to_copy.default, b.op(aten.round.default, x), dtype=torch.float32)
                for x in (tokens, b.param(2, 16, 24))]  # fmt: skip
    ends = b.given(torch.tensor([2, 5], dtype=torch.int32))
    return b.op(aten._to_copy.default, b.op(aten._grouped_mm.default, *operands, ends), dtype=F64)


def batch_norm(op: Any, *, training: bool) -> Case:
    return lambda b: b.op(
        op, b.act(3, 4, 2), b.param(4), b.param(4), b.statistic(4), b.statistic(4), training, 0.1, 1e-5
    )[0]


def packed(*, batch_first: bool) -> Case:
    """Sequences of 4, 3 and 1 steps; the features may leave."""
    shape = (3, 4, 5) if batch_first else (4, 3, 5)
    lengths = torch.tensor([4, 3, 1])
    return lambda b: b.op(aten._pack_padded_sequence.default, b.act(*shape), b.given(lengths), batch_first)[0]


CASES: dict[str, list[Case]] = {
    "_pack_padded_sequence": [packed(batch_first=batch_first) for batch_first in (False, True)],
    "item": [read_as_number(aten.item.default)],
    "_local_scalar_dense": [read_as_number(aten._local_scalar_dense.default)],
    "result_type": [result_type],
    "_grouped_mm": [experts],
    "cudnn_batch_norm": [batch_norm(aten.cudnn_batch_norm.default, training=training) for training in (False, True)],
    "miopen_batch_norm": [batch_norm(aten.miopen_batch_norm.default, training=training) for training in (False, True)],
    "group_norm": [lambda b: b.op(aten.group_norm.default, b.act(2, 6, 3), 3, b.param(6), b.param(6))],
}
HELD = {("result_type", 0)}
GROUPS = {("_grouped_mm", 0): 5}
"""Where the number is known: 2 blocks of inner and 3 of outer channels."""


@pytest.fixture
def kernels_of_other_devices():
    """What cuDNN and MIOpen compute, as CPU kernels under their names: the plain batch norm."""

    def cudnn(x, weight, bias, mean, var, training, momentum, eps):
        made = aten.native_batch_norm.default(x, weight, bias, mean, var, training, momentum, eps)
        return *made, torch.empty(0, dtype=torch.uint8)

    def miopen(x, weight, bias, mean, var, training, momentum, eps):
        return aten.native_batch_norm.default(x, weight, bias, mean, var, training, momentum, eps)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("cudnn_batch_norm", cudnn, "CPU")
        library.impl("miopen_batch_norm", miopen, "CPU")
        yield


@pytest.mark.usefixtures("kernels_of_other_devices")
@pytest.mark.parametrize(
    ("name", "place"),
    [(name, place) for name, cases in CASES.items() for place in range(len(cases))],
)
def test_against_reduced_tensors(name, place):
    strict, loose = check_case(CASES[name][place])
    assert (loose == 0) == ((name, place) in HELD)
    assert strict <= loose
    assert loose == GROUPS.get((name, place), loose)
