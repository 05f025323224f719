"""FLOPs and parameters, predicted from the labels of a partition and measured on a module.

A multiply-add counts as two FLOPs, as in torch.utils.flop_counter. Only matrix products and
convolutions count; operations flop_counter does not know count nothing in either figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from conformance.graph.tape import Graph, Node, Ref, refs
from conformance.graph.trace import decomposed, shadow
from conformance.partition.groups import Groups
from conformance.partition.labels import Labels
from conformance.partition.rules import base_name
from conformance.partition.selection import Selection


@dataclass(frozen=True)
class Work:
    """One contraction: its FLOPs are twice the product of the sizes of `dims`."""

    node: int
    dims: tuple[Labels, ...]

    def flops(self, gone: npt.NDArray[np.bool_] | None = None) -> int:
        """FLOPs, with the positions of removed groups left out."""
        total = 2
        for labels in self.dims:
            total *= labels.size if gone is None else labels.size - int(gone[labels].sum())
        return total


def work(groups: Groups) -> list[Work]:
    """Every contraction of the traced pass."""
    found = []
    for node in groups.graph.nodes:
        made = _work_of(groups, node)
        if made is not None:
            found.append(made)
    return found


def _work_of(groups: Groups, node: Node) -> Work | None:
    name = base_name(node.op)
    if name in {"mm", "bmm"}:
        a, b = _dims(groups, node.args[0]), _dims(groups, node.args[1])
        return Work(node.index, (*a, b[-1]))
    if name in {"addmm", "baddbmm"}:
        a, b = _dims(groups, node.args[1]), _dims(groups, node.args[2])
        return Work(node.index, (*a, b[-1]))
    if name == "convolution":
        x, weight = _dims(groups, node.args[0]), _dims(groups, node.args[1])
        space = x if node.args[6] else groups.dims[next(refs(node.outputs))]
        return Work(node.index, (x[0], *space[2:], *weight))
    return None


def _dims(groups: Groups, ref: Ref) -> list[Labels]:
    return groups.dims[ref.index]


def predicted_flops(groups: Groups, choice: Selection | None = None) -> int:
    """FLOPs of the full model, or of the subnet a selection leaves."""
    return sum(item.flops(None if choice is None else choice.gone) for item in work(groups))


def predicted_parameters(groups: Groups, choice: Selection | None = None) -> int:
    """Elements of all parameters (tied ones once), of the model or of the subnet."""
    total = 0
    for index in dict.fromkeys(groups.graph.names.values()):
        value = groups.graph.values[index]
        if value.kind == "parameter":
            total += int(np.prod(value.shape if choice is None else choice.shape(index)))
    return total


def removed_flops(groups: Groups) -> npt.NDArray[np.int64]:
    """For each group the FLOPs that vanish when it alone is removed."""
    total = np.zeros(groups.count + 1)
    for item in work(groups):
        present = np.unique(np.concatenate(item.dims)) if item.dims else np.zeros(0, dtype=np.int64)
        present = present[present > 0]
        if not present.size:
            continue
        kept = np.ones(present.size)
        for labels in item.dims:
            inside = np.searchsorted(present, labels[labels > 0])
            kept *= 1 - np.bincount(inside, minlength=present.size) / labels.size
        total[present] += item.flops() * (1 - kept)
    return np.rint(total).astype(np.int64)


def measured_flops(model: torch.nn.Module, graph: Graph) -> int:
    """What torch.utils.flop_counter counts on the traced inputs; on the meta device where possible."""
    device = "meta" if graph.device == "meta" else None
    twin = shadow(model, device).eval()
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda leaf: leaf.to("meta") if device else leaf.clone(), (graph.args, graph.kwargs)
    )
    counter = FlopCounterMode(display=False)
    with decomposed(), torch.random.fork_rng(devices=[]), counter:
        torch.manual_seed(0)
        twin(*args, **kwargs)
    counted = counter.get_flop_counts().get("Global", {})
    return sum(int(flops) for name, flops in counted.items() if _counts(name))


def _counts(op: Any) -> bool:
    return str(op).rpartition(".")[2] in {"mm", "addmm", "bmm", "baddbmm", "convolution", "_convolution"}


def parameter_count(model: torch.nn.Module) -> int:
    """Elements of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
