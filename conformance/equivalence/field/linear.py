"""Exact rules for sums of products: everything BLAS does."""

from __future__ import annotations

from typing import Any

import torch

from conformance.equivalence.field.modulus import MAX_TERMS
from conformance.equivalence.field.table import Exact, exact
from conformance.errors import UnsupportedOperation


def matmul(e: Exact, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b of residues of any length, batched as torch.matmul does it."""
    terms = a.shape[-1]
    bound = terms * 2.0**36
    if terms <= MAX_TERMS:
        return e.reduce(torch.matmul(a, b), bound)
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for start in range(0, terms, MAX_TERMS):
        piece = slice(start, start + MAX_TERMS)
        total = total + e.reduce(torch.matmul(a[..., piece], b[..., piece, :] if b.ndim > 1 else b[piece]))
    return e.reduce(total, 2.0**40)


def _scaled(e: Exact, x: Any, name: str) -> Any:
    factor = e.get(name, 1)
    return x if factor == 1 else e.product(x, e.field.number(factor))


@exact("mm", "bmm", "mv", "dot", "vdot")
def product(e: Exact) -> torch.Tensor:
    """Matrix products."""
    names = [argument.name for argument in e.op._schema.arguments[:2]]
    return matmul(e, e.residue(names[0]), e.residue(names[1]))


@exact("addmm", "baddbmm", "addmv")
def added_product(e: Exact) -> torch.Tensor:
    """beta * self + alpha * (a @ b)."""
    names = [argument.name for argument in e.op._schema.arguments[:3]]
    made = _scaled(e, matmul(e, e.residue(names[1]), e.residue(names[2])), "alpha")
    if e.get("beta", 1) == 0:
        return made
    return e.reduce(made + _scaled(e, e.residue(names[0]), "beta"), 2.0**20)


@exact("linear")
def linear(e: Exact) -> torch.Tensor:
    """x @ weight.T + bias."""
    made = matmul(e, e.residue("input"), e.residue("weight").transpose(-1, -2))
    bias = e.residue("bias")
    return made if bias is None else e.reduce(made + bias, 2.0**20)


@exact("convolution", "_convolution")
def convolution(e: Exact) -> torch.Tensor:
    """All convolutions: integers in float64, summed exactly by any algorithm that only adds products."""
    x, weight = e.residue("input"), e.residue("weight")
    bias = e.fitting("bias", weight.shape[1] * e.get("groups") if e.get("transposed") else weight.shape[0])
    terms = (weight.shape[0] if e.get("transposed") else weight.shape[1]) * weight[0, 0].numel()
    if terms > MAX_TERMS:
        return _long_convolution(e, x, weight, bias)
    made = _convolve(e, x, weight)
    made = e.reduce(made, terms * 2.0**36)
    if bias is not None:
        made = e.reduce(made.add_(bias.view(-1, *[1] * (made.ndim - 2))), 2.0**20)
    return made


def _convolve(e: Exact, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = torch.ops.aten.convolution.default(
        x, weight, None, e.get("stride"), e.get("padding"), e.get("dilation"), e.get("transposed"),
        e.get("output_padding"), e.get("groups"),
    )  # fmt: skip
    return made


def _long_convolution(e: Exact, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """More terms than fit: sum over input channels in pieces (ungrouped only)."""
    if e.get("groups") != 1:
        raise UnsupportedOperation("aten.convolution", f"a grouped sum of more than {MAX_TERMS} products")
    per_channel = weight[0, 0].numel()
    step = max(MAX_TERMS // per_channel, 1)
    dim = 0 if e.get("transposed") else 1
    total: Any = 0
    for start in range(0, weight.shape[dim], step):
        piece = weight.narrow(dim, start, min(step, weight.shape[dim] - start))
        total = total + e.reduce(_convolve(e, x[:, start : start + step], piece))
    if bias is not None:
        total = total + bias.view(-1, *[1] * (total.ndim - 2))
    return e.reduce(total, 2.0**40)


@exact("sum", "nansum")
def total(e: Exact) -> torch.Tensor:
    """Sums of fewer than 2**30 residues are exact."""
    dim = e.get("dim")
    x = e.residue("self")
    return e.reduce(torch.sum(x) if dim is None else torch.sum(x, dim, keepdim=bool(e.get("keepdim"))))


def mean_over(e: Exact, x: torch.Tensor, dims: list[int], keepdim: bool) -> torch.Tensor:
    """Sum times the inverse of the count."""
    dims = dims or list(range(x.ndim))
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    return e.product(e.reduce(torch.sum(x, dims, keepdim=keepdim)), e.field.inverse(count))


@exact("mean")
def mean(e: Exact) -> torch.Tensor:
    """Sum times the inverse of the count."""
    dim = e.get("dim")
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    return mean_over(e, e.residue("self"), dims, bool(e.get("keepdim")))


@exact("cumsum")
def cumsum(e: Exact) -> torch.Tensor:
    """Running sums."""
    return e.reduce(torch.cumsum(e.residue("self"), e.get("dim")))


def variance_over(
    e: Exact, x: torch.Tensor, dims: list[int], correction: float, keepdim: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(variance, mean), the variance with `correction` taken off the count."""
    dims = dims or list(range(x.ndim))
    centre = mean_over(e, x, dims, True)
    away = e.reduce(x - centre, 2.0**20)
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    squares = e.reduce(torch.sum(e.product(away, away), dims, keepdim=keepdim))
    if correction != int(correction):
        raise UnsupportedOperation(f"aten.{e.name}", f"a correction of {correction}")
    spread = e.product(squares, e.field.inverse(count - int(correction)))
    return spread, centre if keepdim else mean_over(e, x, dims, False)


@exact("var", "std", "var_mean", "std_mean")
def variance(e: Exact) -> Any:
    """Exact moments; the root of std is a random function."""
    x = e.residue("self")
    dim = e.get("dim")
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    correction = e.get("correction")
    if correction is None:
        correction = 1 if e.get("unbiased", True) else 0
    spread, centre = variance_over(e, x, dims, float(correction), bool(e.get("keepdim")))
    if e.name.startswith("std"):
        spread = e.random("sqrt", spread, torch.sqrt)
    return (spread, centre) if e.name.endswith("mean") else spread


@exact("linalg_vector_norm", "norm")
def vector_norm(e: Exact) -> torch.Tensor:
    """Norms of order 1 and 2 as sums under a random root."""
    x = e.residue("self")
    order = e.get("ord", e.get("p", 2))
    order = 2 if order is None else order
    dim = e.get("dim")
    dims = list(range(x.ndim)) if dim in (None, []) else [dim] if isinstance(dim, int) else list(dim)
    if order not in (1, 2):
        raise UnsupportedOperation("aten.linalg_vector_norm", f"no exact rule for order {order}")
    terms = e.product(x, x) if order == 2 else e.random("abs", x, torch.abs)
    made = e.reduce(torch.sum(terms, dims, keepdim=bool(e.get("keepdim"))))
    return e.random("sqrt", made, torch.sqrt) if order == 2 else made


@exact("_grouped_mm")
def grouped_product(e: Exact) -> torch.Tensor:
    """Rows up to each offset times their expert's matrix."""
    a, b, ends = e.residue("self"), e.residue("mat2"), e.get("offs")
    if a.ndim != 2 or b.ndim != 3 or ends is None or e.get("bias") is not None:
        raise UnsupportedOperation("aten._grouped_mm", "an unknown form")
    made = a.new_zeros(a.shape[0], b.shape[2])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        made[start:end] = matmul(e, a[start:end], b[expert])
        start = end
    return made


@exact("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(e: Exact) -> Any:
    """Sums (mode 0) or averages (mode 1) of rows."""
    weight, indices, offsets = e.residue("weight"), e.get("indices"), e.get("offsets")
    if e.get("mode") not in (0, 1) or e.get("per_sample_weights") is not None:
        raise UnsupportedOperation("aten._embedding_bag", "no exact rule for this mode")
    ends = [*offsets.tolist()[1:], indices.numel()]
    if e.get("include_last_offset"):
        ends = ends[:-1]
    rows = []
    for start, end in zip(offsets.tolist(), ends, strict=False):
        bag = indices[start:end]
        bag = bag[bag != e.get("padding_idx", -1)]
        total = e.reduce(weight[bag].sum(0))
        count = max(bag.numel(), 1)
        rows.append(total if e.get("mode") == 0 else e.product(total, e.field.inverse(count)))
    empty = indices.new_zeros(0)
    return torch.stack(rows), empty, empty, empty


@exact("_euclidean_dist", "_cdist_forward")
def distance(e: Exact) -> torch.Tensor:
    """Euclidean distances of all pairs of rows: the root of an exact sum of squares."""
    if e.get("p", 2) != 2:
        raise UnsupportedOperation(e.name, f"a distance of order {e.get('p')}")
    a, b = e.residue("x1"), e.residue("x2")
    squares = [e.reduce(e.product(rows, rows).sum(-1), rows.shape[-1] * 2.0**18) for rows in (a, b)]
    crossed = matmul(e, a, b.transpose(-1, -2))
    total = squares[0].unsqueeze(-1) + squares[1].unsqueeze(-2) - 2 * crossed
    return e.random("sqrt", e.reduce(total, 2.0**22), torch.sqrt)
