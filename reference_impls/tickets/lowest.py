"""Masks that leave out the smallest weights, and masks that leave out as many at random places."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from conformance.errors import UsageError
from conformance.method import Limits


def lowest(
    weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], share: float, limits: Limits
) -> dict[str, torch.Tensor]:
    """Masks of the same shapes, bool: of all weights together the share with the lowest |w| is False.

    What `kept` (masks so far, True for names it lacks) leaves out stays out and counts. Exactly
    ceil(share * weights) go, whatever is equal: among equals those first in the order of `weights`. Each
    tensor keeps `limits.min_keep` weights and the share `limits.protect` of them, its largest ones.

    Raises UsageError when so many cannot go.
    """
    if limits.round_to != 1:
        raise UsageError("single weights are not rounded to multiples: round_to is 1")
    if not weights:
        return {}
    line = torch.cat([_ranks(weight, kept.get(name), limits) for name, weight in weights.items()])
    number = math.ceil(share * line.numel() - 1e-6)
    most = int((line < math.inf).sum())
    if number > most:
        raise UsageError(
            f"{number} of {line.numel()} weights cannot go: with these limits and what has gone before, {most} can"
        )
    mask = torch.ones(line.numel(), dtype=torch.bool, device=line.device)
    mask[torch.sort(line, stable=True).indices[:number]] = False
    return _cut(mask, weights)


def _ranks(weight: torch.Tensor, kept: torch.Tensor | None, limits: Limits) -> torch.Tensor:
    """|w| in one line; -1 for what has gone, +inf for what its tensor must keep."""
    line = weight.detach().abs().flatten().clone()
    if kept is not None:
        line[~kept.to(line.device).flatten()] = -1
    least = min(max(limits.min_keep, math.ceil(limits.protect * line.numel() - 1e-6)), line.numel())
    # The first of equals leaves first, so the last of them are the ones to keep.
    largest = torch.sort(line, stable=True).indices[line.numel() - least :]
    line[largest[line[largest] >= 0]] = math.inf
    return line


def _cut(line: torch.Tensor, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One line for all tensors, cut into their shapes."""
    parts = torch.split(line, [tensor.numel() for tensor in like.values()])
    return {name: part.view(tensor.shape).clone() for (name, tensor), part in zip(like.items(), parts, strict=True)}


def shuffled(masks: Mapping[str, torch.Tensor], generator: torch.Generator, *, across: bool) -> dict[str, torch.Tensor]:
    """The same numbers of weights at random places: within each tensor, or `across` all of them."""

    def permuted(line: torch.Tensor) -> torch.Tensor:
        return line[torch.randperm(line.numel(), generator=generator).to(line.device)]

    if across and masks:
        return _cut(permuted(torch.cat([mask.flatten() for mask in masks.values()])), masks)
    return {name: permuted(mask.flatten()).view(mask.shape) for name, mask in masks.items()}
