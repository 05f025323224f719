"""The scales (gamma) of batch norms: as a penalty, as scores of groups, and as one vector."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from conformance.errors import UnsuitedError
from conformance.method import Run
from conformance.method.units import Reduce


def gammas(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The scale of every batch norm that has one, in the model's order; a shared one counts once."""
    found = [module.weight for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
    return list({id(weight): weight for weight in found}.values())


def vector(model: torch.nn.Module) -> torch.Tensor:
    """|gamma| of all channels of all batch norms, one line."""
    return torch.cat([weight.detach().abs() for weight in gammas(model)])


def fill_(model: torch.nn.Module, value: float) -> None:
    """Set every scale to one value."""
    with torch.no_grad():
        for weight in gammas(model):
            weight.fill_(value)


def penalise_(model: torch.nn.Module, strength: float) -> None:
    """Add the gradient of strength * sum |gamma| to the gradients; where gamma is zero that is zero."""
    for weight in gammas(model):
        if weight.grad is not None:
            weight.grad.add_(weight.detach().sign(), alpha=strength)


def scores(run: Run, reduce: Reduce) -> torch.Tensor:
    """For each group its batch norms' |gamma|, joined as `reduce` says; +inf for a group without one: it stays.

    Shape (count + 1,). Raises UnsuitedError when no group has a batch norm.
    """
    own = {id(weight) for weight in gammas(run.model)}
    names = {name for name, tensor in run.units.tensors.items() if id(tensor) in own}
    number = run.units.reduce(lambda _, weight: torch.ones_like(weight), "all", only=lambda item: item.name in names)
    if not number.any():
        raise UnsuitedError(f"{run.method.name} ranks by batch norms, and no group of this model has one")
    found = run.units.reduce(lambda _, weight: weight.abs(), "all", reduce, only=lambda item: item.name in names)
    return torch.where(number > 0, found, torch.inf)
