"""A task made of any model's own inputs, which notices what is read of it.

Inputs are drawn as the backend draws them, targets are random classes that stay fixed: nothing there can be
learned that would generalise, and nothing of a method's contract needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch.utils import _pytree as pytree

from conformance.backend import Inputs
from conformance.errors import UsageError
from conformance.graph.tape import tensors_in
from conformance.method.task import Batch, Split

ROWS: dict[Split, int] = {"train": 48, "validation": 16, "test": 16}
_TOTAL = sum(ROWS.values())


@dataclass
class Seen:
    """What was asked of a task: `batches train`, `loss`, `evaluate validation`; and how labels were read."""

    asked: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)

    @property
    def splits(self) -> set[str]:
        """The splits that were asked for."""
        return {what.partition(" ")[2] for what in self.asked} - {""}


class Labels(torch.Tensor):
    """Targets: whoever looks at their values is noted. Moving them, cutting rows and asking sizes is free."""

    _seen: Seen

    @classmethod
    def of(cls, tensor: torch.Tensor, seen: Seen) -> Labels:
        """The tensor as labels."""
        made = tensor.as_subclass(cls)
        made._seen = seen
        return made

    def plain(self) -> torch.Tensor:
        """The values, for the task itself."""
        return super().as_subclass(torch.Tensor)

    def as_subclass(self, cls: Any) -> Any:
        """Torch does not dispatch this way out: note it here."""
        self._seen.labels.add("as_subclass")
        return super().as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the function, unless it only moves or cuts."""
        seen = next(leaf._seen for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Labels))
        index = args[1:] if func is torch.Tensor.__getitem__ else ()
        if func not in _FREE or any(isinstance(leaf, Labels) for leaf in pytree.tree_leaves(index)):
            seen.labels.add(str(getattr(func, "__name__", func)))
        found = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        for leaf in pytree.tree_leaves(found):
            if isinstance(leaf, Labels):
                leaf._seen = seen
        return found


_FREE = {
    torch.Tensor.to, torch.Tensor.__getitem__, torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel,
    torch.Tensor.__len__, torch.Tensor.is_floating_point, torch.Tensor.detach,
    *(cast("Any", getattr(torch.Tensor, name)).__get__ for name in ("shape", "ndim", "device", "dtype")),
}  # fmt: skip


@dataclass
class Synthetic:
    """The task. rows holds the model's arguments for all samples, targets their classes, (samples, *middle)."""

    rows: Inputs
    targets: torch.Tensor
    classes: int
    shape: tuple[int, ...]
    digest: str
    seen: Seen = field(default_factory=Seen)
    name: str = "synthetic"
    metric: str = "accuracy"

    def relabelled(self) -> Synthetic:
        """The same samples, each of another class."""
        return replace(self, targets=(self.targets + 1) % self.classes, seen=Seen())

    def count(self, split: Split) -> int:
        """Samples in a split."""
        return ROWS[split]

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """As `Task.batches`."""
        self.seen.asked.add(f"batches {split}")
        yield from self._batches(split, size, seed, epoch)

    def _batches(self, split: Split, size: int, seed: int | None, epoch: int) -> Iterator[Batch]:
        first = sum(ROWS[other] for other in list(ROWS)[: list(ROWS).index(split)])
        order = torch.arange(ROWS[split])
        if seed is not None:
            text = f"{seed}/{epoch}".encode()
            number = int.from_bytes(hashlib.sha256(text).digest()[:7], "little")
            order = torch.randperm(ROWS[split], generator=torch.Generator().manual_seed(number))
        for begin in range(0, ROWS[split], size):
            at = order[begin : begin + size] + first
            if seed is not None and at.numel() < size:
                return
            args, kwargs = _taken(self.rows, at)
            yield Batch(args, kwargs, Labels.of(self.targets[at].clone(), self.seen))

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Cross-entropy of the first floating tensor, averaged over samples and everything between."""
        self.seen.asked.add("loss")
        return torch.nn.functional.cross_entropy(*_compared(output, target))

    def evaluate(self, model: torch.nn.Module, split: Split = "test", size: int = 256) -> dict[str, float]:
        """The share of targets met, in eval mode; modes are restored."""
        self.seen.asked.add(f"evaluate {split}")
        modes = [(module, module.training) for module in model.modules()]
        hits = total = 0
        try:
            model.eval()
            with torch.no_grad():
                for batch in self._batches(split, size, None, 0):
                    scores, target = _compared(model(*batch.args, **batch.kwargs), batch.target)
                    hits += int((scores.argmax(1) == target).sum())
                    total += target.numel()
        finally:
            for module, training in modes:
                module.training = training
        return {self.metric: hits / total}


def synthetic(
    model: torch.nn.Module, inputs: Callable[[int, torch.Generator], Inputs], seed: int, *, dtype: Any = None
) -> Synthetic:
    """The task of a model: inputs(batch, generator) draws its arguments, as a backend's record does.

    dtype converts floating inputs. Raises UsageError for a model whose output has no classes, and for inputs
    that cannot be cut into samples along their first dimension.
    """
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    rows: Inputs = pytree.tree_map_only(
        torch.Tensor,
        lambda leaf: leaf.to(dtype) if dtype is not None and leaf.is_floating_point() else leaf,
        inputs(_TOTAL, generator),
    )
    leaves = tensors_in(rows)
    if not any(leaf.ndim and leaf.shape[0] == _TOTAL for leaf in leaves):
        raise UsageError("the model's inputs have no tensor whose first dimension is the batch: no task can be made")
    args, kwargs = _taken(rows, torch.arange(2))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        scores = _scores(model(*args, **kwargs))
    classes = scores.shape[-1]
    if classes < 2:
        raise UsageError("the model's output has one number a sample: there are no classes to train for")
    targets = torch.randint(classes, (_TOTAL, *scores.shape[1:-1]), generator=generator)
    main = next(leaf for leaf in leaves if leaf.ndim and leaf.shape[0] == _TOTAL)
    return Synthetic(rows, targets, classes, tuple(main.shape[1:]), _digest([*leaves, targets]))


def _digest(tensors: list[torch.Tensor]) -> str:
    seen = hashlib.sha256()
    for leaf in tensors:
        seen.update(leaf.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:16]


def _taken(rows: Inputs, at: torch.Tensor) -> Inputs:
    """The samples at these places; what has no sample dimension as it is."""

    def cut(leaf: torch.Tensor) -> torch.Tensor:
        return leaf[at].clone() if leaf.ndim and leaf.shape[0] == _TOTAL else leaf.clone()

    found: Inputs = pytree.tree_map_only(torch.Tensor, cut, rows)
    return found


def _scores(output: Any) -> torch.Tensor:
    """The first floating tensor, its classes last: (batch, *middle, classes)."""
    found = next((leaf for leaf in tensors_in(output) if leaf.is_floating_point() and leaf.ndim), None)
    if found is None:
        raise UsageError("the model's output has no floating tensor: no task can be made")
    if found.ndim == 1 or found.shape[-1] == 1:
        return found.reshape(found.shape[0], -1)
    return found


def _compared(output: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of shape (all, classes) and targets of shape (all,)."""
    scores = _scores(output)
    if target is None:
        raise UsageError("the batch has no labels")
    wanted = target.plain() if isinstance(target, Labels) else target
    return scores.reshape(-1, scores.shape[-1]), wanted.reshape(-1)
