"""The training loop all methods share: events, clipping, mixed precision, checkpoints, several processes."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conformance.errors import ConformanceError, UsageError
from conformance.method.data import with_target
from conformance.method.interrupt import held
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed
from conformance.method.run import Run
from conformance.method.store import load_tree, save_tree
from conformance.method.task import Batch, Task
from conformance.method.together import distributed, mean, rank, share, whole_batches

Progress = Callable[[str, int, int], None]


class TrainingError(ConformanceError):
    """Training cannot go on: the loss is not a number, or the data does not fill a batch."""


@dataclass(frozen=True)
class Keeper:
    """Where a run's state is kept, one file a phase. key says what must be the same for one to be resumed."""

    folder: Path | None
    key: str
    every: float = 60.0

    def path(self, phase: str) -> Path | None:
        """The checkpoint's file."""
        return None if self.folder is None else self.folder / f"checkpoint-{phase}.safetensors"

    def load(self, phase: str) -> dict[str, Any] | None:
        """The saved state, None where there is none. Raises UsageError when it is of another run."""
        path = self.path(phase)
        if path is None or not path.exists():
            return None
        found: dict[str, Any] = load_tree(path)
        if found["key"] != self.key:
            raise UsageError(
                f"{path} is of another run: {_difference(found['key'], self.key)}; give this one a folder of its own"
            )
        return found

    def save(self, phase: str, tree: dict[str, Any]) -> None:
        """Replace the checkpoint, on the first process only."""
        path = self.path(phase)
        if path is not None and rank() == 0:
            save_tree(path, {"key": self.key, **tree})

    def clear(self) -> None:
        """Remove every checkpoint: the run has its result."""
        if self.folder is not None and rank() == 0:
            clear(self.folder)


def clear(folder: Path) -> None:
    """Remove every checkpoint in `folder`."""
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink()


def _difference(one: str, other: str) -> str:
    """The first line in which two keys differ."""
    for mine, theirs in zip(one.splitlines(), other.splitlines(), strict=False):
        if mine != theirs:
            return "it has {}, this one {}".format(*_differing(mine, theirs))
    return "it has other options"


def _differing(one: str, other: str) -> tuple[str, str]:
    """Two lines of a key; of a table, such as a recipe, the entries alone that are not the same in both."""
    (name, mine), (_, theirs) = (line.split(" ", 1) for line in (one, other))
    if not (mine.startswith("{") and theirs.startswith("{")):
        return one, other
    tables = json.loads(mine), json.loads(theirs)
    wrong = [key for key in {**tables[0], **tables[1]} if tables[0].get(key) != tables[1].get(key)]
    first, second = (", ".join(f"{key}={table.get(key)}" for key in wrong) for table in tables)
    return f"{name} {first}", f"{name} {second}"


def train(
    run: Run,
    task: Task,
    phase: str,
    *,
    epochs: int,
    keeper: Keeper,
    progress: Progress,
    lr: float | None = None,
    masks: Masks | None = None,
) -> None:
    """Train `run.model` for one phase; a phase that a checkpoint has finished, or half of one, is not repeated.

    masks are held through every step: what they do not keep stays zero.

    Raises TrainingError, with the step, for a loss that is not finite, and UsageError for a batch without a target.
    A keeper with a folder has the state before that step then, unless its weights were no numbers already; after
    Ctrl-C it has that after the last whole step.
    """
    recipe, method = run.recipe, run.method
    if phase not in PLAIN:
        run.data.used.add(DataNeed.TRAINING)
    saved = keeper.load(phase)
    per_epoch = task.count("train") // recipe.batch
    if per_epoch == 0:
        samples = task.count("train")
        raise TrainingError(f"{task.name} has {samples} training samples, less than a batch of {recipe.batch}")
    total = epochs * per_epoch
    if recipe.steps is not None and phase not in PLAIN:
        total = min(total, recipe.steps) if epochs else recipe.steps
    run.phase, run.epoch, run.step, run.total = phase, 0, 0, total
    if saved is not None and saved["finished"]:
        restore(run, saved)
        run.step, run.epoch = saved["step"], saved["step"] // per_epoch
        return
    start, rate = (0, None) if phase in PLAIN else method.begins(run)
    run.step, run.epoch = start, start // per_epoch
    base = recipe.base_optimizer(run.model, lr if rate is None else rate)
    run.optimizer = base if phase in PLAIN else method.wrap_optimizer(run, base)
    schedule = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: recipe.factor(start + step, total))
    scaler = torch.amp.GradScaler(run.device.type, enabled=recipe.amp == "float16" and run.device.type == "cuda")
    if saved is not None:
        restore(run, saved)
        run.optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        scaler.load_state_dict(saved["scaler"])
        run.step, run.epoch = saved["step"], saved["step"] // per_epoch
    wrapped = distributed(run.model)
    wrapped.train()
    last_save = time.monotonic()

    def checkpoint(*, finished: bool, began: bool = False) -> None:
        if not finished and not _finite(run.model):
            return  # a state that training has ruined must not replace one that it can go on from
        keeper.save(
            phase,
            {
                "finished": finished,
                "began": began,
                "step": run.step,
                "optimizer": None if finished or run.optimizer is None else run.optimizer.state_dict(),
                "schedule": _plain(schedule.state_dict()),
                "scaler": scaler.state_dict(),
                **state_of(run),
            },
        )

    events = phase not in PLAIN
    keeps = keeper.folder is not None
    # A checkpoint of a step that failed was made when the method had seen its epoch start.
    began = saved is not None and saved.get("began", False)
    with held(hold=keeps) as interrupted, whole_batches():
        for batch in _batches(run, task, per_epoch):
            if interrupted():
                checkpoint(finished=False)
                raise KeyboardInterrupt
            progress(phase, run.step, total)
            if events and run.step % per_epoch == 0 and not began:
                method.on_event("epoch_start", run)
            began = False
            run.batch = with_target(batch, task, method, DataNeed.TRAINING.words).to(run.device)
            before = _Moved.of(run) if keeps else None
            loss = _loss(wrapped, task, run.batch, recipe.computing(run.device))
            run.loss = mean(loss.detach())
            if not math.isfinite(float(run.loss)):
                if before is not None:
                    before.put_back(run)
                    checkpoint(finished=False, began=True)
                raise TrainingError(
                    f"the loss is {float(run.loss)} at step {run.step} of {phase}{_kept(keeper, phase)}"
                )
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            del loss  # and its graph
            scaler.unscale_(run.optimizer)
            if events:
                method.on_event("after_backward", run)
            if masks is not None:
                masks.still_(run.model)
            if recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
            extra = {"loss": run.loss} if method.facts.needs_loss and events else {}
            scaler.step(run.optimizer, **extra)
            scaler.update()
            if events:
                method.on_event("after_step", run)
            if masks is not None:
                masks.apply_(run.model)
            run.optimizer.zero_grad(set_to_none=True)
            schedule.step()
            told = {"loss": float(run.loss), "lr": run.optimizer.param_groups[0]["lr"], **_left(run)}
            run.log({"phase": phase, "step": run.step, **told})
            run.step += 1
            if run.step % per_epoch == 0:
                run.epoch += 1
                if events:
                    method.on_event("epoch_end", run)
            if run.watched and (run.step % per_epoch == 0 or run.step == total):
                run.log({"phase": phase, "step": run.step - 1, **_watched(run, task, phase)})
            if time.monotonic() - last_save >= keeper.every and run.step < total:
                checkpoint(finished=False)
                last_save = time.monotonic()
        run.model.eval()
        checkpoint(finished=True)
        if interrupted():
            raise KeyboardInterrupt
    progress(phase, total, total)


