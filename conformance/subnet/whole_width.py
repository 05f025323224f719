"""Norms and averages over fewer positions that go on dividing by the original number of them.

A layer norm of D positions of which some are zero is no layer norm of the others: its mean and
variance are taken over D. These functions compute it from the others alone: zeros are appended
where the operation needs the original width, and cut off after it. So the kernels are torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from conformance.graph.tape import Graph, Node, Ref
from conformance.partition.rules import base_name
from conformance.partition.selection import Selection

aten = torch.ops.aten
Step = tuple[Any, tuple[Any, ...]]
"""What to call in place of an operation, and its arguments with Refs."""


def pad_end(x: torch.Tensor, dims: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """x with zeros appended to these dimensions, up to these sizes."""
    pads = [0] * (2 * x.ndim)
    for dim, size in zip(dims, sizes, strict=True):
        pads[2 * (x.ndim - 1 - dim % x.ndim) + 1] = size - x.shape[dim]
    return torch.constant_pad_nd(x, pads) if any(pads) else x


def _cut(x: torch.Tensor, dims: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    for dim in dims:
        x = x.narrow(dim, 0, like.shape[dim])
    return x


def layer_norm(
    x: torch.Tensor, sizes: list[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """native_layer_norm as over `sizes` positions, the missing ones zero. weight and bias have x's sizes."""
    dims = range(-len(sizes), 0)
    made, mean, scale = torch.native_layer_norm(pad_end(x, dims, sizes), sizes, None, None, eps)
    made = _cut(made, dims, x)
    return _affine(made, weight, bias), mean, scale


