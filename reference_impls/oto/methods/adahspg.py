"""AdaHSPG+ (reconstructed) as a method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist

from conformance.method import Batch, DataNeed, Driver, Event, Facts, Run
from reference_impls.oto.adahspg import AdaHSPG
from reference_impls.oto.methods.completion import window
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.trained import Trained, share
from reference_impls.oto.wrapper import SparseOptimizer

_SCALE = 1024.0
"""What a loss in float16 is multiplied by before its backward pass: small gradients would be lost."""


@dataclass(frozen=True)
class AdaHspg(Trained):
    """AdaHSPG+ (reconstructed): proximal steps of low variance and half-space steps take turns, and epsilon adapts.

    With x_g all entries of group g, g(x) the gradient of a batch, x~ the anchor where the phase began and mu the mean
    gradient there over all training samples, a proximal step is

        z = the base's step along g(x) - g(x~) + mu,   x_g = max(0, 1 - lr penalty / ||z_g||) z_g

    and a half-space step is HSPG's, of groups no longer than radius times the mean norm of their axis. Figures of
    groups are float tensors of shape (count + 1,), entry 0 unused; penalty is in units of the loss for one of x.

    Data need: D3, training with labels; every proximal phase computes one gradient over all training data, in file
    order and without augmentation, and a second one of each of its batches. `step` looks at the loss.

    Options:
        phase: share of training a phase takes, 0.1; an epoch in the paper.
        penalty: weight of the mixed norm, 1e-3.
        epsilon: where it begins, in [0, 1), 0.0.
        radius: how long a group may be to be projected, in mean norms of its axis, 1.0.
        complete: as in HSPG, true.

    Raises UsageError for a share outside [0, 1], an epsilon outside [0, 1), a penalty below 0, a radius that is not
    above 0, too few steps for the completion, and a budget out of reach.

    Source: Dai et al., An Adaptive Half-Space Projection Method for Stochastic Optimization Problems with Group
    Sparse Regularization, TMLR 2023.

    Deviations: reconstructed, as the paper's code was not at hand. That the steps are of these two kinds, take turns
    and adapt is the paper's; the rules by which phases and epsilon change, and the radius, are ours (see `AdaHSPG`).
    The budget is a cap, which the paper has not, and complete meets it.
    """

    phase: float = 0.1
    penalty: float = 1e-3
    epsilon: float = 0.0
    radius: float = 1.0
    complete: bool = True

    facts: ClassVar[Facts] = Facts(
        name="adahspg-reconstructed",
        summary="AdaHSPG+: proximal steps of low variance and half-space projections take turns, up to the budget",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Dai et al., An Adaptive Half-Space Projection Method for Stochastic Optimization Problems with Group "
        "Sparse Regularization, TMLR 2023; reconstructed, with an optional completion that is not the paper's",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
        needs_loss=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for a share that is none."""
        share("phase", self.phase)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """AdaHSPG+ (reconstructed)."""
        steps = max(1, round(self.phase * run.total))

        def full() -> None:
            """The mean gradient over all training data."""
            _backward(run, run.data.training(run.recipe.batch))

        return AdaHSPG(
            base,
            rows,
            quota,
            full=full,
            phase_steps=steps,
            penalty=self.penalty,
            epsilon=self.epsilon,
            radius=self.radius,
            buffers=run.model.buffers(),
            complete=None if quota.empty else window(run, self.complete, 0),
            seed=run.seed,
        )

    def on_event(self, event: Event, run: Run) -> None:
        """After the backward pass: the gradient of the same batch at the anchor as well."""
        if event == "after_backward":
            assert isinstance(run.optimizer, AdaHSPG)
            run.optimizer.correct(lambda: _of_batch(run))
        super().on_event(event, run)


def _of_batch(run: Run) -> None:
    """The gradient of the present batch, the mean over all processes."""
    assert run.batch is not None
    _backward(run, (run.batch,))
    if dist.is_available() and dist.is_initialized():
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(dist.get_world_size())


def _backward(run: Run, batches: Iterable[Batch]) -> None:
    """The gradient of the mean loss over all samples of the batches, computed in the recipe's precision."""
    scale = _SCALE if run.recipe.amp == "float16" else 1.0
    first, seen = 0, 0.0
    for batch in batches:
        first = first or batch.size
        weight = batch.size / first  # exactly 1 for one batch
        seen += weight
        with run.recipe.computing(run.device):
            loss = run.data.loss(run.model(*batch.args, **batch.kwargs), batch)
        (loss * (weight * scale)).backward()  # type: ignore[no-untyped-call]
    for parameter in run.model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(seen * scale)
