"""The base optimizers of the front door, by the words of only_train_once."""

from __future__ import annotations

from typing import Literal

import torch

from conformance.errors import UsageError

Variant = Literal["sgd", "adam", "adamw"]


def base_optimizer(
    model: torch.nn.Module,
    variant: Variant,
    lr: float,
    *,
    first_momentum: float | None = None,
    second_momentum: float | None = None,
    dampening: float = 0.0,
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """torch's own over all parameters that want gradients.

    Momenta are 0 for sgd, (0.9, 0.999) for adam and adamw; weight_decay 0, for adamw 0.01. Raises UsageError
    for an unknown variant.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if variant == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=first_momentum or 0.0,
            dampening=dampening,
            weight_decay=weight_decay or 0.0,
        )
    if variant not in ("adam", "adamw"):
        raise UsageError(f"the variants are sgd, adam and adamw, not {variant!r}")
    betas = (
        0.9 if first_momentum is None else first_momentum,
        0.999 if second_momentum is None else second_momentum,
    )
    if variant == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay or 0.0)
    return torch.optim.AdamW(
        parameters, lr=lr, betas=betas, weight_decay=1e-2 if weight_decay is None else weight_decay
    )