DENSE, FINETUNE = "dense", "finetune"
PLAIN = (DENSE, FINETUNE)
"""Phases that train by the plain recipe, without the method: the model before it, the subnet after it."""


def _batches(run: Run, task: Task, per_epoch: int) -> Iterator[Batch]:
    """This process's share of every batch from `run.step` on."""
    while run.step < run.total:
        epoch, skip = divmod(run.step, per_epoch)
        for number, batch in enumerate(task.batches("train", run.recipe.batch, seed=run.seed, epoch=epoch)):
            if number >= skip:
                yield share(batch)
                if run.step >= run.total:
                    return


def _watched(run: Run, task: Task, phase: str) -> dict[str, float]:
    """What a curve shows beside the loss: validation figures, and the share of groups that are exactly zero."""
    seen = {f"validation_{name}": figure for name, figure in task.evaluate(run.model, "validation").items()}
    if phase != FINETUNE and run.groups.count:
        seen["sparsity"] = float((run.units.norms()[1:] == 0).double().mean())
    return seen


def _left(run: Run) -> dict[str, float]:
    """The share of groups that the optimizer says have left, where it says so: they can all leave in one step."""
    left = getattr(run.optimizer, "zero_groups", None)
    return {} if left is None or not run.groups.count else {"sparsity": len(left) / run.groups.count}


def _loss(
    model: torch.nn.Module, task: Task, batch: Batch, computing: contextlib.AbstractContextManager[object]
) -> torch.Tensor:
    with computing:
        output = model(*batch.args, **batch.kwargs)
        return task.loss(output, batch.target)


@dataclass(frozen=True)
class _Moved:
    """What a forward pass in training moves: buffers, such as running statistics, and torch's generators."""

    buffers: list[torch.Tensor]
    random: dict[str, torch.Tensor]

    @classmethod
    def of(cls, run: Run) -> _Moved:
        return cls([buffer.detach().clone() for buffer in run.model.buffers()], _random(run))

    def put_back(self, run: Run) -> None:
        with torch.no_grad():
            for buffer, value in zip(run.model.buffers(), self.buffers, strict=True):
                buffer.copy_(value)
        _seed(run, self.random)


def _finite(model: torch.nn.Module) -> bool:
    """Whether every trained weight is a number."""
    return all(bool(weight.isfinite().all()) for weight in model.parameters() if weight.requires_grad)


def _kept(keeper: Keeper, phase: str) -> str:
    """What can be gone on from, for the message of a training that failed."""
    path = keeper.path(phase)
    if path is None or not path.exists():
        return ""
    return f"; the state before is in {path}: the same run goes on from there, one of another recipe needs a new folder"


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's state without its functions."""
    return {key: value for key, value in state.items() if key != "lr_lambdas"} | {"lr_lambdas": [None]}


def state_of(run: Run) -> dict[str, Any]:
    """Everything of the run that training changes."""
    state: dict[str, Any] = {
        "model": run.model.state_dict(),
        "state": run.state,
        "round": run.round,
    }
    return state | _random(run)


def _random(run: Run) -> dict[str, torch.Tensor]:
    """The states of torch's generators."""
    found = {"random": torch.get_rng_state()}
    if run.device.type == "cuda":
        found["random_cuda"] = torch.cuda.get_rng_state(run.device)
    return found


def _seed(run: Run, random: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(random["random"])
    if "random_cuda" in random:
        torch.cuda.set_rng_state(random["random_cuda"], run.device)


def restore(run: Run, saved: dict[str, Any]) -> None:
    """Make the run what it was when `state_of` gave `saved`."""
    run.model.load_state_dict(saved["model"])
    run.state = saved["state"]
    run.round = saved["round"]
    _seed(run, saved)