def rms_norm(
    x: torch.Tensor, sizes: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """rms_norm as over `sizes` positions."""
    dims = range(-len(sizes), 0)
    made: torch.Tensor = torch.rms_norm(pad_end(x, dims, sizes), sizes, None, eps)
    return _affine(_cut(made, dims, x), weight, None)


def fused_rms_norm(
    x: torch.Tensor, sizes: list[int], weight: torch.Tensor | None, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """_fused_rms_norm as over `sizes` positions."""
    dims = range(-len(sizes), 0)
    made, scale = aten._fused_rms_norm.default(pad_end(x, dims, sizes), sizes, None, eps)
    return _affine(_cut(made, dims, x), weight, None), scale


def group_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int, channels: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """native_group_norm of `groups` groups as over `channels` channels in each."""
    parts = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    whole = pad_end(parts, [2], [channels]).flatten(1, 2)
    space = math.prod(x.shape[2:])
    made, mean, scale = torch.native_group_norm(whole, None, None, x.shape[0], groups * channels, space, groups, eps)
    made = _cut(made.view(x.shape[0], groups, channels, *x.shape[2:]), [2], parts).reshape(x.shape)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    own = (None if tensor is None else tensor.view(shape) for tensor in (weight, bias))
    return _affine(made, *own), mean, scale


def mean(x: torch.Tensor, dims: list[int], keepdim: bool, dtype: torch.dtype | None, count: int) -> torch.Tensor:
    """The sum over dims divided by `count`, accumulated in float32 where x is shorter."""
    wanted = dtype or x.dtype
    wide = torch.float32 if wanted in (torch.float16, torch.bfloat16) else wanted
    return (torch.sum(x, dims, keepdim, dtype=wide) / count).to(wanted)


def moments(op: Any, x: torch.Tensor, dims: list[int], sizes: list[int], arguments: dict[str, Any]) -> Any:
    """var or var_mean (`op`) with the missing positions zero."""
    return op(pad_end(x, dims, sizes), dims, **arguments)


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    if weight is not None and bias is not None:
        return torch.addcmul(bias, x, weight)  # x is read once
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


# -- in place of the traced operations ---------------------------------------------------------------


def replaced(graph: Graph, choice: Selection, node: Node) -> Step | None:
    """What computes the node's result from the positions that stay; None when it counts none that left."""
    return _built(_STEPS, graph, choice, node)


def of_any_batch(graph: Graph, choice: Selection, node: Node) -> Step | None:
    """The same, for an operation with the batch size among its arguments, without that; None for others."""
    return _built(_BATCHED, graph, choice, node)


def _built(table: dict[str, Build], graph: Graph, choice: Selection, node: Node) -> Step | None:
    function = table.get(base_name(node.op))
    if function is None:
        return None
    names = [argument.name for argument in node.op._schema.arguments]
    bound = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return function(graph, choice, node, bound)


def _shrinks(graph: Graph, choice: Selection, x: Ref, dims: Sequence[int]) -> bool:
    old, new = graph.values[x.index].shape, choice.shape(x.index)
    return any(old[dim] != new[dim] for dim in dims)


Build = Callable[[Graph, Selection, Node, dict[str, Any]], Step | None]


def _over_last(function: Any) -> Build:
    def step(graph: Graph, choice: Selection, node: Node, bound: dict[str, Any]) -> Step | None:
        sizes = list(bound["normalized_shape"])
        if not _shrinks(graph, choice, bound["input"], range(-len(sizes), 0)):
            return None
        known = {argument.name: argument.default_value for argument in node.op._schema.arguments}
        given = [bound.get(name, known[name]) for name in ("weight", "bias", "eps") if name in known]
        return function, (bound["input"], sizes, *given)

    return step


def _in_groups(function: Any, *, always: bool = False) -> Build:
    def step(graph: Graph, choice: Selection, node: Node, bound: dict[str, Any]) -> Step | None:  # noqa: ARG001
        x: Ref = bound["input"]
        groups = int(bound["group"] if "group" in bound else bound["num_groups"])
        # Whole groups leave by themselves; what counts is whether those that stay lose channels.
        channels = graph.values[x.index].shape[1] // groups
        stays = np.zeros(groups * channels, dtype=bool)
        stays[choice.kept(x.index, 1)] = True
        groups_left = int(stays.reshape(groups, channels).any(1).sum())
        if groups_left * channels == int(stays.sum()) and not always:
            return None
        return function, (x, bound.get("weight"), bound.get("bias"), groups_left, channels, bound.get("eps", 1e-5))

    return step


def _reduced_dims(graph: Graph, x: Ref, dim: Any) -> list[int]:
    rank = len(graph.values[x.index].shape)
    if dim is None or dim == []:
        return list(range(rank))
    return [d % rank for d in (dim if isinstance(dim, (list, tuple)) else [dim])]


def _mean(graph: Graph, choice: Selection, node: Node, bound: dict[str, Any]) -> Step | None:  # noqa: ARG001
    x: Ref = bound["self"]
    dims = _reduced_dims(graph, x, bound.get("dim"))
    if not _shrinks(graph, choice, x, dims):
        return None
    shape = graph.values[x.index].shape
    count = 1
    for dim in dims:
        count *= shape[dim]
    return mean, (x, dims, bool(bound.get("keepdim", False)), bound.get("dtype"), count)


def _moments(graph: Graph, choice: Selection, node: Node, bound: dict[str, Any]) -> Step | None:
    x: Ref = bound["self"]
    dims = _reduced_dims(graph, x, bound.get("dim"))
    if not _shrinks(graph, choice, x, dims):
        return None
    sizes = [graph.values[x.index].shape[dim] for dim in dims]
    rest = {name: value for name, value in bound.items() if name not in ("self", "dim")}
    return moments, (node.op, x, dims, sizes, rest)


def _first(function: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., torch.Tensor]:
    """The composite form, which gives the result without the moments."""

    def first(*args: Any) -> torch.Tensor:
        return function(*args)[0]

    return first


_STEPS: dict[str, Build] = {
    "native_layer_norm": _over_last(layer_norm),
    "layer_norm": _over_last(_first(layer_norm)),
    "rms_norm": _over_last(rms_norm),
    "_fused_rms_norm": _over_last(fused_rms_norm),
    "native_group_norm": _in_groups(group_norm),
    "group_norm": _in_groups(_first(group_norm)),
    "mean": _mean,
    "var": _moments,
    "var_mean": _moments,
}

_BATCHED: dict[str, Build] = {"native_group_norm": _in_groups(group_norm, always=True)}
