"""Which parameters are weights that may be masked one by one, and which of them make the output."""

from __future__ import annotations

from conformance.graph.tape import Graph, refs
from conformance.method.ladder import Limits, matching
from conformance.partition.rules import base_name
from conformance.subnet.extract import LAYOUT

_OPERANDS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "mv": (0, 1), "convolution": (0, 1)}
"""Where a contraction has its two operands."""


def maskable(graph: Graph, limits: Limits | None = None) -> tuple[str, ...]:
    """Names of the parameters that a matrix product or a convolution reads as they are, in the model's order.

    Biases, norms and embeddings that are only looked up are not among them, nor is a weight that is computed
    from its parameter (weight standardisation): a zero there is no zero in the product. Where both operands
    are parameters, the second is the weight. What `limits.ignore` names is left out; tied names count once.

    Raises UsageError for a pattern that matches nothing.
    """
    ignored = {graph.names[name] for pattern in (limits or Limits()).ignore for name in matching(graph, pattern)}
    read = set(_read(graph).values()) - ignored
    return tuple(graph.values[index].name for index in dict.fromkeys(graph.names.values()) if index in read)


def outermost(graph: Graph) -> tuple[str, ...]:
    """The maskable weights whose product reaches the output past no other one: the output layers."""
    read = _read(graph)
    wanted = set(graph.outputs)
    found = set()
    for node in reversed(graph.nodes):
        if wanted.isdisjoint((*refs(node.outputs), *node.stale)):
            continue
        if node.index in read:
            found.add(read[node.index])
        else:
            wanted.update(refs((node.args, node.kwargs)))
    return tuple(graph.values[index].name for index in dict.fromkeys(graph.names.values()) if index in found)


def _read(graph: Graph) -> dict[int, int]:
    """For each contraction that reads a parameter: node number to the parameter's value."""
    source = {
        index: index
        for index, value in enumerate(graph.values)
        if value.kind == "parameter" and value.floating and len(value.shape) > 1
    }
    found = {}
    for node in graph.nodes:
        name = base_name(node.op)
        if name in LAYOUT:
            given = set(refs((node.args, node.kwargs)))
            if len(given) == 1 and (index := given.pop()) in source:
                source.update(dict.fromkeys(refs(node.outputs), source[index]))
        elif name in _OPERANDS:
            operands = [node.args[place].index for place in _OPERANDS[name]]
            weights = [source[index] for index in operands if index in source]
            if weights:
                found[node.index] = weights[-1]
    return found
