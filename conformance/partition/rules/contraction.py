"""Operations that sum products: matrix products and convolutions."""

from __future__ import annotations

import numpy as np

from conformance.partition.labels import Labelled, Labels, Pass, fixed, is_fixed, nonzero, zero_if
from conformance.partition.rules.registry import Call, Dims, hold_all, rule


def _contract(p: Pass, left: Labelled, left_dim: int, right: Labelled, right_dim: int) -> None:
    """Sum over left's and right's dimension; the operand made of parameters reads the structure."""
    p.contract(left.dims[left_dim], right.dims[right_dim])
    if right.static:
        p.consumer(right.dims[right_dim])
    elif left.static:
        p.consumer(left.dims[left_dim])


def _made_by(p: Pass, weight: Labelled, labels: Labels, kind: str) -> Labels:
    """The output dimension a weight makes: its rows are the producers of what follows."""
    if weight.static:
        p.producer(labels)
        p.kind(kind, labels)
    return labels


def _plus_bias(p: Pass, labels: Labels, bias: Labelled | None) -> Labels:
    if bias is None:
        return labels
    own = bias.dims[-1]
    if own.size != labels.size:  # a bias of one number shared by all
        return zero_if(labels, np.zeros(labels.size, dtype=bool))
    p.join(labels, own)
    if bias.static:
        p.producer(own)
    return zero_if(labels if not is_fixed(labels) else own, (labels > 0) & (own > 0))


def _mm(p: Pass, a: Labelled, b: Labelled) -> Dims:
    _contract(p, a, 1, b, 0)
    rows = _made_by(p, a, a.dims[0], "neuron") if not b.static else a.dims[0]
    columns = _made_by(p, b, b.dims[1], "neuron")
    return [rows, columns]


@rule("mm")
def mm(p: Pass, call: Call) -> list[Dims]:
    """(n, k) @ (k, m)."""
    return [_mm(p, call["self"], call["mat2"])]


@rule("addmm")
def addmm(p: Pass, call: Call) -> list[Dims]:
    """bias + (n, k) @ (k, m)."""
    rows, columns = _mm(p, call["mat1"], call["mat2"])
    bias: Labelled = call["self"]
    columns = _plus_bias(p, columns, bias)
    if bias.ndim == 2 and bias.shape[0] == rows.size:
        p.join(rows, bias.dims[0])
        rows = zero_if(rows, (rows > 0) & (bias.dims[0] > 0))
    elif not is_fixed(rows):
        rows = zero_if(rows, np.zeros(rows.size, dtype=bool))
    return [[rows, columns]]


def _bmm(p: Pass, a: Labelled, b: Labelled) -> Dims:
    p.join(a.dims[0], b.dims[0])
    if not (a.static or b.static):
        p.batch(a.dims[0])
        p.batch(b.dims[0])
    _contract(p, a, 2, b, 1)
    batch = zero_if(a.dims[0] if not is_fixed(a.dims[0]) else b.dims[0], (a.dims[0] > 0) | (b.dims[0] > 0))
    rows = a.dims[1] if b.static else _made_by(p, a, a.dims[1], "neuron")
    return [batch, rows, _made_by(p, b, b.dims[2], "neuron")]


@rule("bmm")
def bmm(p: Pass, call: Call) -> list[Dims]:
    """(b, n, k) @ (b, k, m)."""
    return [_bmm(p, call["self"], call["mat2"])]


@rule("baddbmm")
def baddbmm(p: Pass, call: Call) -> list[Dims]:
    """added + (b, n, k) @ (b, k, m)."""
    made = _bmm(p, call["batch1"], call["batch2"])
    added: Labelled = call["self"]
    dims = []
    for dim, labels in enumerate(made):
        at = dim - (3 - added.ndim)
        own = added.dims[at] if at >= 0 else fixed(1)
        if own.size == labels.size and labels.size > 1:
            p.join(labels, own)
            dims.append(zero_if(labels, (labels > 0) & ((own > 0) | (call.get("beta", 1) == 0))))
        else:
            dims.append(zero_if(labels, (labels > 0) & (call.get("beta", 1) == 0)))
    return [dims]


@rule("mv")
def mv(p: Pass, call: Call) -> list[Dims]:
    """(n, k) @ (k,)."""
    a, b = call["self"], call["vec"]
    _contract(p, a, 1, b, 0)
    return [[_made_by(p, a, a.dims[0], "neuron")]]


@rule("dot", "vdot")
def dot(p: Pass, call: Call) -> list[Dims]:
    """(k,) @ (k,)."""
    tensors = call.tensors
    _contract(p, tensors[0], 0, tensors[1], 0)
    return [[]]


@rule("linear")
def linear(p: Pass, call: Call) -> list[Dims]:
    """(..., k) with weight (m, k), where a backend keeps it whole."""
    x, weight = call["input"], call["weight"]
    _contract(p, x, x.ndim - 1, weight, 1)
    columns = _plus_bias(p, _made_by(p, weight, weight.dims[0], "neuron"), call.get("bias"))
    lead = x.dims[:-1] if call.get("bias") is None else [zero_if(d, np.zeros(d.size, bool)) for d in x.dims[:-1]]
    return [[*lead, columns]]


