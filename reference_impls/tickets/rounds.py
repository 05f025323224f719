"""Train, prune, put the weights back, train again: what tickets of weights and of groups share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from conformance.errors import UsageError
from conformance.method import Event, Method, Run
from reference_impls.tickets.levels import SCHEDULES, Schedule, gone

Reset = Literal["init", "rewind", "random", "keep"]
RESETS: tuple[Reset, ...] = ("init", "rewind", "random", "keep")


@dataclass(frozen=True)
class Rounds(Method):
    """Prune what training came to, reset what is left, train it again; `rounds` times.

    schedule: `geometric` rounds remove the same share of what is left, `linear` ones of the whole. reset says
    with which weights each round trains: those before the first training (`init`), those after `rewind` of it
    (a share below 1, or a number of steps; training then goes on from that step), drawn anew (`random`), or
    as they are (`keep`), at the recipe's rate for fine-tuning. control changes the last round alone: `random`
    weights in the ticket that the rounds before found. With dense_first the model is trained before the first
    round; without it is taken as trained.
    """

    rounds: int = 1
    schedule: Schedule = "geometric"
    reset: Reset = "init"
    rewind: float = 0.0
    control: str = "none"
    dense_first: bool = True

    controls: ClassVar[tuple[str, ...]] = ("none", "random")

    def __post_init__(self) -> None:
        """Raise UsageError for options that cannot be, alone or together."""
        for given, known in ((self.schedule, SCHEDULES), (self.reset, RESETS), (self.control, self.controls)):
            if given not in known:
                raise UsageError(f"{self.name}: there are {', '.join(known)}, but no {given!r}")
        if self.rounds < 1:
            raise UsageError(f"{self.name}: rounds is at least 1, not {self.rounds}")
        if self.rewind < 0 or (self.rewind >= 1 and self.rewind != int(self.rewind)):
            raise UsageError(f"{self.name}: rewind is a share below 1 or a whole number of steps, not {self.rewind}")
        if self.rewind and self.reset != "rewind":
            raise UsageError(f"{self.name}: rewind={self.rewind:g} is for reset=rewind, not reset={self.reset}")
        if self.rewind and not self.dense_first:
            raise UsageError(f"{self.name}: without dense_first no training has a step to rewind to")

    @property
    def trainings(self) -> int:
        """One for each round, and the dense one."""
        return self.rounds + self.dense_first

    # What a sort of ticket adds.

    def prune(self, run: Run, level: int) -> None:
        """Decide from the trained weights what leaves in round `level`, and remember it in `run.state`."""
        raise NotImplementedError

    def hold(self, run: Run) -> None:
        """Set what has left to zero."""
        raise NotImplementedError

    def still(self, run: Run) -> None:
        """Set the gradients of what has left to zero."""
        raise NotImplementedError

    # The rounds.

    def gone(self, level: int, total: float) -> float:
        """The share of the budget's measure that has gone after round `level`."""
        return gone(total, self.rounds, level, self.schedule)

    def level(self, run: Run) -> int:
        """How many rounds have pruned once this training runs; 0 for the dense one."""
        return run.round - self.dense_first

    def _random(self, level: int) -> bool:
        return self.reset == "random" or (self.control == "random" and level == self.rounds)

    def _rewind_step(self, run: Run) -> int:
        step = int(self.rewind) if self.rewind >= 1 else round(self.rewind * run.total)
        if step and step >= run.total:
            raise UsageError(f"{self.name}: rewind goes to step {step}, but a training has {run.total}")
        return step

    def begins(self, run: Run) -> tuple[int, float | None]:
        """Rewound weights train from their step on; kept ones at the rate for fine-tuning."""
        step, level = self._rewind_step(run), self.level(run)
        if not level or self._random(level):
            return 0, None
        return step, run.recipe.finetune_rate if self.reset == "keep" else None

    def prepare(self, run: Run) -> None:
        """Remember the weights and statistics before training."""
        if self.reset != "keep" or self.control == "random":
            run.state["theta"] = snapshot(run.model)

    def on_event(self, event: Event, run: Run) -> None:
        """Prune and reset between trainings; hold what has left at zero through every step."""
        level = self.level(run)
        if event == "round_start" and level:
            self.prune(run, level)
            self._put_back(run, level)
            self.hold(run)
        elif event == "after_backward" and level:
            self.still(run)
        elif event == "after_step":
            if level:
                self.hold(run)
            elif self.rewind and run.step + 1 == self._rewind_step(run):
                run.state["theta"] = snapshot(run.model)

    def _put_back(self, run: Run, level: int) -> None:
        if self._random(level):
            left = redraw_(run.model, run.state["theta"], run.rng(f"weights/{level}"))
            run.log({"phase": f"round-{run.round}", "step": 0, "not_redrawn": len(left)})
        elif self.reset != "keep":
            run.model.load_state_dict(run.state["theta"])


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of everything in the model's state, running statistics included."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def redraw_(model: torch.nn.Module, theta: dict[str, torch.Tensor], generator: torch.Generator) -> list[str]:
    """Draw weights anew as torch's modules draw them, in place; returns the parameters that no module can redraw.

    These, and buffers of other modules, are as in theta. The global generators stay as they were.
    """
    model.load_state_dict(theta)
    devices = {tensor.device for tensor in model.state_dict().values() if tensor.device.type == "cuda"}
    left = []
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for path, module in model.named_modules():
            draw = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(draw):
                draw()
            else:
                left += [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
    return left
