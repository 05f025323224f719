"""HESSO, HESSO-CRIC and LHSPG as methods: their options in shares of a training run, whatever its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from conformance.errors import TooFewStepsError, UsageError
from conformance.method import DataNeed, Decision, Driver, Facts, Run
from reference_impls.oto.cric import HESSOCRIC, Cycles
from reference_impls.oto.hesso import HESSO
from reference_impls.oto.lhspg import LHSPG, scorable
from reference_impls.oto.lora import Also, Lora, adapters, attach
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.trained import Trained, share
from reference_impls.oto.wrapper import SparseOptimizer

_TRIES = 1000


@dataclass(frozen=True)
class _Scored(Trained):
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
        share("start", self.start)
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
        share("finish", self.finish)

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
        share("sampling", self.sampling)
        share("fade", self.fade)

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
