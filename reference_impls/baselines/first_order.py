"""First-order criteria: how much the loss changes when a weight is moved to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from conformance.errors import UsageError
from conformance.method import Run
from reference_impls.baselines.criterion import Criterion, no_bias
from reference_impls.baselines.gradients import mean_gradients

Form = Literal["weights", "slices", "group"]


@dataclass(frozen=True)
class FirstOrder(Criterion):
    """Weight times gradient of the task's loss, averaged over labelled batches in evaluation mode.

    form says where the absolute value is taken: of each weight's product (`weights`), of the sum over each
    member (`slices`), or of the sum over the whole group (`group`, where `reduce` has no say).
    """

    batches: int = 10
    size: int = 64
    form: Form = "weights"

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        super().__post_init__()
        if self.form not in ("weights", "slices", "group") or self.batches < 1 or self.size < 1:
            raise UsageError(f"{self.name}: form is weights, slices or group; batches and size are at least 1")

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members; biases are left out."""
        gradients = mean_gradients(run, run.data.labelled(self.batches, self.size))
        products = {name: run.units.tensors[name].detach() * gradient for name, gradient in gradients.items()}
        if self.form == "weights":
            absolute = {name: product.abs() for name, product in products.items()}
            return run.units.reduce(absolute, self.members, self.reduce, only=no_bias)
        if self.form == "slices":
            return run.units.reduce(products, self.members, self.reduce, only=no_bias, each=torch.abs)
        return run.units.reduce(products, self.members, "sum", only=no_bias).abs()
