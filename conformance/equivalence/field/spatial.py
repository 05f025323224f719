"""Exact rules for pooling, resampling and patches."""

from __future__ import annotations

from typing import Any

import torch

from conformance.equivalence.field.table import Exact, exact


@exact("avg_pool2d", "avg_pool3d")
def avg_pool(e: Exact) -> torch.Tensor:
    """Sum over the window times the inverse of what the operation divides by."""
    x = e.residue("self")
    names = [argument.name for argument in e.op._schema.arguments][1:]
    given = [e.get(name) for name in names]
    ones = torch.ones((1, 1, *x.shape[-len(e.get("kernel_size")) :]), dtype=torch.float64, device=x.device)
    summed = e.op(x, *[1 if name == "divisor_override" else value for name, value in zip(names, given, strict=True)])
    count = e.op(ones, *[1 if name == "divisor_override" else value for name, value in zip(names, given, strict=True)])
    divisor = torch.round(count / e.op(ones, *given))
    return e.product(e.reduce(summed), e.field.inverses(divisor))


def _windows(size: int, out: int) -> torch.Tensor:
    """Extent of each adaptive pooling window along one dimension."""
    start = torch.arange(out) * size // out
    end = -((-(torch.arange(out) + 1) * size) // out)
    return (end - start).double()


@exact("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d",
       "adaptive_avg_pool1d")  # fmt: skip
def adaptive_avg_pool(e: Exact) -> torch.Tensor:
    """The float average times the window's size is a whole number: the exact sum."""
    x = e.residue("self")
    average = e.op(x, e.get("output_size"))
    spatial = len(e.get("output_size"))
    count = torch.ones((), dtype=torch.float64)
    for at in range(spatial):
        own = _windows(x.shape[x.ndim - spatial + at], average.shape[average.ndim - spatial + at])
        count = count * own.view(-1, *[1] * (spatial - 1 - at))
    count = count.to(x.device)
    return e.product(e.reduce(torch.round(average * count)), e.field.inverses(count))


@exact("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
       "upsample_linear1d", "upsample_trilinear3d")  # fmt: skip
def resample(e: Exact) -> torch.Tensor:
    """Separable: along each axis the operation's own coefficients, as fixed floats."""
    x = e.residue("self")
    size = list(e.get("output_size"))
    spatial = len(size)
    arguments = [argument.name for argument in e.op._schema.arguments][2:]
    for at in range(spatial):
        dim = x.ndim - spatial + at
        old = x.shape[dim]
        # Two wide along the other axes: torch's antialiasing kernel is wrong for a width of one.
        shape, out = [2] * spatial, [2] * spatial
        shape[at], out[at] = 1, size[at]
        basis = torch.eye(old, dtype=torch.float64, device=x.device)
        basis = basis.view(1, old, *[old if axis == at else 1 for axis in range(spatial)])
        basis = basis.repeat(1, 1, *shape)
        given = [
            e.get(name) if not name.startswith("scales") or _axis(name, spatial) == at else None for name in arguments
        ]
        made = e.op(basis, out, *given)[0].movedim(1 + at, 1)
        matrix = e.field.embed(made.reshape(old, size[at], -1)[..., 0])
        x = e.reduce(torch.tensordot(x, matrix, dims=([dim], [0])).movedim(-1, dim))
    return x


def _axis(name: str, spatial: int) -> int:
    """scales_d, scales_h, scales_w (or scales) -> which spatial axis."""
    return {"d": spatial - 3, "h": spatial - 2}.get(name.rpartition("_")[2], spatial - 1)


@exact("col2im")
def col2im(e: Exact) -> torch.Tensor:
    """Sums of patches."""
    names = [argument.name for argument in e.op._schema.arguments][1:]
    return e.reduce(e.op(e.residue("self"), *[e.get(name) for name in names]))


@exact("scatter_add", "index_add")
def scatter_add(e: Exact) -> torch.Tensor:
    """Sums into places given by number."""
    source = e.residue("src" if e.name == "scatter_add" else "source")
    if e.get("alpha", 1) != 1:
        source = e.product(source, e.field.number(e.get("alpha")))
    function: Any = torch.scatter_add if e.name == "scatter_add" else torch.index_add
    return e.reduce(function(e.residue("self"), e.get("dim"), e.get("index"), source))


@exact("index_put", "_index_put_impl")
def index_put(e: Exact) -> torch.Tensor:
    """Values written, or with `accumulate` summed, into places given by numbers or masks."""
    accumulate = bool(e.get("accumulate"))
    run: Any = torch.ops.aten.index_put.default  # takes None for a whole dimension
    made: torch.Tensor = run(e.residue("self"), e.get("indices"), e.residue("values"), accumulate)
    return e.reduce(made) if accumulate else made


@exact("grid_sampler_2d")
def grid_sampler(e: Exact) -> torch.Tensor:
    """Linear in the sampled map, with places and weights that are fixed functions of the grid.

    Four places are drawn from each grid point's residues, and four weights; what the float
    operation does (places from coordinates, weights from their fractions) is one such function.
    """
    x, grid = e.residue("input"), e.residue("grid")
    batch, channels, height, width = x.shape
    flat = x.reshape(batch, channels, height * width)
    mixed = e.reduce(grid[..., 0] * e.field.number(3) + grid[..., 1] * e.field.number(7), 2.0**24)
    how = f"{e.get('interpolation_mode')},{e.get('padding_mode')},{e.get('align_corners')}"
    total: Any = 0
    for corner in range(4):
        place = e.random(f"grid place {corner}:{how}", mixed)
        index = torch.remainder(place.long(), height * width).reshape(batch, 1, -1)
        weight = e.random(f"grid weight {corner}:{how}", mixed).reshape(batch, 1, -1)
        total = total + e.product(flat.gather(2, index.expand(-1, channels, -1)), weight)
    return e.reduce(total, 2.0**24).reshape(batch, channels, *grid.shape[1:3])
