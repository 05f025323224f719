"""Walk the tape and apply the rules."""

from __future__ import annotations

import numpy as np

from conformance.graph.tape import Graph, Node, refs, replace
from conformance.partition.labels import Labelled, Labels, Pass, fixed
from conformance.partition.rules import RULES, Call, base_name, hold_all
from conformance.partition.rules.registry import Dims


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
    tensors = call.tensors
    if not tensors and not any(call.out_shapes):
        dims: list[Dims] = [[] for _ in outputs]  # a number made of numbers: nothing to say
    else:
        dims = hold_all(p, call, "has no rule") if function is None else function(p, call)
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
        _written(p, graph, node, call, outputs, env)


_MARK_THEMSELVES = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "mv", "dot", "vdot", "linear", "convolution", "embedding")
)


def _written(p: Pass, graph: Graph, node: Node, call: Call, outputs: list[int], env: dict[int, Labelled]) -> None:
    """Memory was written to that is read later under other names: these see the new values too.

    All names of one memory have the same labels, by the rules of the views between them, so positions
    need no more than that the written tensor keeps its own. A slice is zero under another name only if
    it was before and what was written is.
    """
    target = _target(node, call)
    others = [index for index in node.stale if index in env]
    results = [env[index] for index in outputs]
    if (
        target is None
        or base_name(node.op) not in RULES
        or [result.shape for result in results] != [target.shape]
        or any(graph.values[index].kind != "result" for index in (target.index, *others))
    ):
        for tensor in [*call.tensors, *results, *(env[index] for index in others)]:
            for labels in tensor.dims:
                p.fix(labels, "is written through a view")
        return
    (result,) = results
    for before, after in zip(target.dims, result.dims, strict=True):
        p.join(before, after)
    lost: Labels = np.unique(np.concatenate([fixed(1), *(-labels[labels < 0] for labels in result.dims)]))
    for index in others:
        old = env[index]
        dims = old.dims if p.collecting else [_unless(labels, lost) for labels in old.dims]
        env[index] = Labelled(dims, old.shape, old.static and result.static, old.floating, index)


def _target(node: Node, call: Call) -> Labelled | None:
    """The one tensor an operation writes to; None when it writes to several, or to a list."""
    written = [a.name for a in node.op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    target = call.get(written[0]) if len(written) == 1 else None
    return target if isinstance(target, Labelled) else None


def _unless(labels: Labels, lost: Labels) -> Labels:
    """The labels with the slices of these groups no longer known to be zero."""
    gone = np.isin(labels, lost) & (labels > 0)
    return np.where(gone, -labels, labels) if gone.any() else labels
