"""Triton's kernels over rows of many tensors: a program a row. Importing this needs Triton.

Tensors are given by their addresses, as each launch is for all of them; 0 is for one that is left out this time. TYPE
is that of their elements, SUM the one in which sums are taken.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}
"""Triton's names of torch's."""


@triton.jit
def products(
    xs,
    steps,
    copied,
    lengths,
    which,
    rows,
    places,
    figures,
    stride,
    MOVED: tl.constexpr,
    TYPE: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    item = tl.program_id(0)
    tensor = tl.load(which + item)
    at = tl.load(steps + tensor)
    if at != 0:
        length = tl.load(lengths + tensor)
        start = tl.load(rows + item) * length
        x = tl.load(xs + tensor).to(tl.pointer_type(TYPE)) + start
        step = at.to(tl.pointer_type(TYPE)) + start
        sign = tl.load(copied + tensor).to(SUM)
        new = tl.zeros((BLOCK,), SUM)
        cross = tl.zeros((BLOCK,), SUM)
        moved = tl.zeros((BLOCK,), SUM)
        for begin in range(0, length, BLOCK):
            index = begin + tl.arange(0, BLOCK)
            inside = index < length
            one = tl.load(x + index, mask=inside, other=0.0).to(SUM)
            new += one * one
            if MOVED:
                other = tl.load(step + index, mask=inside, other=0.0).to(SUM) - sign * one
                cross += one * other
                moved += other * other
        place = figures + tl.load(places + item)
        tl.store(place, tl.sum(new, 0))
        tl.store(place + stride, tl.sum(cross, 0))
        tl.store(place + 2 * stride, tl.sum(moved, 0))


@triton.jit
def combine(
    xs,
    others,
    lengths,
    which,
    rows,
    places,
    kept,
    taken,
    KEPT: tl.constexpr,
    TAKEN: tl.constexpr,
    TYPE: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    item = tl.program_id(0)
    place = tl.load(places + item)
    factor = tl.load(kept + place) if KEPT else tl.full((), 1.0, SUM)
    share = tl.load(taken + place) if TAKEN else tl.full((), 0.0, SUM)
    tensor = tl.load(which + item)
    at = tl.load(xs + tensor)
    at_other = tl.load(others + tensor)
    if ((factor != 1.0) | (share != 0.0)) & (at != 0) & (at_other != 0):
        length = tl.load(lengths + tensor)
        start = tl.load(rows + item) * length
        x = at.to(tl.pointer_type(TYPE)) + start
        other = at_other.to(tl.pointer_type(TYPE)) + start
        # What is to be zero is not read: that would cost as much as writing it, and it need be no number.
        needed = tl.where(factor == 0.0, 0, length)
        for begin in range(0, length, BLOCK):
            index = begin + tl.arange(0, BLOCK)
            inside = index < length
            value = factor * tl.load(x + index, mask=index < needed, other=0.0).to(SUM)
            if TAKEN:
                value += share * tl.load(other + index, mask=inside, other=0.0).to(SUM)
            tl.store(x + index, value.to(TYPE), mask=inside)


@triton.jit
def columns(
    x,
    step,
    sign,
    rows,
    length,
    each,
    partial,
    stride,
    MOVED: tl.constexpr,
    SUM: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program adds up `each` rows of a block of columns; what it finds has a place of its own.
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.program_id(1)
    first = part * each
    end = tl.minimum(first + each, rows)
    inside = index < length
    new = tl.zeros((TILE, BLOCK), SUM)
    cross = tl.zeros((TILE, BLOCK), SUM)
    moved = tl.zeros((TILE, BLOCK), SUM)
    for begin in range(first, end, TILE):
        row = begin + tl.arange(0, TILE)
        there = (row < end)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * length + index[None, :]
        one = tl.load(x + at, mask=there, other=0.0).to(SUM)
        new += one * one
        if MOVED:
            other = tl.load(step + at, mask=there, other=0.0).to(SUM) - sign * one
            cross += one * other
            moved += other * other
    place = partial + part.to(tl.int64) * length + index
    tl.store(place, tl.sum(new, 0), mask=inside)
    if MOVED:
        tl.store(place + stride, tl.sum(cross, 0), mask=inside)
        tl.store(place + 2 * stride, tl.sum(moved, 0), mask=inside)
