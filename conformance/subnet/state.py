"""Reach, replace and slice a module's parameters and buffers by name."""

from __future__ import annotations

import torch

from conformance.errors import SelectionError
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection


def tensor_at(model: torch.nn.Module, name: str) -> torch.Tensor:
    """The parameter or buffer of that dotted name."""
    path, _, leaf = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), leaf)
    if not isinstance(tensor, torch.Tensor):
        raise SelectionError(f"{name} is not a tensor")
    return tensor


def check_state(model: torch.nn.Module, groups: Groups) -> None:
    """Raise SelectionError unless every parameter and buffer has the traced shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    shapes |= {name: tuple(tensor.shape) for name, tensor in model.named_buffers(remove_duplicate=False)}
    for name, index in groups.graph.names.items():
        expected = groups.graph.values[index].shape
        if shapes.get(name) != expected:
            raise SelectionError(f"{name} has shape {shapes.get(name)}, the selection was made for {expected}")


def sliced(tensor: torch.Tensor, choice: Selection, index: int) -> torch.Tensor:
    """A fresh, contiguous copy of a state tensor with the removed positions cut out."""
    result = tensor.detach()
    for dim, labels in enumerate(choice.groups.dims[index]):
        if labels.any() and choice.gone[labels].any():
            kept = torch.from_numpy(choice.kept(index, dim)).to(tensor.device)
            result = result.index_select(dim, kept)
    return result.clone()


def slice_state(model: torch.nn.Module, choice: Selection) -> list[str]:
    """Cut every affected parameter and buffer of `model` in place; tied tensors stay tied.

    Returns the names that changed shape.
    """
    owners = choice.groups.graph.owners()
    changed = []
    for index, names in owners.items():
        if choice.shape(index) == choice.groups.graph.values[index].shape:
            continue
        original = tensor_at(model, names[0])
        new: torch.Tensor = sliced(original, choice, index)
        if isinstance(original, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=original.requires_grad)
        for name in names:
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            if leaf in owner._parameters:
                owner._parameters[leaf] = new  # type: ignore[assignment]
            elif leaf in owner._buffers:
                owner._buffers[leaf] = new
            else:
                raise SelectionError(f"{name} is neither a parameter nor a buffer of its module")
            changed.append(name)
    return changed
