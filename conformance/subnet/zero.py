"""The full model with a selection's slices at zero: the reference every subnet must equal."""

from __future__ import annotations

import copy

import torch

from conformance.partition.groups import CONSUMERS
from conformance.partition.selection import Selection
from conformance.subnet.state import check_state, tensor_at


def zero(model: torch.nn.Module, choice: Selection) -> torch.nn.Module:
    """A deep copy of `model` in which the removed groups' slices are zero.

    Producers (what makes the structure: rows, biases, norm scales and shifts) are zeroed for every
    group; the columns that read it only for groups whose mode is `consumers`. Buffers that are mere
    statistics (running mean and variance) keep their values.

    Raises SelectionError when the model's state does not have the shapes the selection was made for.
    """
    twin = copy.deepcopy(model)
    zero_(twin, choice)
    return twin


def zero_(model: torch.nn.Module, choice: Selection) -> None:
    """As `zero`, in place."""
    check_state(model, choice.groups)
    groups = choice.groups
    by_reader = torch.tensor([mode == CONSUMERS for mode in groups.modes])
    gone = torch.from_numpy(choice.gone)
    with torch.no_grad():
        for index, lines in groups.state.items():
            name = groups.graph.values[index].name
            for dim, labels in enumerate(lines):
                if not labels.any():
                    continue
                numbers = torch.from_numpy(labels)
                hit = gone[numbers]
                if (index, dim) not in groups.producer_dims:
                    hit &= by_reader[numbers]
                    if (index, dim) not in groups.consumer_dims:
                        continue
                if hit.any():
                    tensor = tensor_at(model, name)
                    tensor.index_fill_(dim, hit.nonzero().flatten().to(tensor.device), 0)
