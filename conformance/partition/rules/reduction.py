"""Operations that collapse a dimension, or look at all of it at once."""

from __future__ import annotations

from typing import Any

from conformance.partition.labels import Labelled, Pass, fixed, nonzero
from conformance.partition.rules.elementwise import broadcast
from conformance.partition.rules.registry import Call, Dims, rule


def _reduced(x: Labelled, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.ndim))
    return [x.axis(d) for d in (dim if isinstance(dim, (list, tuple)) else [dim])]


def _collapse(x: Labelled, reduced: list[int], shape: tuple[int, ...]) -> Dims:
    if len(shape) == x.ndim:
        return [fixed(1) if at in reduced else labels for at, labels in enumerate(x.dims)]
    return [labels for at, labels in enumerate(x.dims) if at not in reduced]


@rule("sum", "nansum", "linalg_vector_norm", "norm")
def total(p: Pass, call: Call) -> list[Dims]:
    """A sum: a zero slice adds nothing, so it may go."""
    x = call["self"]
    reduced = _reduced(x, call.get("dim"))
    order = call.get("ord", call.get("p", 2))
    for at in reduced:
        if "norm" in call.node.name and not (isinstance(order, (int, float)) and 0 < order < float("inf")):
            p.fix(x.dims[at], "is reduced by a norm that is not a sum")
        elif "norm" in call.node.name or x.floating:
            p.require_zero(x.dims[at], "is not zero where it is summed")
        else:
            p.fix(x.dims[at], "is counted")
    return [_collapse(x, reduced, call.shape)]


@rule("mean", "var", "var_mean")
def average(p: Pass, call: Call) -> list[Dims]:
    """Zero positions may go: the subnet goes on dividing by the original number of positions."""
    x = call.tensors[0]
    reduced = _reduced(x, call.get("dim"))
    for at in reduced:
        p.require_zero(x.dims[at], "is not zero where it is averaged")
    return [_collapse(x, reduced, shape) for shape in call.out_shapes]


@rule("std", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all",
      "prod", "logsumexp", "median", "nanmedian", "mode", "aminmax", "topk", "kthvalue")  # fmt: skip
def looks_at_all(p: Pass, call: Call) -> list[Dims]:
    """The result depends on how many positions there are, or on their order."""
    tensors = call.tensors
    x = tensors[0]
    name = call.node.op._schema.name.split("::")[1]
    if name in {"max", "min"} and len(tensors) == 2:
        return [broadcast(p, tensors, call.shape, "all")]
    whole = "dim" not in {argument.name for argument in call.node.op._schema.arguments}
    reduced = list(range(x.ndim)) if whole else _reduced(x, call.get("dim"))
    for at in reduced:
        p.fix(x.dims[at], f"is reduced by {name}")
    keeps = name in {"amax", "amin", "max", "min", "median", "prod", "std", "topk"}
    results = []
    for place, shape in enumerate(call.out_shapes):
        dims = _collapse(x, reduced, shape)
        if name == "topk":
            dims = [fixed(size) if at in reduced else x.dims[at] for at, size in enumerate(shape)]
        # A second result says where the values were found.
        results.append(dims if keeps and place == 0 else [nonzero(labels) for labels in dims])
    return results


@rule("softmax", "_softmax", "_log_softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod", "sort", "argsort",
      "logcumsumexp", "cummax", "cummin")  # fmt: skip
def along(p: Pass, call: Call) -> list[Dims]:
    """Every position depends on all positions along dim."""
    x = call.tensors[0]
    dim = x.axis(call.get("dim", -1))
    name = call.node.op._schema.name.split("::")[1].lstrip("_")
    p.fix(x.dims[dim], f"is the domain of a {name}")
    other = [nonzero(labels) for labels in x.dims]
    first = list(x.dims) if name in {"cumsum", "cumprod", "sort"} else other
    return [first, *(other for _ in call.out_shapes[1:])]


def _pool_dims(p: Pass, call: Call) -> Dims:
    """Channels and batch ride along; whatever changed extent, or was pooled over, is fixed."""
    x = call.tensors[0]
    spatial = _SPATIAL[call.node.op._schema.name.split("::")[1]]
    for labels in x.dims[x.ndim - spatial :]:
        p.fix(labels, "is pooled or resampled")
    lead = x.ndim - spatial
    return [*x.dims[:lead], *(fixed(size) for size in call.shape[lead:])]


_SPATIAL = {
    **dict.fromkeys(("avg_pool1d", "adaptive_avg_pool1d", "max_pool1d", "upsample_nearest1d", "upsample_linear1d",
                     "_upsample_nearest_exact1d", "reflection_pad1d", "replication_pad1d",
                     "adaptive_max_pool1d"), 1),
    **dict.fromkeys(("avg_pool2d", "max_pool2d_with_indices", "max_pool2d", "adaptive_avg_pool2d",
                     "_adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
                     "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
                     "_upsample_nearest_exact2d", "reflection_pad2d", "replication_pad2d"), 2),
    **dict.fromkeys(("avg_pool3d", "max_pool3d_with_indices", "max_pool3d", "adaptive_avg_pool3d",
                     "_adaptive_avg_pool3d", "adaptive_max_pool3d", "upsample_nearest3d", "upsample_trilinear3d",
                     "_upsample_nearest_exact3d", "reflection_pad3d", "replication_pad3d"), 3),
}  # fmt: skip


@rule(*_SPATIAL)
def pool(p: Pass, call: Call) -> list[Dims]:
    """Pooling, padding by reflection and resampling: a zero channel stays zero; places are not numbers."""
    dims = _pool_dims(p, call)
    return [dims, *([nonzero(labels) for labels in dims] for _ in call.out_shapes[1:])]


@rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler")
def grid_sampler(p: Pass, call: Call) -> list[Dims]:
    """(N, C, *space) sampled at (N, *out, k): channels ride along."""
    x, grid = call["input"], call["grid"]
    for labels in (*x.dims[2:], *grid.dims[1:]):
        p.fix(labels, "is sampled at computed places")
    p.join(x.dims[0], grid.dims[0])
    return [[x.dims[0], x.dims[1], *(fixed(size) for size in call.shape[2:])]]
