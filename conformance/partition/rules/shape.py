"""Operations that move positions: views, permutations, concatenation, slicing, padding."""

from __future__ import annotations

import numpy as np

from conformance.partition.labels import Labelled, Labels, Pass, fixed, is_fixed, nonzero, zero_if
from conformance.partition.rules.registry import Call, Dims, hold_all, rule


def matched_blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Pair consecutive dimensions of equal product, as finely as possible; size-1 ones ride along.

    (2, 3, 4) -> (6, 2, 2) gives [([0, 1], [0]), ([2], [1, 2])].
    """
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = ([i] if i < len(before) else []), ([j] if j < len(after) else [])
        have = before[i] if left else 1
        want = after[j] if right else 1
        i, j = i + len(left), j + len(right)
        while have != want:
            if have < want:
                left.append(i)
                have *= before[i]
                i += 1
            else:
                right.append(j)
                want *= after[j]
                j += 1
        blocks.append((left, right))
    return blocks


def reshape_dims(p: Pass, dims: Dims, before: tuple[int, ...], after: tuple[int, ...]) -> Dims:
    """Labels of a row-major reshape."""
    if 0 in before:
        return [fixed(size) for size in after]
    result: Dims = [fixed(size) for size in after]
    for number, (left, right) in enumerate(matched_blocks(before, after)):
        real_left = [at for at in left if before[at] > 1]
        real_right = [at for at in right if after[at] > 1]
        if not real_right:
            continue
        alone = len(real_left) == 1
        flat = dims[real_left[0]] if alone else p.merge([dims[at] for at in real_left], (number, "merge"))
        if len(real_right) == 1:
            result[real_right[0]] = flat
        else:
            sizes = tuple(after[at] for at in real_right)
            for at, labels in zip(real_right, p.split(flat, sizes, (number, "split")), strict=True):
                result[at] = labels
    return result


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten", "view_copy")
def view(p: Pass, call: Call) -> list[Dims]:
    """A reshape; `view.dtype` keeps labels only when it keeps the shape."""
    x = call.tensors[0]
    if "dtype" in call.node.name:
        return [list(x.dims)] if x.shape == call.shape else hold_all(p, call, "is reinterpreted as another dtype")
    return [reshape_dims(p, x.dims, x.shape, call.shape)]


@rule("permute", "permute_copy")
def permute(p: Pass, call: Call) -> list[Dims]:
    """Dimensions in another order."""
    x = call["self"]
    return [[x.dims[x.axis(dim)] for dim in call["dims"]]]


@rule("transpose", "t", "numpy_T", "swapaxes", "t_copy", "transpose_copy")
def transpose(p: Pass, call: Call) -> list[Dims]:
    """Two dimensions swapped."""
    x = call["self"]
    dims = list(x.dims)
    if call.node.op._schema.name == "aten::numpy_T":
        return [dims[::-1]]
    if x.ndim > 1:
        a, b = x.axis(call.get("dim0", call.get("axis0", 0))), x.axis(call.get("dim1", call.get("axis1", 1)))
        dims[a], dims[b] = dims[b], dims[a]
    return [dims]


@rule("unsqueeze", "squeeze")
def squeeze(p: Pass, call: Call) -> list[Dims]:
    """Dimensions of size 1 come and go; the others keep their order."""
    rest = iter([labels for labels in call["self"].dims if labels.size != 1])
    return [[fixed(1) if size == 1 else next(rest) for size in call.shape]]


@rule("expand", "broadcast_to", "expand_copy")
def expand(p: Pass, call: Call) -> list[Dims]:
    """A dimension expanded from 1 is free: its positions are copies, removable one by one."""
    x = call["self"]
    dims: Dims = []
    for at, size in enumerate(call.shape):
        own = at - (len(call.shape) - x.ndim)
        if own >= 0 and x.shape[own] == size:
            dims.append(x.dims[own])
        elif x.floating and not x.static:
            copies = p.fresh(size, ("expand", at))
            p.copied(copies)
            dims.append(nonzero(copies) if not p.collecting else copies)
        else:
            dims.append(fixed(size))
    return [dims]


@rule("repeat", "tile")
def repeat(p: Pass, call: Call) -> list[Dims]:
    """Each dimension tiled; leading new dimensions are copies."""
    x = call["self"]
    lead = len(call.shape) - x.ndim
    dims: Dims = []
    for at, size in enumerate(call.shape):
        own = x.dims[at - lead] if at >= lead else fixed(1)
        dims.append(fixed(size) if is_fixed(own) else np.tile(own, size // own.size))
    return [dims]


@rule("cat", "concat")
def cat(p: Pass, call: Call) -> list[Dims]:
    """Along dim the labels follow each other; the other dimensions are joined."""
    tensors: list[Labelled] = [x for x in call["tensors"] if x.shape != (0,)]
    dim = call.get("dim", 0) % len(call.shape)
    return [_side_by_side(p, tensors, dim, [x.dims[dim] for x in tensors])]


def _side_by_side(p: Pass, tensors: list[Labelled], dim: int, lines: list[Labels]) -> Dims:
    dims: Dims = []
    for at in range(tensors[0].ndim):
        if at == dim:
            dims.append(fixed(sum(x.size for x in lines)) if all(is_fixed(x) for x in lines) else np.concatenate(lines))
            continue
        base = next((x.dims[at] for x in tensors if not is_fixed(x.dims[at])), tensors[0].dims[at])
        for x in tensors:
            p.join(base, x.dims[at])
        dims.append(base if p.collecting else zero_if(base, np.all([x.dims[at] > 0 for x in tensors], axis=0)))
    return dims


@rule("stack")
def stack(p: Pass, call: Call) -> list[Dims]:
    """A new dimension whose positions are told apart by order: fixed."""
    tensors = call["tensors"]
    dims = _side_by_side(p, tensors, -1, [])
    dim = call.get("dim", 0) % len(call.shape)
    return [[*dims[:dim], fixed(len(tensors)), *dims[dim:]]]


@rule("slice")
def slice_(p: Pass, call: Call) -> list[Dims]:
    """x[start:end:step] along dim; only contiguous slices can shrink."""
    x = call["self"]
    dim = x.axis(call.get("dim", 0))
    start, end, step = call.get("start"), call.get("end"), call.get("step", 1)
    line = x.dims[dim][slice(start, end, step)]
    if step != 1:
        p.fix(x.dims[dim], "is sliced with a step")
        line = fixed(line.size) if p.collecting else line
    return [[*x.dims[:dim], _one(p, line), *x.dims[dim + 1 :]]]


def _one(p: Pass, line: Labels) -> Labels:
    """A slice of a single position cannot go: it is picked by its place."""
    if line.size == 1 and not is_fixed(line):
        p.fix(line, "is picked by its place")
        return fixed(1)
    return line


@rule("narrow")
def narrow(p: Pass, call: Call) -> list[Dims]:
    """x[start:start+length] along dim."""
    x = call["self"]
    dim = x.axis(call["dim"])
    line = x.dims[dim][call["start"] : call["start"] + call["length"]]
    return [[*x.dims[:dim], _one(p, line), *x.dims[dim + 1 :]]]


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes",
      "split_copy", "split_with_sizes_copy")  # fmt: skip
def split(p: Pass, call: Call) -> list[Dims]:
    """Consecutive pieces along dim."""
    x = call["self"]
    dim = x.axis(call.get("dim", 0))
    results, start = [], 0
    for shape in call.out_shapes:
        line = x.dims[dim][start : start + shape[dim]]
        start += shape[dim]
        results.append([*x.dims[:dim], _one(p, line), *x.dims[dim + 1 :]])
    return results


@rule("select", "unbind", "select_copy")
def select(p: Pass, call: Call) -> list[Dims]:
    """One position by number: the dimension's numbering must stay."""
    x = call["self"]
    dim = x.axis(call.get("dim", 0))
    p.fix(x.dims[dim], "is indexed by number")
    return [[*x.dims[:dim], *x.dims[dim + 1 :]] for _ in call.out_shapes]


