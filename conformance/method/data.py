"""The data a method is given, and no more than it declared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from conformance.errors import ConformanceError, UsageError
from conformance.method.protocol import DataNeed, Method
from conformance.method.task import Batch, Split, Task

_LEVELS = tuple(DataNeed)


class DataNeedError(ConformanceError):
    """A method asked for data above the level it declares."""


def with_target(batch: Batch, task: Task, method: Method, need: str) -> Batch:
    """The batch itself. Raises UsageError, with what `method` needs, for one without a target."""
    if batch.target is None:
        raise UsageError(f"{method.name} needs {need}, and the batches of the task {task.name} have no targets")
    return batch


def check_targets(task: Task, method: Method, *, trains: bool) -> None:
    """Raise UsageError when labels are needed, by the method or because the recipe `trains`, and the task has none.

    One training sample is looked at; none for a method that does without labels.
    """
    if trains or _LEVELS.index(method.facts.data) >= _LEVELS.index(DataNeed.LABELLED):
        need = DataNeed.TRAINING if trains else method.facts.data
        with_target(next(task.batches("train", 1)), task, method, need.words)


@dataclass
class Data:
    """A task as a method may use it. Whatever is asked for above the declared level raises DataNeedError.

    Scores and searches see training data; `evaluate` measures on the validation split. The test split is
    never given to a method.
    """

    task: Task | None
    method: Method
    seed: int
    device: torch.device
    used: set[DataNeed] = field(default_factory=set)

    def unlabelled(self, batches: int, size: int = 64) -> list[Batch]:
        """Batches of training inputs without targets, on the run's device, shuffled by the run's seed."""
        self._ask(DataNeed.UNLABELLED)
        return [batch.unlabelled() for batch in self._batches(batches, size)]

    def labelled(self, batches: int, size: int = 64) -> list[Batch]:
        """Batches of training inputs with targets, on the run's device, shuffled by the run's seed.

        Raises UsageError for a task that gives none.
        """
        self._ask(DataNeed.LABELLED)
        return [self._labelled(batch) for batch in self._batches(batches, size)]

    def training(self, size: int = 64) -> Iterator[Batch]:
        """Every training sample once, with targets, on the run's device, in file order and without augmentation.

        The last batch may be smaller, but is no single sample, which a batch norm refuses: batches are of one more
        where it would be. Raises UsageError for a task that gives no targets.
        """
        self._ask(DataNeed.TRAINING)
        assert self.task is not None
        count = self.task.count("train")
        size = min(size, count)
        while size > 1 and count % size == 1:
            size += 1
        for batch in self.task.batches("train", size):
            yield self._labelled(batch).to(self.device)

    def loss(self, output: object, batch: Batch) -> torch.Tensor:
        """The task's mean loss of a labelled batch. Raises UsageError for one without a target."""
        self._ask(DataNeed.LABELLED)
        assert self.task is not None
        return self.task.loss(output, self._labelled(batch).target)

    def evaluate(self, model: torch.nn.Module, split: Split = "validation") -> float:
        """The task's ranking metric on the validation (or training) split; higher is better."""
        self._ask(DataNeed.LABELLED)
        assert self.task is not None
        if split == "test":
            raise DataNeedError(f"{self.method.name} asked for the test split, which no method may see")
        return self.task.evaluate(model, split)[self.task.metric]

    def _ask(self, level: DataNeed) -> None:
        declared = self.method.facts.data
        if _LEVELS.index(level) > _LEVELS.index(declared):
            raise DataNeedError(
                f"{self.method.name} declares {declared.value} ({declared.words}) but asked for {level.words}"
            )
        if self.task is None:
            raise DataNeedError(f"{self.method.name} needs {level.words}: give the run a task")
        self.used.add(level)

    def _labelled(self, batch: Batch) -> Batch:
        assert self.task is not None
        return with_target(batch, self.task, self.method, DataNeed.LABELLED.words)

    def _batches(self, batches: int, size: int) -> list[Batch]:
        assert self.task is not None
        found: list[Batch] = []
        size = min(size, self.task.count("train"))
        for epoch in itertools.count():
            for batch in self.task.batches("train", size, seed=self.seed, epoch=-1 - epoch):
                found.append(batch.to(self.device))
                if len(found) == batches:
                    return found
        raise AssertionError  # the loop above ends


def inputs_of(batch: Batch) -> tuple[tuple[object, ...], dict[str, object]]:
    """Positional and keyword arguments of a batch's forward call."""
    return batch.args, dict(batch.kwargs)
