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
    """Groups whose removal changes the model's own answers least, to second order, leave first.

    Score: the sum of w^2 (F + 1e-10) over the rows of convolutions and linear layers that make a group, row j of W
    (out, in, kh, kw); F of W's shape the mean over samples of the squared gradient of the cross-entropy, with a label
    drawn from the softmax of the model's output; reduced over those members, then divided by the axis' mean. Shape
    (count + 1,), float64. A group that no such layer makes stays.

    Data: D1, unlabelled training batches.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=producers: which count: all, producers (rows), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=10, size=64: how many batches, and samples in each.
        chunk=8: samples that are differentiated at a time; each needs memory for one more set of parameters.

    The result depends on the weights, the data and the seed, which shuffles it and draws the labels. The model is in
    evaluation mode. Raises UsageError for an option that does not exist and a budget out of reach, when no group is
    made by such a layer, and for an output that is not of shape (batch, classes).

    Source: Wang et al., EigenDamage, ICML 2019, its diagonal, channel-wise baseline; reconstructed. There F is a sum
    scaled by the batch instead of a mean over samples: the ranking is the same.
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
