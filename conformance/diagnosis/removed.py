"""Read off a zeroed model what was removed from it."""

from __future__ import annotations

import numpy as np
import torch

from conformance.equivalence.compare import Arguments
from conformance.errors import ConformanceError, SelectionError
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection
from conformance.subnet.state import tensor_at


def removed_in(full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments) -> Selection:
    """The groups whose producers are all zero in `full`, if without them it has the subnet's shapes.

    Raises SelectionError otherwise.
    """
    try:
        groups = partition(trace(full, *given))
        choice = groups.select(_silent(full, groups))
    except ConformanceError as error:
        raise SelectionError(f"what the subnet lacks cannot be read off the full model: {error}") from error
    for name, index in groups.graph.names.items():
        try:
            fits = tuple(tensor_at(subnet, name).shape) == choice.shape(index)
        except (AttributeError, SelectionError):
            fits = False
        if not fits:
            raise SelectionError("give the selection that made the subnet to see where they part")
    return choice


def _silent(full: torch.nn.Module, groups: Groups) -> list[int]:
    loud = np.ones(groups.count + 1, dtype=bool)
    loud[1:] = False
    for index, dim in groups.producer_dims:
        tensor = tensor_at(full, groups.graph.values[index].name).detach()
        others = [at for at in range(tensor.ndim) if at != dim]
        sounds = ((tensor != 0).any(dim=others) if others else tensor != 0).cpu().numpy()
        loud[groups.dims[index][dim][sounds]] = True
    return [number for number in range(1, groups.count + 1) if not loud[number]]
