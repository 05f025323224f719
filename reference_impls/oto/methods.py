"""The optimizers as methods: their options in shares of a training run, whatever its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from conformance.errors import TooFewStepsError, UsageError
from conformance.method import Batch, DataNeed, Decision, Driver, Event, Facts, Method, Run
from reference_impls.oto.adahspg import AdaHSPG
from reference_impls.oto.cric import HESSOCRIC, Cycles
from reference_impls.oto.dhspg import DHSPG
from reference_impls.oto.hesso import HESSO
from reference_impls.oto.hspg import HSPG
from reference_impls.oto.lhspg import LHSPG, scorable
from reference_impls.oto.lora import Also, Lora, adapters, attach
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.wrapper import SparseOptimizer

_TRIES = 1000

COMPLETE = (0.75, 0.9)
"""Where in training a half-space method is completed: late, but with enough of a falling lr left to recover."""


@dataclass(frozen=True)
class _Trained(Method):
    """A method whose optimizer decides; what has left is kept in the run's state when training ends."""

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """The method's own around `base`."""
        raise NotImplementedError

    def rows(self, run: Run) -> Rows:
        """The group vectors."""
        return Rows(run.units)

    def quota(self, run: Run) -> Quota:
        """How much leaves."""
        return Quota(run.groups, run.budget, run.limits, run.cost)

    def prepare(self, run: Run) -> None:
        """Raise UsageError for a budget out of reach, before anything is trained."""
        quota = self.quota(run)
        if not quota.empty:
            quota.check()

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> SparseOptimizer:
        """See `optimizer`."""
        return self.optimizer(run, optimizer, self.rows(run), self.quota(run))

    def on_event(self, event: Event, run: Run) -> None:
        """After the last step: remember which groups are zero."""
        if event == "after_step" and run.step + 1 >= run.total:
            assert isinstance(run.optimizer, SparseOptimizer)
            run.state["gone"] = torch.from_numpy(run.optimizer.zero_groups)

    def decide(self, run: Run) -> Decision:
        """The groups that training has set to zero."""
        gone = run.state.get("gone")
        return run.groups.select([] if gone is None else gone.tolist())


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is a share of training, between 0 and 1, not {value}")


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
class Hspg(_Trained):
    """HSPG: start is the share of training before projection; penalty the mixed norm's weight.

    epsilon is where it begins; adapt the share of training after which it is adapted, 0 for never. complete
    projects at the end what the budget still lacks: the paper has no target, this is an addition to it.
    """

    start: float = 0.25
    penalty: float = 1e-3
    epsilon: float = 0.0
    adapt: float = 0.02
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
        _share("start", self.start)
        _share("adapt", self.adapt)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HSPG."""
        start = int(self.start * run.total)
        return HSPG(
            base,
            rows,
            quota,
            start_step=start,
            penalty=self.penalty,
            epsilon=self.epsilon,
            adapt_every=max(1, round(self.adapt * run.total)) if self.adapt else 0,
            complete=None if quota.empty else _window(run, self.complete, start),
            seed=run.seed,
        )


@dataclass(frozen=True)
class AdaHspg(_Trained):
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
        _share("phase", self.phase)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """AdaHSPG+ (reconstructed)."""
        steps = max(1, round(self.phase * run.total))

        def full() -> None:
            """The mean gradient over all training data."""
            batches = run.data.training(run.recipe.batch)
            seen = 0
            for batch in batches:
                _backward(run, batch, weight=batch.size)
                seen += batch.size
            for parameter in run.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(seen)

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
    _backward(run, run.batch)
    if dist.is_available() and dist.is_initialized():
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(dist.get_world_size())


def _backward(run: Run, batch: Batch, weight: float = 1.0) -> None:
    loss = run.data.loss(run.model(*batch.args, **batch.kwargs), batch) * weight
    loss.backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Dhspg(_Trained):
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
        _share("start", self.start)

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


@dataclass(frozen=True)
class _Scored(_Trained):
    """What HESSO and HESSO-CRIC share: the weights of the criteria (see Criteria) and where pruning starts."""

    start: float = 0.1
    magnitude: float = 0.2
    average: float = 0.2
    cosine: float = 0.2
    taylor: float = 0.2
    taylor2: float = 0.0
    cosine_sign: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError for weights and shares that cannot be."""
        _share("start", self.start)
        self.criteria  # noqa: B018 - checks the weights

    @property
    def criteria(self) -> Criteria:
        """The weights."""
        return Criteria(self.magnitude, self.average, self.cosine, self.taylor, self.taylor2, self.cosine_sign)


@dataclass(frozen=True)
class _InPeriods(_Scored):
    """From `start` to `finish`, shares of training, in so many periods (fewer if a period had no step)."""

    finish: float = 0.25
    periods: int = 10

    def __post_init__(self) -> None:
        """Raise UsageError for shares that cannot be."""
        super().__post_init__()
        _share("finish", self.finish)

    def schedule(self, run: Run, earliest: int) -> dict[str, Any]:
        """The arguments of `Periods`, no step before `earliest`."""
        start = max(int(self.start * run.total), earliest)
        steps = int(self.finish * run.total) - start
        if steps < 1:
            raise UsageError(
                f"{self.name} prunes from {self.start:g} to {self.finish:g} of training, which is no step of "
                f"{run.total} from step {earliest} on"
            )
        return {
            "start_step": start,
            "pruning_steps": steps,
            "periods": min(self.periods, steps),
            "criteria": self.criteria,
        }