@rule("flip")
def flip(p: Pass, call: Call) -> list[Dims]:
    """Positions in reverse order."""
    x = call["self"]
    dims = list(x.dims)
    for dim in call["dims"]:
        at = x.axis(dim)
        dims[at] = dims[at] if is_fixed(dims[at]) else dims[at][::-1].copy()
    return [dims]


@rule("roll")
def roll(p: Pass, call: Call) -> list[Dims]:
    """Positions shifted by a number that would mean something else in a smaller dimension."""
    x = call["self"]
    for dim in call.get("dims") or range(x.ndim):
        p.fix(x.dims[x.axis(dim)], "is rolled")
    return [list(x.dims)]


@rule("constant_pad_nd", "pad")
def constant_pad(p: Pass, call: Call) -> list[Dims]:
    """New constant positions on both sides; a fill of zero may be removed freely."""
    x, pads = call["self"], call["pad"]
    dims = list(x.dims)
    for number in range(len(pads) // 2):
        dim = x.ndim - 1 - number
        before, after = pads[2 * number], pads[2 * number + 1]
        if not before and not after:
            continue
        # What was free while facts were collected has its labels, whatever it came to later.
        held = is_fixed(dims[dim]) and not p.known(("padded", dim))
        if held or before < 0 or after < 0:
            p.fix(dims[dim], "is padded or cropped")
            dims[dim] = fixed(call.shape[dim])
            continue
        # One draw for the whole line: a side of one position could not have labels of its own.
        line = p.fresh(call.shape[dim], ("padded", dim))
        p.join(line[before : before + dims[dim].size], dims[dim])
        sides = [line[:before], line[call.shape[dim] - after :]]
        if call.get("value", 0):
            sides = [nonzero(side) for side in sides]
        dims[dim] = np.concatenate([sides[0], dims[dim], sides[1]])
    # A padded position is zero along every other dimension only when the fill is.
    if call.get("value", 0):
        dims = [nonzero(labels) for labels in dims]
    return [dims]


@rule("pixel_shuffle")
def pixel_shuffle(p: Pass, call: Call) -> list[Dims]:
    """(C*r*r, H, W) -> (C, H*r, W*r): r*r consecutive channels make one."""
    x, factor = call["self"], call["upscale_factor"]
    lead = x.ndim - 3
    out = p.split(x.dims[lead], (call.shape[lead], factor * factor), "channels")
    p.fix(out[1], "becomes space")
    return [[*x.dims[:lead], out[0], *_space(p, call)]]


@rule("pixel_unshuffle")
def pixel_unshuffle(p: Pass, call: Call) -> list[Dims]:
    """(C, H*r, W*r) -> (C*r*r, H, W)."""
    x, factor = call["self"], call["downscale_factor"]
    lead = x.ndim - 3
    return [[*x.dims[:lead], np.repeat(x.dims[lead], factor * factor), *_space(p, call)]]


def _space(p: Pass, call: Call) -> Dims:
    for labels in call["self"].dims[-2:]:
        p.fix(labels, "is rearranged in space")
    return [fixed(size) for size in call.shape[-2:]]


@rule("unfold")
def unfold(p: Pass, call: Call) -> list[Dims]:
    """Windows along one dimension, which is fixed; the others ride along."""
    x = call["self"]
    dim = x.axis(call["dimension"])
    p.fix(x.dims[dim], "is cut into windows")
    dims = list(x.dims)
    dims[dim] = fixed(call.shape[dim])
    return [[*dims, fixed(call.shape[-1])]]


@rule("im2col")
def im2col(p: Pass, call: Call) -> list[Dims]:
    """(N, C, H, W) -> (N, C*k*k, L): each channel gives k*k rows."""
    x = call["self"]
    for labels in x.dims[-2:]:
        p.fix(labels, "is cut into patches")
    lead = x.ndim - 3
    per_channel = call.shape[lead] // x.shape[lead]
    return [[*x.dims[:lead], np.repeat(x.dims[lead], per_channel), fixed(call.shape[-1])]]


@rule("col2im")
def col2im(p: Pass, call: Call) -> list[Dims]:
    """(N, C*k*k, L) -> (N, C, H, W): sums patches; k*k rows make one channel."""
    x = call["self"]
    lead = x.ndim - 2
    p.fix(x.dims[-1], "is folded into space")
    out = p.split(x.dims[lead], (call.shape[lead], x.shape[lead] // call.shape[lead]), "channels")
    p.fix(out[1], "is folded into space")
    return [[*x.dims[:lead], out[0], fixed(call.shape[-2]), fixed(call.shape[-1])]]


@rule("diagonal", "as_strided", "unfold_copy")
def hold_strided(p: Pass, call: Call) -> list[Dims]:
    """Read by memory layout or along a diagonal."""
    return hold_all(p, call, "is read by its place in memory")


@rule("tril", "triu")
def triangle(p: Pass, call: Call) -> list[Dims]:
    """Zeroes by comparing the last two positions' numbers."""
    x = call["self"]
    for labels in x.dims[-2:]:
        p.fix(labels, "is masked by position")
    return [list(x.dims)]


@rule("glu")
def glu(p: Pass, call: Call) -> list[Dims]:
    """First half times the sigmoid of the second: both halves go together."""
    x = call["self"]
    dim = x.axis(call.get("dim", -1))
    half = x.shape[dim] // 2
    first, second = x.dims[dim][:half], x.dims[dim][half:]
    p.join(first, second)
    line = first if not is_fixed(first) else second
    dims = list(x.dims)
    dims[dim] = line if p.collecting else zero_if(line, first > 0)
    return [dims]
