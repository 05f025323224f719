"""Runs any method on any model and task: one entry, four drivers, one result."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conformance.equivalence.compare import equivalent
from conformance.equivalence.verdict import Verdict
from conformance.errors import ConformanceError, UsageError
from conformance.graph.tape import as_arguments
from conformance.graph.trace import trace
from conformance.method.budget import Budget, Ceiling, Cost, Kind
from conformance.method.data import Data, check_targets
from conformance.method.history import History
from conformance.method.ladder import Limits
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed, Decision, Driver, Method
from conformance.method.reach import check_reach
from conformance.method.recipe import Recipe
from conformance.method.run import Row, Run
from conformance.method.search import search
from conformance.method.task import Task
from conformance.method.timing import in_turns
from conformance.method.together import rank
from conformance.method.train import DENSE, FINETUNE, Keeper, Progress, train
from conformance.method.units import Units, units
from conformance.partition.build import partition
from conformance.partition.selection import Selection
from conformance.subnet.extract import candidates
from conformance.subnet.zero import zero_


class NotExactlyZero(ConformanceError):  # noqa: N818 - reads as what is wrong
    """A method says a group has left, but its slices are not zero in the model it trained."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    model is the full-size model with the decision at zero; subnet the smaller one (for masks: the model).
    budget is the share that was to leave, worked out from what might be left where that was asked for. removed gives
    the share of groups, parameters and multiply-adds that left, and of the measured latency where the budget is of
    that (for masks: of weights); metrics the task's figures by stage: `before` (as given, after dense training if
    any), `masked`, `subnet`, and `finetuned` where the recipe says so. verdict is the field oracle's on model and
    subnet (None for masks: there is no subnet). seconds add up by part of the run. state is what the method kept in
    `run.state`.
    """

    method: Method
    budget: Budget
    seed: int
    decision: Decision
    model: torch.nn.Module
    subnet: torch.nn.Module
    removed: dict[str, float]
    verdict: Verdict | None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    data_used: tuple[str, ...] = ()
    history: tuple[Row, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the result is what it says: the subnet proved equal, or every masked weight exactly zero."""
        if isinstance(self.decision, Masks):
            return self.decision.holds(self.model)
        return self.verdict is not None and self.verdict.equal


@dataclass(frozen=True)
class Plan:
    """A run at its decision: run.model is as the method left it, with nothing put to zero by the host."""

    run: Run
    decision: Decision
    history: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Options:
    """How a run is made; what is not about method, model or data.

    folder is where its state is kept, every so many seconds of training. With keep it stays when the run ends: who
    writes the result down removes it afterwards (`conformance.method.train.clear`).
    """

    seed: int = 0
    device: str = "cpu"
    folder: Path | None = None
    every: float = 60.0
    keep: bool = False
    carry: str = "auto"
    measure: bool = True


def run(
    method: Method,
    model: torch.nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    budget: Budget | Ceiling,
    task: Task | None = None,
    recipe: Recipe | None = None,
    limits: Limits | None = None,
    options: Options | None = None,
    progress: Progress = lambda what, done, total: None,  # noqa: ARG005
) -> Result:
    """Prune a copy of `model` and return everything about it. The caller's model and generators stay as they were.

    args and kwargs are example inputs for tracing. A run with a folder keeps its state there and, when it was
    interrupted, goes on bit for bit where it stopped.

    Raises UsageError for a budget that the method does not take or cannot reach, a task that is missing or has no
    targets where they are needed, and a folder of another run; TrainingError for a loss that is not finite;
    DataNeedError for a method that asks for more than it declares; NotExactlyZero for one whose zeros are not.
    """
    with _decided_run(
        method,
        model,
        args,
        kwargs,
        budget,
        task,
        recipe or Recipe(),
        limits or Limits(),
        options or Options(),
        progress,
    ) as found:
        return _finish(found, task, progress)


def plan(
    method: Method,
    model: torch.nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    budget: Budget | Ceiling,
    task: Task | None = None,
    recipe: Recipe | None = None,
    limits: Limits | None = None,
    options: Options | None = None,
    progress: Progress = lambda what, done, total: None,  # noqa: ARG005
) -> Plan:
    """The part of `run` that ends with the decision: nothing is put to zero, no subnet is built or measured.

    Raises as `run` does, but for what comes after the decision.
    """
    with _decided_run(
        method,
        model,
        args,
        kwargs,
        budget,
        task,
        recipe or Recipe(),
        limits or Limits(),
        options or Options(),
        progress,
    ) as found:
        found.keeper.clear()
        return Plan(found.run, found.decision, tuple(found.history.rows))


