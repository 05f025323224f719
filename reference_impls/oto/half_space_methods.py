"""HSPG, AdaHSPG+ and DHSPG as methods: their options in shares of a training run, whatever its length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from conformance.errors import UsageError
from conformance.method import Batch, DataNeed, Driver, Event, Facts, Run
from reference_impls.oto.adahspg import AdaHSPG
from reference_impls.oto.dhspg import DHSPG
from reference_impls.oto.hspg import HSPG
from reference_impls.oto.kinds import by_kind, kinds_of, read_by_kind, read_shares
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.trained import Trained, share
from reference_impls.oto.wrapper import SparseOptimizer

_SCALE = 1024.0

COMPLETE = (0.75, 0.9)
"""Where in training a half-space method is completed: late, but with enough of a falling lr left to recover."""


def _window(run: Run, complete: bool, after: int) -> tuple[int, int] | None:
    """The steps of completion."""
    if not complete:
        return None
    first = max(int(COMPLETE[0] * run.total), after)
    last = max(int(COMPLETE[1] * run.total), first + 1)
    if last > run.total:
        raise UsageError(f"{run.total} steps of training are too few: projection starts at step {after}")
    return first, last


@dataclass(frozen=True)
class Hspg(Trained):
    """HSPG: start is the share of training before projection; penalty the mixed norm's weight.

    epsilon is where it begins; adapt the share of training after which it is adapted, 0 for never. complete
    projects at the end what the budget still lacks: the paper has no target, this is an addition to it.
    """

    start: float = 0.25
    penalty: float = 1e-3
    penalty_milestones: str = ""
    epsilon: float | str = 0.0
    adapt: float = 0.02
    adapt_kinds: str = ""
    upper_group_sparsity: float | str | None = None
    complete: bool = True

    facts: ClassVar[Facts] = Facts(
        name="hspg",
        summary="a mixed-norm penalty, then half-space projections, up to the budget",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., Only Train Once: A One-Shot Neural Network Training and Pruning Framework, NeurIPS 2021; "
        "capped by the budget, with an optional completion that is not the paper's",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for shares that are none."""
        share("start", self.start)
        share("adapt", self.adapt)
        self._published()

    def _published(self) -> dict[str, Any]:
        """The options that are text here, as arguments of `HSPG`; milestones as shares."""
        upper = self.upper_group_sparsity
        found: dict[str, Any] = {
            "penalty_milestones": read_shares("penalty_milestones", self.penalty_milestones),
            "epsilon": read_by_kind("epsilon", self.epsilon),
            "adapt_kinds": [kind.strip() for kind in self.adapt_kinds.split(",") if kind.strip()],
            "upper_group_sparsity": None if upper is None else read_by_kind("upper_group_sparsity", upper),
        }
        for given in (found["epsilon"], found["upper_group_sparsity"]):
            by_kind(given or 0.0, 0.0)
        kinds_of(found["adapt_kinds"])
        return found

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HSPG."""
        start, told = int(self.start * run.total), self._published()
        told["penalty_milestones"] = [round(share * run.total) for share in told["penalty_milestones"]]
        return HSPG(
            base,
            rows,
            quota,
            start_step=start,
            penalty=self.penalty,
            **told,
            adapt_every=max(1, round(self.adapt * run.total)) if self.adapt else 0,
            complete=None if quota.empty else _window(run, self.complete, start),
            seed=run.seed,
        )


@dataclass(frozen=True)
class AdaHspg(Trained):
    """AdaHSPG+ (reconstructed): phase is the share of training a phase takes, an epoch in the paper.

    penalty is the mixed norm's weight, epsilon where it begins, radius how long a group may be to be projected, in
    mean norms of its axis. complete is an addition, as in HSPG. A proximal phase computes one gradient over all
    training data, and a second one of every batch.
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
            complete=None if quota.empty else _window(run, self.complete, 0),
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
    # In float16 gradients of a mean loss would vanish.
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


@dataclass(frozen=True)
class Dhspg(Trained):
    """DHSPG: start is the share of training before groups are scored; None options follow the base optimizer.

    penalty, amplify and cap are 1e-3, 2 and 10 for SGD, 1e-2, 20 and 1000 for others. tolerance is how much
    more than the budget is penalised. complete is an addition, as in HSPG.
    """

    start: float = 0.1
    penalty: float | None = None
    amplify: float | None = None
    cap: float | None = None
    epsilon: float = 0.95
    tolerance: float = 0.05
    complete: bool = True

    facts: ClassVar[Facts] = Facts(
        name="dhspg",
        summary="redundant groups are penalised until half-space projections have met the budget",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., OTOv2: Automatic, Generic, User-Friendly, ICLR 2023; with an optional completion that is "
        "not the paper's",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for a share that is none."""
        share("start", self.start)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """DHSPG."""
        start = int(self.start * run.total)
        penalty, amplify, cap = dhspg_defaults(base)
        return DHSPG(
            base,
            rows,
            quota,
            start_step=start,
            penalty=penalty if self.penalty is None else self.penalty,
            amplify=amplify if self.amplify is None else self.amplify,
            cap=cap if self.cap is None else self.cap,
            epsilon=self.epsilon,
            tolerance=self.tolerance,
            complete=None if quota.empty else _window(run, self.complete, start + 1),
            seed=run.seed,
        )


def dhspg_defaults(base: torch.optim.Optimizer) -> tuple[float, float, float]:
    """Penalty, amplification and cap as published for the base optimizer's family."""
    return (1e-3, 2.0, 10.0) if isinstance(base, torch.optim.SGD) else (1e-2, 20.0, 1e3)
