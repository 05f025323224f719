"""OBD-C: the Fisher diagonal under labels drawn from the model itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from conformance.errors import UsageError
from conformance.method import Batch, DataNeed, Driver, Facts, Run, Slices
from reference_impls.baselines.criterion import UNKNOWN, Members
from reference_impls.baselines.features import FILTERS
from reference_impls.baselines.gradients import call, evaluating, mean_squared_gradients, stand_ins
from reference_impls.baselines.hessian import SecondOrder


@dataclass(frozen=True)
class ObdC(SecondOrder):
    """Sum of w^2 (F + 1e-10) over convolutions and linear layers, F the Fisher diagonal under the model's own labels.

    Labels are drawn from the softmax of the output, so none are needed; the model must end in (batch, classes).
    """

    facts: ClassVar[Facts] = Facts(
        name="obd-c",
        summary="smallest squared weight times Fisher information under the model's own labels leaves first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="Wang et al., EigenDamage, ICML 2019 (its diagonal, channel-wise baseline; reconstructed)",
    )
    members: Members = "producers"
    batches: int = 10

    @property
    def unknown(self) -> str:
        """Norms do not count."""
        return "none is made by a convolution or a linear layer"

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members."""
        generator = run.rng("labels")
        batches = [_labelled(run, batch, generator) for batch in run.data.unlabelled(self.batches, self.size)]

        def loss(output: Any, batch: Batch) -> torch.Tensor:
            return F.cross_entropy(_logits(output, self.name), batch.target)

        fisher = mean_squared_gradients(run, batches, loss, self.chunk)

        def kernel(item: Slices) -> bool:
            path, _, leaf = item.name.rpartition(".")
            return leaf == "weight" and isinstance(run.model.get_submodule(path), FILTERS)

        found = run.units.reduce(
            lambda name, weight: weight.square() * (fisher[name] + 1e-10), self.members, self.reduce, only=kernel
        )
        known = run.units.reduce(lambda _, weight: torch.ones_like(weight), self.members, only=kernel)
        return torch.where(known > 0, found, UNKNOWN)


def _labelled(run: Run, batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with labels drawn from what the model says of it."""
    with evaluating(run.model), torch.no_grad():
        logits = _logits(call(run.model, stand_ins(run.model), batch), run.method.name)
    chances = logits.double().softmax(1).cpu()
    drawn = torch.multinomial(chances, 1, generator=generator).flatten()
    return replace(batch, target=drawn.to(logits.device))


def _logits(output: Any, name: str) -> torch.Tensor:
    """The first floating tensor of an output, of shape (batch, classes)."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            if leaf.ndim == 2:
                return leaf
            break
    raise UsageError(f"{name} draws labels from an output of shape (batch, classes), which this model does not have")
