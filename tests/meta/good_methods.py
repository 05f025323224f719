"""Small methods that keep the contract, one or more a driver: what the checks must let pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Masks, Method, Run
from conformance.method.protocol import Decision, Event
from conformance.method.weights import maskable


def facts(name: str, driver: Driver = Driver.POST, data: DataNeed = DataNeed.NONE, **more: Any) -> Facts:
    """Complete facts; the prefix keeps the name apart from all that are registered."""
    return Facts(
        name=f"test-{name}", summary="a method for tests", driver=driver, data=data, paper="made for tests", **more
    )


# -- POST -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Magnitude(Method):
    """Smallest norm first."""

    facts: ClassVar[Facts] = facts("smallest-norm")

    def score(self, run: Run) -> torch.Tensor:
        return run.units.norms()


@dataclass(frozen=True)
class Local(Magnitude):
    """The same share of every axis."""

    facts: ClassVar[Facts] = facts("local")

    @property
    def scope(self):
        return "local"


@dataclass(frozen=True)
class Outputs(Method):
    """Scores by how much the outputs move on unlabelled data when the group alone is zero."""

    facts: ClassVar[Facts] = facts("outputs", data=DataNeed.UNLABELLED)

    def score(self, run: Run) -> torch.Tensor:
        (batch,) = run.data.unlabelled(1, 8)
        leaf = run.model.training
        assert not leaf
        out = _first(run.model(*batch.args, **batch.kwargs))
        gradients = torch.autograd.grad((out**2).sum(), list(run.model.parameters()), allow_unused=True)
        named = dict(zip((name for name, _ in run.model.named_parameters()), gradients, strict=True))
        return run.units.reduce(lambda name, w: _or_zero(named[name], w) * w).abs()


@dataclass(frozen=True)
class Taylor(Method):
    """Scores by weight times gradient of the loss."""

    facts: ClassVar[Facts] = facts("taylor", data=DataNeed.LABELLED)

    def score(self, run: Run) -> torch.Tensor:
        (batch,) = run.data.labelled(1, 8)
        run.data.loss(run.model(*batch.args, **batch.kwargs), batch).backward()
        found = run.units.reduce(lambda name, w: _or_zero(run.model.get_parameter(name).grad, w) * w).abs()
        run.model.zero_grad()
        return found


def _or_zero(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _first(output: Any) -> torch.Tensor:
    return next(leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor))


@dataclass(frozen=True)
class WeightMagnitude(Method):
    """Masks the smallest weights of all matrices together."""

    facts: ClassVar[Facts] = facts("weight-magnitude", granularity="weight", exactness="masked", budgets=("weights",))

    def decide(self, run: Run) -> Decision:
        return smallest_masked(run)


@dataclass(frozen=True)
class Parametrised(WeightMagnitude):
    """Leaves a parametrised weight, which has another name, and says which one it was."""

    facts: ClassVar[Facts] = replace(WeightMagnitude.facts, name="test-parametrised")

    def finalize(self, run: Run, decision: Decision) -> None:
        module = next(one for one in run.model.modules() if isinstance(one, (torch.nn.Linear, torch.nn.Conv2d)))
        torch.nn.utils.parametrize.register_parametrization(module, "weight", torch.nn.Identity())

    def original_key(self, key: str) -> str:
        return key.replace("parametrizations.weight.original", "weight")


def smallest_masked(run: Run) -> Masks:
    """Of all weights that may be masked the smallest, up to the budget's share of them."""
    names = maskable(run.groups.graph, run.limits)
    chosen = {name: run.model.get_parameter(name).detach().abs() for name in names}
    line = torch.cat([w.flatten() for w in chosen.values()])
    gone = torch.zeros(line.numel(), dtype=torch.bool)
    gone[torch.argsort(line, stable=True)[: -int(-run.budget.remove * line.numel() // 1)]] = True
    parts = gone.split([w.numel() for w in chosen.values()])
    return Masks({name: ~part.view(w.shape) for (name, w), part in zip(chosen.items(), parts, strict=True)})


# -- TRAIN ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shrink(Magnitude):
    """Decides half-way by norm; from then on what leaves is shrunk, and put to zero for the last steps."""

    facts: ClassVar[Facts] = facts("shrink", Driver.TRAIN, DataNeed.TRAINING, zeroes=True)

    def on_event(self, event: Event, run: Run) -> None:
        if event != "after_step":
            return
        if run.step == run.total // 2:
            run.state["removed"] = torch.tensor(self.select(run, self.score(run)).removed, dtype=torch.int64)
        if "removed" in run.state:
            self.shrink(run, run.state["removed"].tolist())

    def shrink(self, run: Run, removed: list[int]) -> None:
        if run.step >= run.total - 3:
            run.units.fill_(removed)
            return
        with torch.no_grad():
            for name, dim, at in run.units.rows_of(removed):
                tensor = run.units.tensors[name]
                tensor.index_copy_(dim, at, tensor.index_select(dim, at) * 0.8)

    def decide(self, run: Run) -> Decision:
        return run.groups.select(run.state["removed"].tolist())


class _Projected(torch.optim.Optimizer):
    """SGD or AdamW that after each step scales the rows of some groups by a factor that falls to zero."""

    def __init__(self, run: Run, base: torch.optim.Optimizer, removed: torch.Tensor) -> None:
        self.run, self.base, self.removed, self.taken = run, base, removed, 0
        self.defaults, self.state = base.defaults, base.state
        self.param_groups = base.param_groups

    def step(self, closure: Any = None, *, loss: torch.Tensor) -> None:
        assert loss.ndim == 0
        assert closure is None
        self.base.step()
        self.taken += 1
        left = max(0.0, 1 - self.taken / (self.run.total - 2))
        with torch.no_grad():
            for name, dim, at in self.run.units.rows_of(self.removed.tolist()):
                tensor = self.run.units.tensors[name]
                tensor.index_copy_(dim, at, tensor.index_select(dim, at) * left)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base.state_dict(), "removed": self.removed, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base.load_state_dict(state["base"])
        self.param_groups = self.base.param_groups
        self.removed, self.taken = state["removed"], state["taken"]


@dataclass(frozen=True)
class Projected(Magnitude):
    """Decides by norm before training and projects within a wrapped optimizer."""

    facts: ClassVar[Facts] = facts("projected", Driver.TRAIN, DataNeed.TRAINING, zeroes=True, needs_loss=True)

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        removed = torch.tensor(self.select(run, self.score(run)).removed, dtype=torch.int64)
        return _Projected(run, optimizer, removed)

    def decide(self, run: Run) -> Decision:
        return run.groups.select(run.optimizer.removed.tolist())


@dataclass(frozen=True)
class Penalty(Magnitude):
    """Trains with a penalty on all groups and ranks by norm afterwards."""

    facts: ClassVar[Facts] = facts("penalty", Driver.TRAIN, DataNeed.TRAINING, penalises=True)

    def on_event(self, event: Event, run: Run) -> None:
        if event == "after_backward":
            for item in run.units.members():
                tensor = run.units.tensors[item.name]
                if tensor.grad is not None:
                    tensor.grad.add_(tensor.detach(), alpha=1e-3)


# -- ROUNDS ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ticket(Method):
    """Masks in two rounds, puts the weights back to their first values after each, and holds the masks."""

    facts: ClassVar[Facts] = facts(
        "ticket", Driver.ROUNDS, DataNeed.TRAINING, granularity="weight", exactness="masked", budgets=("weights",),
        zeroes=True,
    )  # fmt: skip
    rounds: int = 2

    def prepare(self, run: Run) -> None:
        run.state["first"] = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

    def on_event(self, event: Event, run: Run) -> None:
        if event == "after_step" and "kept" in run.state:
            Masks(run.state["kept"]).apply_(run.model)
        if event == "round_end":
            run.state["kept"] = smallest_masked(run).kept
            run.model.load_state_dict(run.state["first"])
            Masks(run.state["kept"]).apply_(run.model)

    def decide(self, run: Run) -> Decision:
        return Masks(run.state["kept"])


@dataclass(frozen=True)
class GroupTicket(Magnitude):
    """Trains, ranks by norm, goes back to the first weights, trains again: two rounds."""

    facts: ClassVar[Facts] = facts("group-ticket", Driver.ROUNDS, DataNeed.TRAINING)
    rounds: int = 2

    def prepare(self, run: Run) -> None:
        run.state["first"] = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

    def on_event(self, event: Event, run: Run) -> None:
        if event == "round_end" and run.round < self.rounds:
            run.state["scores"] = self.score(run)
            run.model.load_state_dict(run.state["first"])

    def decide(self, run: Run) -> Decision:
        return self.select(run, run.state["scores"])


# -- SEARCH ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tries(Method):
    """Random candidates that meet the budget; the host keeps the best."""

    facts: ClassVar[Facts] = facts("tries", Driver.SEARCH, DataNeed.LABELLED, equivariant=False, random=True)
    candidates: int = 3

    def propose(self, run: Run, number: int) -> Decision | None:
        if number >= self.candidates:
            return None
        drawn = torch.rand(run.groups.count + 1, generator=run.rng(f"candidate {number}"), dtype=torch.float64)
        return self.select(run, drawn)


GOOD = (
    Magnitude, Local, Outputs, Taylor, WeightMagnitude, Parametrised, Shrink, Projected, Penalty, Ticket, GroupTicket, Tries,
)  # fmt: skip
