"""Walk the tape and apply the rules."""

from __future__ import annotations

from conformance.graph.tape import Graph, Node, refs, replace
from conformance.partition.labels import Labelled, Labels, Pass, fixed
from conformance.partition.rules import RULES, Call, base_name, hold_all


def state_labels(p: Pass, graph: Graph) -> dict[int, list[Labels]]:
    """Fresh labels for every dimension of the floating parameters and buffers."""
    p.node = -1
    found = {}
    for index in dict.fromkeys(graph.names.values()):
        value = graph.values[index]
        if value.floating:
            found[index] = [p.fresh(size, (index, dim)) for dim, size in enumerate(value.shape)]
        else:
            found[index] = [fixed(size) for size in value.shape]
    return found


def propagate(p: Pass, graph: Graph, state: dict[int, list[Labels]]) -> dict[int, list[Labels]]:
    """The labels of every value on the tape, given those of parameters and buffers."""
    env: dict[int, Labelled] = {}
    for index, value in enumerate(graph.values):
        if value.kind != "result":
            dims = state.get(index) or [fixed(size) for size in value.shape]
            env[index] = Labelled(dims, value.shape, value.kind != "input", value.floating, index)
    for node in graph.nodes:
        p.node = node.index
        _apply(p, graph, node, env)
    p.node = len(graph.nodes)
    for index in graph.outputs:
        for labels in env[index].dims:
            p.fix(labels, "is an output of the model")
    return {index: tensor.dims for index, tensor in env.items()}


def _apply(p: Pass, graph: Graph, node: Node, env: dict[int, Labelled]) -> None:
    outputs = list(refs(node.outputs))
    call = Call(
        node,
        replace(node.args, lambda ref: env[ref.index]),
        replace(node.kwargs, lambda ref: env[ref.index]),
        tuple(graph.values[index].shape for index in outputs),
    )
    name = base_name(node.op)
    function = RULES.get(name)
    dims = hold_all(p, call, "has no rule") if function is None else function(p, call)
    tensors = call.tensors
    static = all(tensor.static for tensor in tensors)
    if not static and name not in _MARK_THEMSELVES:
        for tensor in tensors:
            if tensor.static and tensor.index not in call.unmarked:
                for labels in tensor.dims:
                    p.producer(labels)
    for place, index in enumerate(outputs):
        value = graph.values[index]
        made = dims[place] if place < len(dims) else [fixed(size) for size in value.shape]
        if tuple(labels.size for labels in made) != value.shape:
            raise AssertionError(f"the rule of {node.where} gave shapes that do not fit {value.shape}")
        env[index] = Labelled(made, value.shape, static, value.floating, index)
    if node.stale:
        _hold_stale(p, node, call, outputs, env)


_MARK_THEMSELVES = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "mv", "dot", "vdot", "linear", "convolution", "embedding")
)


def _hold_stale(p: Pass, node: Node, call: Call, outputs: list[int], env: dict[int, Labelled]) -> None:
    """Memory read later under another name was written here: no label can follow that."""
    touched = [*call.tensors, *(env[index] for index in outputs), *(env[i] for i in node.stale if i in env)]
    for tensor in touched:
        for labels in tensor.dims:
            p.fix(labels, "is written through a view")
