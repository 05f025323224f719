"""Training with a penalty that presses groups towards zero, and then the criterion it is paired with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Event, Facts, Run
from conformance.method.ladder import removable
from conformance.method.units import Part, Reduce
from reference_impls.baselines.criterion import Criterion, Normalise
from reference_impls.baselines.magnitude import magnitude
from reference_impls.baselines.norm_scale import is_scale, scales

_FREE, _GROWING = "free", "growing"


@dataclass(frozen=True)
class Regulariser(Criterion):
    """Adds the penalty's gradient after each backward pass; at the end of training the criterion decides.

    Only groups that can be removed and are not ignored are pressed, only through members that have a
    gradient. The recipe's weight decay is off while the penalty is trained with (fine-tuning has it), unless
    decay=True: two pulls towards zero at once make `reg` mean little.
    """

    reg: float = 1e-4
    decay: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a penalty that is none."""
        super().__post_init__()
        if not self.reg >= 0:
            raise UsageError(f"{self.name}: reg is at least 0, not {self.reg}")

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The recipe's own, without weight decay."""
        if not self.decay:
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0
        free = torch.from_numpy(removable(run.groups, run.limits.ignore))
        run.state[_FREE] = free
        return optimizer

    def on_event(self, event: Event, run: Run) -> None:
        """Press."""
        if event == "after_backward":
            with torch.no_grad():
                self.press(run)

    @abstractmethod
    def press(self, run: Run) -> None:
        """Add the penalty's gradient to the parameters' own."""


def free(run: Run) -> torch.Tensor:
    """Which groups are pressed, shape (count + 1,), on the run's device."""
    flags: torch.Tensor = run.state[_FREE]
    if flags.device != run.device:
        flags = run.state[_FREE] = flags.to(run.device)
    return flags


def add(run: Run, factors: torch.Tensor, part: Part) -> None:
    """Add factor times weight to the gradient of every member of `part`; factors has shape (count + 1,)."""
    for name, spread in run.units.spread(factors, part):
        parameter = run.units.tensors[name]
        if parameter.grad is not None:
            parameter.grad.addcmul_(spread.to(parameter.dtype), parameter)


def batch_norms(run: Run) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Scales of batch norms that have a gradient, each with the group numbers of its entries."""
    for item in run.units.members("producers"):
        parameter = run.units.tensors[item.name]
        if is_scale(run, item) and parameter.grad is not None:
            yield parameter, torch.from_numpy(item.groups).to(parameter.device)


def extremes(run: Run, figures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest and smallest figure among the pressed groups of each group's axis; shapes (count + 1,)."""
    axis = torch.from_numpy(run.groups.axis_of).to(figures.device) + 1
    flags = free(run)
    number = int(run.groups.axis_of.max(initial=-1)) + 2
    most = figures.new_full((number,), -torch.inf).scatter_reduce_(0, axis[flags], figures[flags], "amax")
    least = figures.new_full((number,), torch.inf).scatter_reduce_(0, axis[flags], figures[flags], "amin")
    return most[axis], least[axis]


def importance(run: Run) -> torch.Tensor:
    """Root of the sum of squared weights over all members of each group, biases left out; shape (count + 1,)."""
    return run.units.reduce(_squares, "all").sqrt()


def _squares(name: str, weight: torch.Tensor) -> torch.Tensor:
    # Zeros instead of a filter: the layout of members is kept from step to step.
    return torch.zeros_like(weight) if "bias" in name.rpartition(".")[2] else weight.square()


@dataclass(frozen=True)
class BnScaleL1(Regulariser):
    """L1 on the scales of batch norms; the smallest scales leave."""

    facts: ClassVar[Facts] = Facts(
        name="bn-scale-l1",
        summary="L1 on batch norm scales while training, then the smallest scales leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
    )
    normalise: Normalise = "none"
    reg: float = 1e-5

    @property
    def unknown(self) -> str:
        """Only batch norms are looked at."""
        return "none passes a batch norm"

    def press(self, run: Run) -> None:
        """reg * sign(gamma)."""
        for scale, numbers in batch_norms(run):
            scale.grad.add_(self.reg * free(run)[numbers] * scale.sign())  # type: ignore[union-attr]

    def local(self, run: Run) -> torch.Tensor:
        """As bn-scale: groups without a batch norm stay."""
        return scales(run, self.reduce)