@dataclass(frozen=True)
class _Decided:
    """A run at its decision."""

    run: Run
    decision: Decision
    keeper: Keeper
    keep: bool
    clock: _Clock
    metrics: dict[str, dict[str, float]]
    history: History


@contextlib.contextmanager
def _decided_run(
    method: Method,
    model: torch.nn.Module,
    args: Any,
    kwargs: dict[str, Any] | None,
    budget: Budget | Ceiling,
    task: Task | None,
    recipe: Recipe,
    limits: Limits,
    options: Options,
    progress: Progress,
) -> Iterator[_Decided]:
    """Everything up to the decision; torch's generators are the run's own until the block ends."""
    if budget.kind not in method.facts.budgets:
        raise UsageError(f"{method.name} takes budgets in {', '.join(method.facts.budgets)}, not {budget.kind}")
    if task is None and method.facts.data is not DataNeed.NONE:
        raise UsageError(f"{method.name} needs {method.facts.data.words}: give it a task")
    device = torch.device(options.device)
    devices = [device] if device.type == "cuda" else []
    clock = _Clock()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(options.seed)
        made = prepare(method, model, as_arguments(args), kwargs or {}, budget, task, recipe, limits, options)
        # Before anything is written: the same folder takes the smaller budget that is asked for next.
        check_reach(made.budget, made.groups, made.cost, limits, budget if isinstance(budget, Ceiling) else None)
        history = History(options.folder, writes=rank() == 0)
        made.log, made.watched = history.add, options.measure
        keeper = Keeper(options.folder, _key(method, made, budget, task, recipe, limits, options), options.every)
        metrics = {}
        if task is not None and options.measure:
            check_targets(task, method, trains=bool(recipe.dense_epochs or recipe.finetune_epochs))
        if task is not None and made.recipe.dense_epochs:
            epochs = made.recipe.dense_epochs
            clock("dense", lambda: train(made, task, DENSE, epochs=epochs, keeper=keeper, progress=progress))
        if task is not None and options.measure:
            metrics["before"] = clock("evaluate", lambda: task.evaluate(made.model))
        method.prepare(made)
        clock("method", lambda: drive(made, task, keeper, progress))
        searches = method.facts.driver is Driver.SEARCH
        decision = clock("decide", lambda: search(made, keeper, progress) if searches else method.decide(made))
        yield _Decided(made, decision, keeper, options.keep, clock, metrics, history)


def prepare(
    method: Method,
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    budget: Budget | Ceiling,
    task: Task | None,
    recipe: Recipe,
    limits: Limits,
    options: Options,
) -> Run:
    """The run's context: a copy of the model on its device, traced and partitioned."""
    device = torch.device(options.device)
    own = copy.deepcopy(model).to(device).eval()
    groups = partition(trace(own, args, kwargs), carry=options.carry)
    if not groups.count and method.facts.granularity == "group":
        raise UsageError("no group was found: nothing of this model can be pruned exactly")
    cost = Cost(groups, lambda choice: _latency(made, choice, args, kwargs))
    made = Run(
        method=method,
        model=own,
        groups=groups,
        units=units(own, groups),
        cost=cost,
        budget=budget.share(cost) if isinstance(budget, Ceiling) else budget,
        limits=limits,
        recipe=recipe,
        data=Data(task, method, options.seed, device),
        seed=options.seed,
        device=device,
    )
    return made


def drive(run: Run, task: Task | None, keeper: Keeper, progress: Progress) -> None:
    """The part before the decision: training, rounds of it, or nothing."""
    method, recipe = run.method, run.recipe
    if method.facts.driver is Driver.TRAIN:
        assert task is not None
        train(run, task, "train", epochs=recipe.epochs, keeper=keeper, progress=progress)
    elif method.facts.driver is Driver.ROUNDS:
        assert task is not None
        for run.round in range(1, method.trainings + 1):
            method.on_event("round_start", run)
            train(run, task, f"round-{run.round}", epochs=recipe.epochs, keeper=keeper, progress=progress)
            method.on_event("round_end", run)