@rule("convolution")
def convolution(p: Pass, call: Call) -> list[Dims]:
    """(N, C, *space) with weight (O, C/groups, *kernel), or (C, O/groups, *kernel) transposed."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    transposed, groups = call["transposed"], call["groups"]
    for labels in weight.dims[2:]:
        p.fix(labels, "is a kernel extent of a convolution")
    pointwise = all(size == 1 for size in (*weight.shape[2:], *call["stride"])) and not any(call["padding"])
    pointwise &= x.shape[2:] == call.shape[2:]  # a transposed one may pad its output
    for labels in () if pointwise else x.dims[2:]:
        p.fix(labels, "is convolved over")
    channels = _conv_channels(p, x, weight, transposed, groups)
    channels = _plus_bias(p, channels, bias)
    space = (
        [zero_if(labels, np.zeros(labels.size, bool)) for labels in x.dims[2:]]
        if pointwise
        else [fixed(size) for size in call.shape[2:]]
    )
    return [[x.dims[0] if bias is None else nonzero(x.dims[0]), channels, *space]]


def _conv_channels(p: Pass, x: Labelled, weight: Labelled, transposed: bool, groups: int) -> Labels:
    if groups == 1:
        _contract(p, x, 1, weight, 0 if transposed else 1)
        return _made_by(p, weight, weight.dims[1 if transposed else 0], "channel")
    c_in = x.shape[1] // groups
    c_out = weight.shape[1] if transposed else weight.shape[0] // groups
    if c_in == 1 and not transposed:
        return _depthwise(p, x.dims[1], weight, c_out)
    whole = p.fresh(groups, "whole group")
    inside, outside = p.fresh(c_in, "input in group"), p.fresh(c_out, "output in group")
    p.grid(x.dims[1], [whole, inside], (groups, c_in))
    own_in = weight.dims[0] if transposed else weight.dims[1]
    own_out = weight.dims[1] if transposed else weight.dims[0]
    if transposed:
        # weight (g * c_in, c_out): its rows follow x, its columns are shared by the groups.
        p.join(x.dims[1], own_in)
        p.join(outside, own_out)
        flat = p.fresh(groups * c_out, "output")
        p.grid(flat, [whole, outside], (groups, c_out))
    else:
        p.join(inside, own_in)
        p.grid(own_out, [whole, outside], (groups, c_out))
        flat = own_out
    if weight.static:
        p.consumer(own_in)
        p.producer(own_out)
        p.kind("channel", own_out)
    if not p.collecting:
        _check_grouped_input(p, x.dims[1], inside, own_in, whole, transposed)
        if transposed:
            flat = _transposed_sign(flat, own_out, x.dims[1], groups)
    return flat


def _depthwise(p: Pass, channels: Labels, weight: Labelled, multiplier: int) -> Labels:
    out = weight.dims[0]
    repeated = channels if multiplier == 1 else np.repeat(channels, multiplier)
    p.join(repeated, out)
    if weight.static:
        p.producer(out)
        p.kind("channel", out)
    return zero_if(out, (out > 0) | (repeated > 0))


def _check_grouped_input(
    p: Pass, channels: Labels, inside: Labels, own_in: Labels, whole: Labels, transposed: bool
) -> None:
    """A channel that leaves with its whole group is read by nobody; one inside a group is summed."""
    grid = channels.reshape(whole.size, inside.size)
    with_group = np.abs(grid) == np.abs(whole)[:, None]
    weight = own_in.reshape(grid.shape) if transposed else np.broadcast_to(own_in[None, :], grid.shape)
    zero = np.where(with_group, np.abs(grid), np.maximum(grid, weight))
    p.require_zero(zero.reshape(-1), "is not zero where a grouped convolution sums it")


def _transposed_sign(flat: Labels, own_out: Labels, channels: Labels, groups: int) -> Labels:
    """Zero where the weight's column is, or where all inputs of the group leave together with the output."""
    grid = np.abs(flat).reshape(groups, -1)
    inputs = channels.reshape(groups, -1)
    zero = (own_out == grid) | np.all(inputs[:, :, None] == grid[:, None, :], axis=1)
    return zero_if(flat, zero.reshape(-1))


_ALIGNED = 8
"""Grouped products need rows of whole 16 bytes: 8 half-precision numbers."""


def _in_blocks(p: Pass, labels: Labels) -> None:
    """Positions leave in aligned blocks, or not at all."""
    if labels.size % _ALIGNED:
        p.fix(labels, "is not a whole number of 16-byte blocks")
        return
    blocks = labels.reshape(-1, _ALIGNED)
    for column in range(1, _ALIGNED):
        p.join(np.ascontiguousarray(blocks[:, 0]), np.ascontiguousarray(blocks[:, column]))


@rule("_grouped_mm")
def grouped_mm(p: Pass, call: Call) -> list[Dims]:
    """Rows of (n, k) times the matrix of their expert, (experts, k, m), as `offs` says."""
    a, b = call["self"], call["mat2"]
    if a.ndim != 2 or b.ndim != 3:
        return hold_all(p, call, "is a grouped product of an unknown form")
    p.fix(b.dims[0], "is an expert chosen by number")
    for labels in (a.dims[1], b.dims[1], b.dims[2]):
        _in_blocks(p, labels)
    _contract(p, a, 1, b, 1)
    rows = zero_if(a.dims[0], np.zeros(a.dims[0].size, dtype=bool))
    return [[rows, _made_by(p, b, b.dims[2], "neuron")]]
