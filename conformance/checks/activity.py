"""Which groups never carry a signal on the example inputs: float oracles say nothing about them.

(The field oracle does: its random functions let every channel through.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from conformance.graph.tape import Graph, refs
from conformance.graph.trace import decomposed
from conformance.partition.groups import Groups
from conformance.partition.rules import base_name
from conformance.subnet.tape_module import GraphSubnet

_READERS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm"}


def silent_groups(groups: Groups) -> npt.NDArray[np.int64]:
    """Groups whose slices are zero at every contraction that reads them, on the traced inputs."""
    graph = groups.graph
    whole = GraphSubnet(graph, groups.select([]))
    live = np.zeros(groups.count + 1, dtype=bool)
    read = np.zeros(groups.count + 1, dtype=bool)
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.clone(), (graph.args, graph.kwargs))
    env: dict[int, torch.Tensor] = {}
    static = _static(graph)
    with decomposed(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step, _ in whole.replay(env, *args, **kwargs):
            node = graph.nodes[step]
            if base_name(node.op) not in _READERS:
                continue
            for index in refs((node.args, node.kwargs)):
                if index not in static:
                    _look(groups, index, env[index], live, read)
    return np.flatnonzero(read & ~live)


def _static(graph: Graph) -> set[int]:
    """Values that do not depend on the inputs: weights, also transposed or cut ones."""
    moving = set(graph.inputs)
    for node in graph.nodes:
        if any(index in moving for index in refs((node.args, node.kwargs))):
            moving.update(refs(node.outputs))
    return set(range(len(graph.values))) - moving


def _look(
    groups: Groups, index: int, tensor: torch.Tensor, live: npt.NDArray[np.bool_], read: npt.NDArray[np.bool_]
) -> None:
    for dim, labels in enumerate(groups.dims[index]):
        if labels.any():
            others = [at for at in range(tensor.ndim) if at != dim]
            loud = (tensor != 0).any(dim=others) if others else tensor != 0
            read[labels] = True
            live[labels[loud.cpu().numpy()]] = True
    live[0] = read[0] = False


def describe_silent(groups: Groups, silent: npt.NDArray[np.int64]) -> list[str]:
    """One line for each axis with silent groups: where, how many of how many."""
    lines = []
    axis = groups.axis_of
    for number in np.unique(axis[silent]):
        inside = np.flatnonzero(axis == number)
        count = int(np.isin(silent, inside).sum())
        lines.append(f"{axis_name(groups, inside)}: {count} of {inside.size} never fire")
    return lines


def axis_name(groups: Groups, members: npt.NDArray[np.int64]) -> str:
    """The first parameter dimension that produces these groups, as NAME:DIM."""
    chosen = np.zeros(groups.count + 1, dtype=bool)
    chosen[members] = True
    fallback = ""
    for name, index in groups.graph.names.items():
        for dim, labels in enumerate(groups.dims[index]):
            if labels.any() and chosen[labels].any():
                if (index, dim) in groups.producer_dims:
                    return f"{name}:{dim}"
                fallback = fallback or f"{name}:{dim}"
    return fallback