@dataclass(frozen=True)
class Hesso(_InPeriods):
    """HESSO: for its options see what it derives from."""

    facts: ClassVar[Facts] = Facts(
        name="hesso",
        summary="in a few periods the lowest-scored groups fade to zero while training goes on",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and "
        "Pruning, 2024; one criterion, which ranks as another does, is off by default",
        zeroes=True,
    )

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HESSO."""
        return HESSO(base, rows, quota, **self.schedule(run, 0))


@dataclass(frozen=True)
class HessoCric(_Scored):
    """HESSO-CRIC: sampling and fade are the shares of training that all cycles and the final fade take.

    cycles is how many there are at most, tolerance with how many new groups in doubt they end, loss_weight that
    of the layer probes (0 for none). The probes take six steps a layer beside these shares.
    """

    sampling: float = 0.15
    fade: float = 0.1
    cycles: int = 10
    tolerance: int = 0
    loss_weight: float = 1.0

    facts: ClassVar[Facts] = Facts(
        name="hesso-cric",
        summary="HESSO, with redundancy looked at along trajectories on which groups are missing",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and "
        "Pruning, 2024 (corrective redundancy identification); what is undone leaves no trace in the base optimizer",
        budgets=("groups", "params", "macs"),
        zeroes=True,
        needs_loss=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for shares that cannot be."""
        super().__post_init__()
        _share("sampling", self.sampling)
        _share("fade", self.fade)

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """HESSO-CRIC."""
        start, fade, cycles = self._schedule(run.total)
        needed = self._needed(quota, run.total)
        if needed > run.total and not quota.empty:
            least = run.total
            for _ in range(_TRIES):  # its parts are shares of training, and grow with it
                least = max(least, self._needed(quota, least))
            text = f"hesso-cric needs {least} steps on this model with these options, not {run.total}"
            if self._needed(quota, least) > least:
                raise UsageError("hesso-cric: start, sampling and fade together leave no training for the probes")
            raise TooFewStepsError(text, least)
        return HESSOCRIC(base, rows, quota, start_step=start, fade_steps=fade, cycles=cycles, criteria=self.criteria)

    def _schedule(self, total: int) -> tuple[int, int, Cycles]:
        """First step, steps of the fade, and the cycles, of a training of so many steps."""
        steps = max(1, round(self.sampling * total / max(self.cycles, 1)))
        cycles = Cycles(steps, self.cycles, self.tolerance, self.loss_weight)
        return int(self.start * total), max(1, round(self.fade * total)), cycles

    def _needed(self, quota: Quota, total: int) -> int:
        start, fade, cycles = self._schedule(total)
        return start + HESSOCRIC.steps_needed(quota, cycles, fade)


@dataclass(frozen=True)
class Lhspg(_InPeriods):
    """LHSPG: HESSO's schedule over adapters, which are merged when training is over.

    rank, alpha and dropout are the adapters'. targets are patterns of the modules that get some, separated by
    commas; empty for all linear layers and convolutions that hold groups. also is what else is trained: `heads`,
    `all` or `nothing` (see `attach`). The weights of the criteria are HESSO's: none are published.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: str = ""
    also: Also = "heads"

    facts: ClassVar[Facts] = Facts(
        name="lhspg",
        summary="low-rank adapters are trained while the groups that they score lowest fade to zero",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="Chen et al., LoRAShear: Efficient Large Language Model Structured Pruning and Knowledge Recovery, 2023; "
        "its optimizer alone, with HESSO's weights of the criteria and budgets for the whole model, and with adapters "
        "of convolutions",
        budgets=("groups", "params", "macs"),
        equivariant=False,
        zeroes=True,
        penalises=True,
    )

    def __post_init__(self) -> None:
        """Raise UsageError for shares and adapters that cannot be."""
        super().__post_init__()
        self.lora  # noqa: B018 - checks them

    @property
    def lora(self) -> Lora:
        """What the adapters are like."""
        return Lora(self.rank, self.alpha, self.dropout)

    def prepare(self, run: Run) -> None:
        """Adapters, the same for the same seed: a checkpoint's are loaded into them. Raise UsageError as `attach`."""
        patterns = [pattern.strip() for pattern in self.targets.split(",") if pattern.strip()]
        attach(run.model, run.groups, self.lora, run.rng("lora"), targets=patterns, also=self.also)
        super().prepare(run)

    def rows(self, run: Run) -> Rows:
        """Group vectors with the adapters'."""
        return Rows(adapters(run.model).units(run.units))

    def quota(self, run: Run) -> Quota:
        """Without the groups that adapters say nothing about."""
        return scorable(super().quota(run), self.rows(run), adapters(run.model))

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """LHSPG."""
        return LHSPG(base, rows, quota, adapters(run.model), **self.schedule(run, 1))

    def decide(self, run: Run) -> Decision:
        """The groups that training has set to zero; the adapters are merged before anything looks at the model.

        Not in the last step: what is saved after it has to fit the model that `prepare` makes.
        """
        adapters(run.model).merge()
        return super().decide(run)