@dataclass(frozen=True)
class GroupLasso(Regulariser):
    """The sum of the groups' Euclidean norms, over all that is zero once a group is removed.

    only_bn takes batch norm scales alone, with the root of the mean of their squares as norm.
    """

    facts: ClassVar[Facts] = Facts(
        name="group-lasso",
        summary="group lasso while training, then the smallest groups leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Wen et al., Learning Structured Sparsity in Deep Neural Networks, NIPS 2016; over coupled groups",
    )
    normalise: Normalise = "max"
    only_bn: bool = False

    @property
    def unknown(self) -> str:
        """Of the variant."""
        return "none passes a batch norm"

    def press(self, run: Run) -> None:
        """reg * w / norm of w's group; nothing for a group at zero."""
        if not self.only_bn:
            norms = run.units.norms()
            add(run, torch.where(free(run) & (norms > 0), self.reg / norms, 0.0), "zeroed")
            return
        lines = list(batch_norms(run))
        squares, number = (torch.zeros(run.groups.count + 1, device=run.device) for _ in range(2))
        for scale, numbers in lines:
            squares.index_add_(0, numbers, scale.square().to(squares.dtype))
            number.index_add_(0, numbers, torch.ones_like(squares[numbers]))
        norms = (squares / number.clamp(min=1) + 1e-9).sqrt()
        for scale, numbers in lines:
            scale.grad.add_((free(run) * self.reg / norms)[numbers] * scale)  # type: ignore[union-attr]

    def local(self, run: Run) -> torch.Tensor:
        """The norms that were pressed."""
        return scales(run, self.reduce) if self.only_bn else run.units.norms()


@dataclass(frozen=True)
class GroupNormReg(Regulariser):
    """Squared weights, the more the less a group weighs in its axis: factors from 1 for the largest to 2^alpha."""

    facts: ClassVar[Facts] = Facts(
        name="group-norm-reg",
        summary="weight decay that grows as a group weighs less in its axis, then the smallest groups leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (sparse learning)",
    )
    normalise: Normalise = "max"
    alpha: float = 4.0

    def press(self, run: Run) -> None:
        """reg * 2^(alpha (max - I) / (max - min)) * w; an axis whose groups weigh all the same is left alone."""
        line = importance(run)
        most, least = extremes(run, line)
        pressed = free(run) & (most > least)
        exponent = torch.where(pressed, self.alpha * (most - line) / torch.where(pressed, most - least, 1), 0)
        add(run, torch.where(pressed, self.reg * 2**exponent, 0), "all")

    def local(self, run: Run) -> torch.Tensor:
        """Squared weights, as the penalty."""
        return magnitude(run, 2, self.reduce, self.members)


@dataclass(frozen=True)
class GrowingReg(Regulariser):
    """Squared weights with a factor for each group that grows every epoch, faster for those that weigh less."""

    facts: ClassVar[Facts] = Facts(
        name="growing-reg",
        summary="weight decay that grows every epoch, faster for small groups, then the smallest leave",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        penalises=True,
        paper="Wang et al., Neural Pruning via Growing Regularization, ICLR 2021; over coupled groups, reconstructed",
    )
    normalise: Normalise = "max"
    reduce: Reduce = "mean"
    delta: float = 1e-5

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Every group begins at reg."""
        run.state[_GROWING] = torch.full((run.groups.count + 1,), self.reg, device=run.device)
        return super().wrap_optimizer(run, optimizer)

    def on_event(self, event: Event, run: Run) -> None:
        """Press after each backward pass; grow at the end of each epoch."""
        super().on_event(event, run)
        if event == "epoch_end":
            with torch.no_grad():
                line = importance(run)
                most, least = extremes(run, line)
                growth = self.delta * (most - line) / (most - least + 1e-8)
                run.state[_GROWING] = self._factors(run) + torch.where(free(run), growth, 0)

    def press(self, run: Run) -> None:
        """factor * w."""
        add(run, torch.where(free(run), self._factors(run), 0), "all")

    def _factors(self, run: Run) -> torch.Tensor:
        line: torch.Tensor = run.state[_GROWING]
        return line.to(run.device)

    def local(self, run: Run) -> torch.Tensor:
        """Squared weights."""
        return magnitude(run, 2, self.reduce, self.members)
