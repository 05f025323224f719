"""Training with a penalty that presses groups towards zero, and then the criterion it is paired with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from conformance.errors import UsageError
from conformance.method import Event, Run
from conformance.method.ladder import removable
from conformance.method.units import Part
from reference_impls.baselines.criterion import Criterion
from reference_impls.baselines.norm_scale import is_scale

_FREE = "free"


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
