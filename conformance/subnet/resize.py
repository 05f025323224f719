"""Rewrite the sizes an operation carries as plain numbers, for the smaller graph.

The labels of the results say what every size becomes. An operation whose numbers do not depend on
sizes needs nothing here; add one by registering a function for its schema arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.graph.tape import Graph, Node, Ref, refs
from conformance.partition.rules import base_name
from conformance.partition.selection import Selection

Resize = Callable[["Sizes", dict[str, Any]], None]
RESIZES: dict[str, Resize] = {}


class Sizes:
    """What a resize function may ask: sizes of operands and results in the subnet."""

    def __init__(self, graph: Graph, choice: Selection, node: Node) -> None:
        self.graph = graph
        self.choice = choice
        self.node = node

    def result(self, place: int = 0) -> list[int]:
        """The new shape of a result."""
        return list(self.choice.shape(list(refs(self.node.outputs))[place]))

    def operand(self, ref: Ref) -> list[int]:
        """The new shape of an operand."""
        return list(self.choice.shape(ref.index))

    def before(self, ref: Ref) -> tuple[int, ...]:
        """The old shape of an operand."""
        return self.graph.values[ref.index].shape

    def kept_before(self, ref: Ref, dim: int, position: int) -> int:
        """How many positions in front of `position` stay."""
        labels = self.choice.groups.dims[ref.index][dim]
        return int(position - self.choice.gone[labels[:position]].sum())


def resizes(*names: str) -> Callable[[Resize], Resize]:
    """Register how these operations' numbers follow the sizes."""

    def register(function: Resize) -> Resize:
        for name in names:
            RESIZES[name] = function
        return function

    return register


def resized(graph: Graph, choice: Selection, node: Node) -> dict[str, Any] | None:
    """The node's arguments by schema name with new numbers, or None when nothing depends on sizes."""
    function = RESIZES.get(base_name(node.op))
    if function is None or not _changes(choice, node):
        return None
    bound = dict(node.kwargs)
    for argument, given in zip(node.op._schema.arguments, node.args, strict=False):
        bound[argument.name] = given
    function(Sizes(graph, choice, node), bound)
    return bound


def _changes(choice: Selection, node: Node) -> bool:
    for index in refs((node.args, node.kwargs, node.outputs)):
        if choice.shape(index) != choice.groups.graph.values[index].shape:
            return True
    return False


@resizes("reshape", "expand", "expand_copy", "broadcast_to", "new_zeros", "new_ones", "new_full", "new_empty", "zeros",
         "ones", "full", "empty")  # fmt: skip
def _shape_argument(sizes: Sizes, bound: dict[str, Any]) -> None:
    for name in ("size", "shape"):
        if name in bound:
            bound[name] = sizes.result()


@resizes("unflatten")
def _unflatten(sizes: Sizes, bound: dict[str, Any]) -> None:
    dim = bound["dim"] % len(sizes.before(bound["self"]))
    bound["sizes"] = sizes.result()[dim : dim + len(bound["sizes"])]


@resizes("empty_strided", "new_empty_strided")
def _strided(sizes: Sizes, bound: dict[str, Any]) -> None:
    shape = sizes.result()
    order = np.argsort([-stride for stride in bound["stride"]], kind="stable")
    strides, step = [0] * len(shape), 1
    for at in reversed(order):
        strides[at] = step
        step *= shape[at]
    bound["size"], bound["stride"] = shape, strides


@resizes("slice")
def _slice(sizes: Sizes, bound: dict[str, Any]) -> None:
    x: Ref = bound["self"]
    old = sizes.before(x)
    dim = bound.get("dim", 0) % len(old)
    start, end, step = slice(bound.get("start"), bound.get("end"), bound.get("step", 1)).indices(old[dim])
    if step == 1:
        bound["start"] = sizes.kept_before(x, dim, start)
        bound["end"] = sizes.kept_before(x, dim, max(start, end))


@resizes("narrow")
def _narrow(sizes: Sizes, bound: dict[str, Any]) -> None:
    x: Ref = bound["self"]
    dim = bound["dim"] % len(sizes.before(x))
    first = sizes.kept_before(x, dim, bound["start"])
    bound["length"] = sizes.kept_before(x, dim, bound["start"] + bound["length"]) - first
    bound["start"] = first


@resizes("split_with_sizes", "unsafe_split_with_sizes", "split_with_sizes_copy")
def _split_sizes(sizes: Sizes, bound: dict[str, Any]) -> None:
    dim = bound.get("dim", 0)
    count = len(bound["split_sizes"])
    bound["split_sizes"] = [sizes.result(place)[dim] for place in range(count)]


@resizes("convolution")
def _convolution(sizes: Sizes, bound: dict[str, Any]) -> None:
    if bound["groups"] == 1:
        return
    weight, x = bound["weight"], bound["input"]
    per_group = sizes.operand(weight)[1]
    if bound["transposed"]:
        bound["groups"] = sizes.result()[1] // per_group
    else:
        bound["groups"] = sizes.operand(x)[1] // per_group


@resizes("native_group_norm", "group_norm")
def _group_norm(sizes: Sizes, bound: dict[str, Any]) -> None:
    old, new = sizes.before(bound["input"])[1], sizes.operand(bound["input"])[1]
    if "num_groups" in bound:
        bound["num_groups"] = bound["num_groups"] * new // old
        return
    bound["group"] = bound["group"] * new // old
    bound["N"], bound["C"] = sizes.operand(bound["input"])[:2]


@resizes("constant_pad_nd", "pad")
def _pad(sizes: Sizes, bound: dict[str, Any]) -> None:
    x: Ref = bound["self"]
    pads = list(bound["pad"])
    out = next(iter(refs(sizes.node.outputs)))
    rank = len(sizes.before(x))
    for number in range(len(pads) // 2):
        dim, before = rank - 1 - number, pads[2 * number]
        if before >= 0 and pads[2 * number + 1] >= 0:
            left = sizes.kept_before(Ref(out), dim, before)
            pads[2 * number] = left
            pads[2 * number + 1] = sizes.result()[dim] - left - sizes.operand(x)[dim]
    bound["pad"] = pads
