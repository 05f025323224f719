"""Build the subnet: the original class with smaller tensors, or the traced graph with smaller sizes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from conformance.errors import ConformanceError, ExtractionError, TraceError
from conformance.graph.tape import Graph, Node, refs
from conformance.graph.trace import trace
from conformance.partition.rules import base_name
from conformance.partition.selection import Selection
from conformance.subnet.norm_module import counting, put_whole_widths
from conformance.subnet.repair import Option, assign, attempts, options, repair_known, size_changes
from conformance.subnet.resize import resized
from conformance.subnet.state import check_state, slice_state
from conformance.subnet.tape_module import _SPLITS, GraphSubnet

SAME_CLASS, GRAPH = "same class", "graph"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A possible subnet and what kind it is."""

    module: torch.nn.Module
    kind: str


def candidates(model: torch.nn.Module, choice: Selection) -> Iterator[Candidate]:
    """Subnets to try, best first: the original class with repaired attributes, then the graph.

    Same-class candidates are not known to compute the right thing: compare before use.
    """
    check_state(model, choice.groups)
    if not choice.removed:
        yield Candidate(copy.deepcopy(model), SAME_CLASS)
        return
    graph = choice.groups.graph
    sliced = copy.deepcopy(model)
    before = {
        path: {name: tuple(tensor.shape) for name, tensor in module.named_parameters(recurse=False)}
        for path, module in sliced.named_modules(remove_duplicate=False)
    }
    touched = {name.rpartition(".")[0] for name in slice_state(sliced, choice)}
    norms = counting(graph, choice)
    try:
        put_whole_widths(sliced, graph, choice, norms)
    except ExtractionError:  # counted in code that is more than a norm
        yield Candidate(GraphSubnet(dataclasses.replace(graph, model=model), choice), GRAPH)
        return
    changes = size_changes(graph, choice)
    known = {path for path in touched if repair_known(sliced.get_submodule(path), before[path])}
    known -= {path for path in known if hasattr(sliced.get_submodule(path), "groups")}
    found = options(sliced, changes, known)
    seen: list[dict[Option, int | None]] = []
    for values in attempts(found):
        if values in seen:
            continue
        seen.append(values)
        attempt = copy.deepcopy(sliced)
        assign(attempt, values)
        if plan_matches(attempt, graph, choice, frozenset(norms)):
            yield Candidate(attempt, SAME_CLASS)
    yield Candidate(GraphSubnet(dataclasses.replace(graph, model=model), choice), GRAPH)


LAYOUT = frozenset((
    "clone", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "alias", "detach", "t", "transpose",
    "permute", "unsqueeze", "squeeze", "contiguous", "slice", "select", "split", "split_with_sizes", "unbind", "chunk",
    "repeat", "copy", "empty", "_to_copy", "lift_fresh", "new_empty", "narrow", "arange", "constant_pad_nd",
))  # fmt: skip
"""Operations whose presence may depend on strides or sizes without changing what is computed."""


def plan_matches(module: torch.nn.Module, graph: Graph, choice: Selection, replaced: frozenset[str]) -> bool:
    """Whether the module runs the traced operations with the shapes and numbers the labels predict.

    On the meta device this costs no arithmetic, and it weeds out wrong repairs: a head count left
    alone shows as an attention of another shape, a changed scale as another number. Modules that were
    `replaced` run other operations by design. Where values decide about shapes or numbers the comparison ends: the
    sliced model has other values, and what it computes is for the oracles to say.
    """
    try:
        seen = trace(module, graph.args, graph.kwargs, device=graph.device)
    except TraceError:
        return False
    mine, theirs = (
        [node for node in tape.nodes if base_name(node.op) not in LAYOUT and node.module not in replaced]
        for tape in (seen, graph)
    )
    whole = len(mine), len(theirs)
    mine, theirs = (
        [node for node in nodes if node.index < tape.first_by_values] for tape, nodes in ((seen, mine), (graph, theirs))
    )
    if len(mine) != len(theirs):
        return False
    for one, other in zip(mine, theirs, strict=True):
        if one.op is not other.op:
            return False
        # The sizes of equal pieces are no numbers of the operation: the shapes below say them.
        if one.op._schema.name not in _SPLITS and _numbers(one) != _numbers(other, resized(graph, choice, other)):
            return False
        shapes = [seen.values[index].shape for index in refs(one.outputs)]
        if shapes != [choice.shape(index) for index in refs(other.outputs)]:
            return False
    if whole != (len(mine), len(theirs)):
        return True
    return [seen.values[i].shape for i in seen.outputs] == [graph.values[i].shape for i in graph.outputs]


def _numbers(node: Node, bound: dict[str, Any] | None = None) -> dict[str, Any]:
    """The arguments that are no tensors and not where to make them; `bound` are those of the subnet."""
    if bound is None:
        names = [argument.name for argument in node.op._schema.arguments]
        bound = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in bound.items()
        if name not in ("device", "pin_memory") and not any(True for _ in refs(value)) and value is not None
    }


def extract(model: torch.nn.Module, choice: Selection) -> torch.nn.Module:
    """A smaller module that computes what `zero(model, choice)` computes.

    The original class with sliced state and repaired attributes where that computes the same on the
    traced inputs; otherwise a `GraphSubnet` (`kind_of` tells). `model` is not changed.

    Raises SelectionError when the selection was made for other shapes, ExtractionError when no
    subnet runs.
    """
    from conformance.equivalence.compare import equivalent
    from conformance.subnet.zero import zero

    graph = choice.groups.graph
    on_meta = any(parameter.device.type == "meta" for parameter in model.parameters())
    full = None if on_meta else zero(model, choice)
    reasons = []
    for candidate in candidates(model, choice):
        if full is None or candidate.kind == GRAPH:
            return candidate.module
        try:
            verdict = equivalent(full, candidate.module, graph.args, graph.kwargs, oracle="field")
        except ConformanceError as error:
            reasons.append(str(error))
            continue
        if verdict.equal:
            return candidate.module
        reasons.append(verdict.reason)
    raise ExtractionError(f"no subnet could be built: {'; '.join(dict.fromkeys(reasons))}")


def kind_of(subnet: torch.nn.Module) -> str:
    """`same class` or `graph`."""
    return GRAPH if isinstance(subnet, GraphSubnet) else SAME_CLASS
