"""Operations that pick positions by number: the picked dimension keeps its numbering."""

from __future__ import annotations

from conformance.partition.labels import Pass, fixed, nonzero
from conformance.partition.rules.elementwise import broadcast
from conformance.partition.rules.registry import Call, Dims, hold_all, rule


@rule("embedding")
def embedding(p: Pass, call: Call) -> list[Dims]:
    """weight (V, D) at indices: D rides along."""
    weight, indices = call["weight"], call["indices"]
    p.fix(weight.dims[0], "is looked up by number")
    if weight.static:
        p.producer(weight.dims[1])
        p.kind("embedding", weight.dims[1])
    return [[*(nonzero(labels) for labels in indices.dims), weight.dims[1]]]


@rule("index_select")
def index_select(p: Pass, call: Call) -> list[Dims]:
    """Rows by number along dim."""
    x = call["self"]
    dim = x.axis(call["dim"])
    p.fix(x.dims[dim], "is looked up by number")
    for labels in call["index"].dims:
        p.fix(labels, "is an index")
    return [[*x.dims[:dim], fixed(call.shape[dim]), *x.dims[dim + 1 :]]]


@rule("index")
def index(p: Pass, call: Call) -> list[Dims]:
    """x[i, j, :]: indexed dimensions are replaced by the indices' own; the rest rides along."""
    x, indices = call["self"], list(call["indices"])
    indices += [None] * (x.ndim - len(indices))
    used = [at for at, i in enumerate(indices) if i is not None]
    width = max((indices[at].ndim for at in used), default=0)
    if len(call.shape) != width + x.ndim - len(used):  # a boolean mask over several dimensions
        return hold_all(p, call, "is picked by a mask")
    for at in used:
        p.fix(x.dims[at], "is looked up by number")
        for labels in indices[at].dims:
            p.fix(labels, "is an index")
    rest = [labels for at, labels in enumerate(x.dims) if at not in used]
    count = len(call.shape) - len(rest)
    consecutive = used == list(range(used[0], used[0] + len(used))) if used else True
    place = used[0] if used and consecutive else 0
    made = [fixed(size) for size in call.shape[place : place + count]]
    return [[*rest[:place], *made, *rest[place:]]]


@rule("gather", "take_along_dim")
def gather(p: Pass, call: Call) -> list[Dims]:
    """Along dim by number; other dimensions must agree with the index, which is data."""
    x, at = call.tensors
    dim = x.axis(call["dim"])
    p.fix(x.dims[dim], "is looked up by number")
    dims = []
    for place, size in enumerate(call.shape):
        if place == dim or at.shape[place] != x.shape[place]:
            p.fix(x.dims[place], "is looked up by number")
            p.fix(at.dims[place], "is an index")
            dims.append(fixed(size))
        else:
            p.join(x.dims[place], at.dims[place])
            dims.append(x.dims[place])
    return [dims]


@rule("scatter", "scatter_add", "index_add", "index_copy", "index_put", "scatter_reduce", "slice_scatter",
      "select_scatter", "masked_scatter", "_index_put_impl", "index_fill")  # fmt: skip
def writes_by_number(p: Pass, call: Call) -> list[Dims]:
    """Writes into places given by number."""
    return hold_all(p, call, "is written by number")


@rule("one_hot", "bincount", "searchsorted", "bucketize", "nonzero", "masked_select", "unique_dim", "_unique2",
      "repeat_interleave")  # fmt: skip
def depends_on_data(p: Pass, call: Call) -> list[Dims]:
    """The result's extent or meaning depends on data."""
    return hold_all(p, call, "is used as data")


@rule("_pack_padded_sequence")
def pack(p: Pass, call: Call) -> list[Dims]:
    """Steps (T, B, *) or (B, T, *) of sequences in a row, (N, *), and how many run at each step."""
    x = call["input"]
    for labels in (*x.dims[:2], *call["lengths"].dims):
        p.fix(labels, "is packed by its length")
    return [[fixed(call.shape[0]), *x.dims[2:]], [fixed(size) for size in call.out_shapes[1]]]


@rule("isin")
def isin(p: Pass, call: Call) -> list[Dims]:
    """Membership, position by position of the first operand."""
    tensors = call.tensors
    for other in tensors[1:]:
        for labels in other.dims:
            p.fix(labels, "is searched")
    return [broadcast(p, tensors[:1], call.shape, "none")]


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(p: Pass, call: Call) -> list[Dims]:
    """Transformed dimensions stay; the others are independent."""
    x = call["self"]
    over = {x.axis(dim) for dim in call["dim"]}
    for at in over:
        p.fix(x.dims[at], "is Fourier transformed")
    return [[fixed(size) if at in over else x.dims[at] for at, size in enumerate(call.shape)]]


@rule("view_as_complex")
def view_as_complex(p: Pass, call: Call) -> list[Dims]:
    """The last dimension holds real and imaginary parts."""
    x = call["self"]
    p.fix(x.dims[-1], "is a pair of real and imaginary parts")
    return [list(x.dims[:-1])]


@rule("view_as_real")
def view_as_real(p: Pass, call: Call) -> list[Dims]:
    """A last dimension of real and imaginary parts."""
    return [[*call["self"].dims, fixed(2)]]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(p: Pass, call: Call) -> list[Dims]:
    """Rows of weight (V, D) summed, averaged or maximised over bags: D rides along."""
    weight = call["weight"]
    p.fix(weight.dims[0], "is looked up by number")
    p.producer(weight.dims[1])
    p.kind("embedding", weight.dims[1])
    return [
        [fixed(call.shape[0]), weight.dims[1]],
        *([fixed(n) for n in shape] for shape in call.out_shapes[1:]),
    ]