def _finish(found: _Decided, task: Task | None, progress: Progress) -> Result:
    """Zero, build the subnet, prove it, measure."""
    run, decision, keeper, clock = found.run, found.decision, found.keeper, found.clock
    metrics, history, method = found.metrics, found.history, run.method
    if isinstance(decision, Selection):
        if method.facts.zeroes:
            check_zero(run, decision)
        zero_(run.model, decision)
    else:
        decision.apply_(run.model)
    method.finalize(run, decision)
    run.model.eval()
    full = run.model
    graph = run.groups.graph
    verdict, subnet = None, full
    if isinstance(decision, Selection):
        subnet = clock("extract", lambda: run.subnet(decision)).eval()
        verdict = clock("verify", lambda: equivalent(full, subnet, graph.args, graph.kwargs, oracle="field"))
    if task is not None and metrics:
        metrics["masked"] = clock("evaluate", lambda: task.evaluate(full))
        metrics["subnet"] = clock("evaluate", lambda: task.evaluate(subnet))
    if run.recipe.finetune_epochs and task is not None:
        full = copy.deepcopy(full)
        run.model = subnet
        rate = run.recipe.finetune_rate
        epochs = run.recipe.finetune_epochs
        masks = decision if isinstance(decision, Masks) else None
        clock(
            "finetune",
            lambda: train(run, task, FINETUNE, epochs=epochs, keeper=keeper, progress=progress, lr=rate, masks=masks),
        )
        if metrics:
            metrics["finetuned"] = clock("evaluate", lambda: task.evaluate(subnet))
    if not found.keep:
        keeper.clear()
    return Result(
        method=method,
        budget=run.budget,
        seed=run.seed,
        decision=decision,
        model=full,
        subnet=subnet,
        removed=_removed(run, decision),
        verdict=verdict,
        metrics=metrics,
        seconds=clock.seconds,
        data_used=tuple(sorted(level.value for level in run.data.used)),
        history=tuple(history.rows),
        state=run.state,
    )


def check_zero(run: Run, decision: Selection) -> None:
    """Raise NotExactlyZero unless every slice of every removed group is zero already."""
    wrong = nonzero(run.units, decision)
    if wrong.size:
        raise NotExactlyZero(
            f"{run.method.name} removed {len(decision)} groups, of which {wrong.size} are not zero after training, the "
            f"first is group {wrong[0]}"
        )


def nonzero(units: Units, choice: Selection) -> npt.NDArray[np.int64]:
    """Numbers of the groups of `choice` that are not zero yet. Entries are counted: squares of small ones vanish."""
    entries = units.reduce(lambda _, tensor: (tensor != 0).to(torch.float64)).cpu().numpy()
    removed = np.asarray(choice.removed, dtype=np.int64)
    return removed[entries[removed] > 0]


def _removed(run: Run, decision: Decision) -> dict[str, float]:
    if isinstance(decision, Masks):
        return {"weights": run.cost.removed("weights", decision)}
    kinds: list[Kind] = ["groups", "params", "macs"]
    if run.budget.kind == "latency":
        kinds.append("latency")
    return {kind: run.cost.removed(kind, decision) for kind in kinds}


def _latency(run: Run, choice: Selection, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    # What is only timed need not be proved: the subnet of the final choice is.
    dense, subnet = (copy.deepcopy(module).eval() for module in (run.model, next(candidates(run.model, choice)).module))
    with torch.no_grad():
        one, other = in_turns(lambda: dense(*args, **kwargs), lambda: subnet(*args, **kwargs), turns=101, seconds=1.0)
    return float(np.median(other / one))


def _key(
    method: Method,
    run: Run,
    budget: Budget | Ceiling,
    task: Task | None,
    recipe: Recipe,
    limits: Limits,
    options: Options,
) -> str:
    """What must be the same for a checkpoint to be of the same run, a line each."""
    lines = {
        "method": f"{method.name} {json.dumps(method.options, sort_keys=True, default=str)}",
        "groups": run.groups.fingerprint,
        "budget": str(budget),
        "task": None if task is None else f"{task.name} {task.digest}",
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
        "limits": json.dumps(asdict(limits), sort_keys=True),
        "seed": options.seed,
        "device": options.device,
    }
    return "\n".join(f"{name} {value}" for name, value in lines.items())


class _Clock:
    """Adds up seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return function()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
