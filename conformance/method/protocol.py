"""What a pruning method is: what it declares, and the six hooks a host calls.

A method is a frozen dataclass that derives from `Method`; its fields are its options. It is found by name
under the entry-point group `pruning_conformance.methods`. Only what differs from the defaults is written.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from conformance.method.budget import KINDS, Kind, solve
from conformance.method.ladder import Scope, ladder
from conformance.method.masks import Masks
from conformance.partition.selection import Selection

if TYPE_CHECKING:
    from conformance.method.run import Run

Decision = Selection | Masks
"""What a method decides: groups that leave, or weights that are zero in a model that keeps its shape."""

Event = Literal["epoch_start", "epoch_end", "after_backward", "after_step", "round_start", "round_end"]


class Driver(StrEnum):
    """Who loops: inside one training run; score, select, done; train-prune-reset rounds; propose and evaluate."""

    TRAIN = "train"
    POST = "post"
    ROUNDS = "rounds"
    SEARCH = "search"


class DataNeed(StrEnum):
    """What a method must be given beyond the model: each level includes the ones above it."""

    NONE = "D0"
    UNLABELLED = "D1"
    LABELLED = "D2"
    TRAINING = "D3"

    @property
    def words(self) -> str:
        """For messages."""
        return {"D0": "no data", "D1": "unlabelled batches", "D2": "labelled batches", "D3": "training"}[self.value]


@dataclass(frozen=True)
class Facts:
    """What a method declares of itself; the contract holds it to this.

    granularity: `group` (coupled structures leave) or `weight` (single weights are masked).
    exactness: `exact` where the subnet computes what the full model with zeroed slices computes;
    `masked` where the full-size model with its masks is the result. paper: authors, title, venue, year, and
    whether the method is as published or reconstructed. budgets: the kinds it takes. equivariant: renumbering
    channels renumbers the decision (not so for what draws by position). zeroes: training itself ends with
    exact zeros in all that leaves. needs_loss: the wrapped optimizer's step wants `loss=`, this step's loss.
    random: the decision is drawn, so that another seed gives another one. penalises: training differs from the
    base optimizer's even where nothing is to leave (a penalty on all scales, an objective or parameters of its
    own). removes: False for a control, which takes a budget of 0 only. requires: what a model must have for this
    method, in words ("batch norms"); with a model that has none of it the method raises UnsuitedError.
    """

    name: str
    summary: str
    driver: Driver
    data: DataNeed
    paper: str
    granularity: Literal["group", "weight"] = "group"
    exactness: Literal["exact", "masked"] = "exact"
    budgets: tuple[Kind, ...] = KINDS
    equivariant: bool = True
    zeroes: bool = False
    needs_loss: bool = False
    random: bool = False
    penalises: bool = False
    removes: bool = True
    requires: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError when the budgets do not fit the granularity."""
        if any((kind == "weights") != (self.granularity == "weight") for kind in self.budgets):
            raise ValueError(
                f"{self.name}: `weights` is the budget of methods that mask single weights, and of no other"
            )


@dataclass(frozen=True)
class Method:
    """Base of all methods: hooks that do nothing, and a selector that ranks by score.

    A host calls, in this order: prepare once; for TRAIN and each of ROUNDS wrap_optimizer and then on_event
    during training; score and select (SEARCH: propose and evaluate in place of both); finalize last. A
    method keeps what must survive an interruption in `run.state` or in its optimizer's state_dict.
    """

    facts: ClassVar[Facts]

    @property
    def name(self) -> str:
        """As it is registered."""
        return self.facts.name

    @property
    def options(self) -> dict[str, Any]:
        """The options by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def scope(self) -> Scope:
        """Among which groups scores are compared, unless an option says otherwise."""
        return "global"

    @property
    def trainings(self) -> int:
        """ROUNDS: how often the model is trained; what the option `rounds` says, unless a method needs more."""
        return int(getattr(self, "rounds", 1))

    def begins(self, run: Run) -> tuple[int, float | None]:
        """For each training: the step of `run.total` it begins at, and the base rate (None: the recipe's).

        Data, schedule and counters are those of that step, as if what comes before it had been trained.
        """
        del run
        return 0, None

    def prepare(self, run: Run) -> None:
        """Look at `run` before anything is trained. `run.model` may be changed in place."""

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer to train with; `optimizer` is the recipe's own, over the model's parameters.

        One with an attribute `zero_groups`, the numbers of the groups that have left so far, has its sparsity told at
        every step of the history; of others it is measured at the end of every epoch.
        """
        del run
        return optimizer

    def on_event(self, event: Event, run: Run) -> None:
        """Called at each `Event`; gradients may be edited at after_backward, parameters at after_step."""

    def score(self, run: Run) -> torch.Tensor:
        """One figure a group, shape (count + 1,), entry 0 unused; low leaves first."""
        raise NotImplementedError(f"{type(self).__name__} neither scores groups nor selects")

    def select(self, run: Run, scores: torch.Tensor) -> Decision:
        """What leaves: by default the lowest scores of the scope, up to the budget.

        Raises UsageError when the budget cannot be reached.
        """
        steps = ladder(run.groups, scores, scope=self.scope, limits=run.limits)
        return steps.selection(solve(steps, run.budget, run.cost))

    def propose(self, run: Run, number: int) -> Decision | None:
        """SEARCH only: candidate `number` (from 0), or None when there are no more."""
        del run, number
        return None

    def decide(self, run: Run) -> Decision:
        """What leaves: TRAIN methods that decide while they train say here what it came to."""
        run.scores = self.score(run)
        return self.select(run, run.scores)

    def finalize(self, run: Run, decision: Decision) -> None:
        """Change `run.model` (the full-size model, with its decision at zero) before the subnet is built."""

    def original_key(self, key: str) -> str:
        """The name in the caller's state_dict of entry `key` of the result's; two keys never have one name."""
        return key
