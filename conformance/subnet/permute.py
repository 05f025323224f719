"""The same function with its channels in another order.

Groups of one axis that own the same number of positions everywhere can change places: in every tensor the
slices of one come where those of the other were. Whether the function stays is a matter of the model's code
(one that treats its first channel in its own way loses it), so who relies on it asks the field oracle.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch

from conformance.partition.groups import Groups, IntArray
from conformance.partition.labels import Labels
from conformance.subnet.state import check_state, tensor_at


def exchangeable(groups: Groups) -> list[IntArray]:
    """Sets of two or more groups of one axis that own the same number of positions in every dimension."""
    owned: list[list[tuple[int, int, int]]] = [[] for _ in range(groups.count + 1)]
    for index, lines in groups.state.items():
        for dim, labels in enumerate(lines):
            for group, number in zip(*np.unique(labels, return_counts=True), strict=True):
                owned[group].append((index, dim, int(number)))
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for group in range(1, groups.count + 1):
        alike[int(groups.axis_of[group]), tuple(owned[group])].append(group)
    return [np.array(members, dtype=np.int64) for members in alike.values() if len(members) > 1]


def reorder(groups: Groups, sets: Iterable[IntArray], seed: int = 0) -> IntArray:
    """A random order: entry g is the group whose slices come to g's place. Only groups within a set change.

    No set keeps its order. The result depends on the arguments only; entry 0 is 0.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(groups.count + 1)
    for members in sets:
        drawn = rng.permutation(members)
        order[members] = np.roll(members, 1) if (drawn == members).all() else drawn
    return order


def sources(labels: Labels, order: IntArray) -> IntArray:
    """For each position of a dimension the position its slice comes from: same place within its group."""
    by = np.argsort(labels, kind="stable")
    start = np.searchsorted(labels[by], np.arange(order.size))
    found = np.empty(labels.size, dtype=np.int64)
    found[by] = by[start[order[labels[by]]] + np.arange(labels.size) - start[labels[by]]]
    return found


def permute(tensor: torch.Tensor, lines: Iterable[Labels], order: IntArray) -> torch.Tensor:
    """A copy of a parameter, buffer or mask, its slices in the new order. lines: its groups a dimension."""
    tensor = tensor.clone()
    for dim, labels in enumerate(lines):
        if labels.any():
            tensor = tensor.index_select(dim, torch.from_numpy(sources(labels, order)).to(tensor.device))
    return tensor


def permuted(model: torch.nn.Module, groups: Groups, order: IntArray) -> torch.nn.Module:
    """A copy of the model with its groups in another order, as `reorder` makes them.

    Raises SelectionError when the model's state does not have the shapes the partition was made for.
    """
    check_state(model, groups)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for index, lines in groups.state.items():
            tensor = tensor_at(twin, groups.graph.values[index].name)
            tensor.copy_(permute(tensor, lines, order))
    return twin
