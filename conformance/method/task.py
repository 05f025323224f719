"""What a model is trained and measured on: batches, a loss and metrics, and how collections of tasks are found.

A task is found by its name under the entry-point group `pruning_conformance.tasks`; an entry is a function
that takes the data folder (None: wherever the task looks by itself) and returns the `Task`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch.utils import _pytree as pytree

from conformance.errors import UsageError, sentence

ENTRY_POINT_GROUP = "pruning_conformance.tasks"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Maker = Callable[[Path | None], "Task"]


@dataclass(frozen=True)
class Batch:
    """The arguments of one forward call and what it should give; target is None where labels are withheld."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    def unlabelled(self) -> Batch:
        """The same inputs without the target."""
        return replace(self, target=None)

    def to(self, device: torch.device | str) -> Batch:
        """All tensors on `device`."""
        args, kwargs, target = pytree.tree_map_only(
            torch.Tensor, lambda leaf: leaf.to(device), (self.args, dict(self.kwargs), self.target)
        )
        return Batch(args, kwargs, target)

    @property
    def size(self) -> int:
        """Samples: the first dimension of the first tensor argument."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return int(next(leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor)))


@runtime_checkable
class Task(Protocol):
    """Data with a loss and metrics. An instance holds no random state: every order comes from (seed, epoch).

    name is what a user types. shape is that of one sample's main input, classes the number of outputs a
    model needs (0 where that has no meaning). metric names the entry of `evaluate` that ranks, higher is
    better. digest identifies the data (a hash of what was read and how it was split).
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    metric: str
    digest: str

    def count(self, split: Split) -> int:
        """Samples in a split. `validation` is taken off the training data, never off the test data."""
        ...

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """The split in batches of `size` on the CPU.

        seed None: in file order, without augmentation, the last batch may be smaller. Otherwise shuffled and
        augmented by (seed, epoch) alone, and a last batch that is not full is left out.
        """
        ...

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Mean loss of a batch, a scalar that can be differentiated."""
        ...

    def evaluate(self, model: torch.nn.Module, split: Split = "test", size: int = 256) -> dict[str, float]:
        """Metrics of the model in eval mode, without gradients; the model's modes are restored."""
        ...


def tasks() -> dict[str, EntryPoint]:
    """All registered tasks by name; nothing is imported or read yet."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def load_task(name: str, folder: Path | None = None) -> Task:
    """The task of that name, with its data in `folder` (None: where the task looks by itself).

    Raises UsageError with near matches for an unknown name, and for data that cannot be had.
    """
    known = tasks()
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(sorted(known))}"
        raise UsageError(f"there is no task named {name!r}{hint}")
    try:
        make: Maker = known[name].load()
    except Exception as error:
        raise UsageError(f"the task {name} cannot be used: {sentence(error)}") from error
    return make(folder)
