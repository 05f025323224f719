"""What a model is trained and measured on: batches, a loss and metrics, and how collections of tasks are found.

A task is found by its name under the entry-point group `pruning_conformance.tasks`; an entry is a function
that takes the data folder (None: wherever the task looks by itself) and returns the `Task`. Its further
parameters are the task's options, which a name carries like a query: `fashion-mnist?train=10000&test=2000`.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch.utils import _pytree as pytree

from conformance.backend import Adaptable, Backend
from conformance.errors import UsageError, sentence
from conformance.spec_loader import collection, load, locate

ENTRY_POINT_GROUP = "pruning_conformance.tasks"

DEFAULT = "digits"
"""The task of a run that needs one and names none: its data come with a library that is always there."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Maker = Callable[..., "Task"]
"""make(folder, **options): options are keyword parameters annotated int, float, bool or str (or None beside it)."""


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

    name is what a user types, options included. shape is that of one sample's main input, classes the
    number of outputs a model needs (0 where that has no meaning). metric names the entry of `evaluate` that
    ranks, higher is better. digest identifies the data (a hash of what was read and how it was split).
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
        """Mean loss of a batch, a scalar that can be differentiated.

        Raises UsageError for an output of another shape than the task judges.
        """
        ...

    def evaluate(self, model: torch.nn.Module, split: Split = "test", size: int = 256) -> dict[str, float]:
        """Metrics of the model in eval mode, without gradients; the model's modes are restored."""
        ...


def tasks() -> dict[str, EntryPoint]:
    """All registered tasks by name; nothing is imported or read yet."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def load_task(name: str, folder: Path | None = None) -> Task:
    """The task of that name, with its data in `folder` (None: where the task looks by itself).

    Options follow the name as in `digits?train=500&test=100`. Raises UsageError with near matches for an
    unknown name or option, for a value of the wrong kind, and for data that cannot be had.
    """
    base, _, query = name.partition("?")
    known = tasks()
    if base not in known:
        near = difflib.get_close_matches(base, list(known), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(sorted(known))}"
        raise UsageError(f"there is no task named {base!r}{hint}")
    try:
        make: Maker = known[base].load()
    except Exception as error:
        raise UsageError(f"the task {base} cannot be used: {sentence(error)}") from error
    return make(folder, **parsed_options(base, query, make))


def parsed_options(base: str, query: str, make: Maker) -> dict[str, Any]:
    """The keyword arguments of `make` that `key=value&key=value` stands for, each of its parameter's type.

    Raises UsageError for a key that `make` has not, a key said twice, and a value of another type.
    """
    parameters = list(inspect.signature(make, eval_str=True).parameters.values())[1:]
    kinds = {parameter.name: parameter.annotation for parameter in parameters}
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, equals, text = part.partition("=")
        if not equals or not text:
            raise UsageError(f"{part!r} is no option of a task: write {base}?KEY=VALUE&KEY=VALUE")
        if key not in kinds:
            raise UsageError(f"the task {base} has no option {key!r}; there are {', '.join(sorted(kinds)) or 'none'}")
        if key in options:
            raise UsageError(f"the option {key} of the task {base} is given twice")
        options[key] = _value(base, key, text, kinds[key])
    return options


def _value(base: str, key: str, text: str, annotation: Any) -> Any:
    """The text as the first type of the annotation that is not None."""
    kind = next((part for part in typing.get_args(annotation) if part is not type(None)), annotation)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text]
        return kind(text)
    except (KeyError, ValueError) as error:
        wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
        raise UsageError(f"the option {key} of the task {base} is {wanted}, not {text!r}") from error


def spelled(base: str, **options: Any) -> str:
    """The name with its options, those of None left out: what `load_task` reads back."""
    said = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
    query = "&".join(f"{key}={value}" for key, value in said.items() if value is not None)
    return f"{base}?{query}" if query else base


def backend_for(spec: str, task: Task) -> Backend:
    """The record of the model `spec` names, for inputs and outputs of the task.

    A collection that can adapt its models does; any other record is taken as it is. Either way the model
    is built and run once on two test samples. Raises UsageError saying what does not fit.
    """
    kind, left, right = locate(spec)
    source: object = collection(left) if kind == "collection" else None
    backend = source.adapted(right, task.shape, task.classes) if isinstance(source, Adaptable) else load(spec)
    if reason := _misfit(backend, task):
        raise UsageError(f"{spec} does not fit the task {task.name}: {reason}")
    return backend


def _misfit(backend: Backend, task: Task) -> str:
    """Why the model cannot be trained on the task; empty when it can."""
    leaves = pytree.tree_leaves(backend.inputs(2, torch.Generator().manual_seed(0)))
    shape = next((tuple(leaf.shape[1:]) for leaf in leaves if isinstance(leaf, torch.Tensor)), ())
    if shape != tuple(task.shape):
        return f"its inputs have the shape {shape}, those of the task {tuple(task.shape)}"
    batch = next(task.batches("test", 2))
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            task.loss(backend.build().eval()(*batch.args, **batch.kwargs), batch.target)
    except UsageError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever foreign code raises on this batch is the reason
        return f"it does not run on a batch: {sentence(error)}"
    return ""
