"""Build the subnet: the original class with smaller tensors, or the traced graph with smaller sizes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import torch
from torch.utils import _pytree as pytree

from conformance.errors import ConformanceError, ExtractionError
from conformance.graph.tape import Graph, tensors_in
from conformance.graph.trace import deterministic_forward, shadow
from conformance.partition.selection import Selection
from conformance.subnet.repair import assign, attempts, options, repair_known, size_changes
from conformance.subnet.state import check_state, slice_state
from conformance.subnet.tape_module import GraphSubnet

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
        for path, module in sliced.named_modules()
    }
    touched = {name.rpartition(".")[0] for name in slice_state(sliced, choice)}
    changes = size_changes(graph, choice)
    known = {path for path in touched if repair_known(sliced.get_submodule(path), before[path])}
    known -= {path for path in known if hasattr(sliced.get_submodule(path), "groups")}
    found = options(sliced, changes, known)
    seen: set[tuple[tuple[str, str, int | None, int], ...]] = set()
    for values in attempts(found):
        mark = tuple(sorted((o.module, o.attribute, -1 if o.place is None else o.place, n) for o, n in values.items()))
        if mark in seen:
            continue
        seen.add(mark)
        attempt = copy.deepcopy(sliced)
        assign(attempt, values)
        if _runs(attempt, graph):
            yield Candidate(attempt, SAME_CLASS)
    yield Candidate(GraphSubnet(dataclasses.replace(graph, model=model), choice), GRAPH)


def _runs(module: torch.nn.Module, graph: Graph) -> bool:
    """Whether the module runs on the traced inputs and gives outputs of the traced shapes.

    On the meta device this costs no arithmetic, and it weeds out most wrong repairs.
    """
    device = "meta" if graph.device == "meta" else None
    twin = shadow(module, device).eval()
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda leaf: leaf.to("meta") if device else leaf.clone(), (graph.args, graph.kwargs)
    )
    try:
        with deterministic_forward(), torch.random.fork_rng(devices=[]):
            outputs = tensors_in(twin(*args, **kwargs))
    except Exception:  # noqa: BLE001 - whatever it raises, this repair is not the one
        return False
    return [tuple(output.shape) for output in outputs] == [graph.values[index].shape for index in graph.outputs]


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
