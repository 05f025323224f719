"""Masks of single weights: what an unstructured method decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from conformance.errors import SelectionError
from conformance.subnet.state import tensor_at


@dataclass(frozen=True)
class Masks:
    """For some parameters, by name, a bool tensor of the same shape: False where the weight is zero."""

    kept: Mapping[str, torch.Tensor]

    @property
    def density(self) -> float:
        """The share of the masked parameters' weights that stay."""
        total = sum(mask.numel() for mask in self.kept.values())
        return sum(int(mask.sum()) for mask in self.kept.values()) / max(total, 1)

    def apply_(self, model: torch.nn.Module) -> None:
        """Set what is not kept to zero, in place. Raises SelectionError for a shape that does not fit."""
        with torch.no_grad():
            for name, mask in self.kept.items():
                tensor = tensor_at(model, name)
                if tensor.shape != mask.shape:
                    raise SelectionError(f"the mask of {name} has shape {tuple(mask.shape)}, not {tuple(tensor.shape)}")
                tensor.masked_fill_(~mask.to(tensor.device), 0)

    def still_(self, model: torch.nn.Module) -> None:
        """Set the gradients of what is not kept to zero, in place, so that no momentum moves it."""
        for name, mask in self.kept.items():
            grad = tensor_at(model, name).grad
            if grad is not None:
                grad.masked_fill_(~mask.to(grad.device), 0)

    def to(self, device: torch.device) -> Masks:
        """The same masks on a device; those that are there already are not copied."""
        return Masks({name: mask.to(device) for name, mask in self.kept.items()})

    def holds(self, model: torch.nn.Module) -> bool:
        """Whether every weight that is not kept is exactly zero."""
        return all(
            not tensor_at(model, name)[~mask.to(tensor_at(model, name).device)].any()
            for name, mask in self.kept.items()
        )
