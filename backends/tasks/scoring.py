"""How classification is judged: the loss, and metrics of a model left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from conformance.errors import UsageError
from conformance.method.task import Batch, Split

TOP = 5


class Classification:
    """Loss and metrics of a task with one class a sample: cross-entropy; accuracy, loss, and top5 past ten classes.

    A subclass has `name`, `classes` and `batches`.
    """

    name: str
    classes: int
    metric = "accuracy"

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        raise NotImplementedError

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean cross-entropy; output is a tensor of shape (batch, classes), or an object whose `logits` is one.

        Raises UsageError for any other output.
        """
        return fn.cross_entropy(self.logits(output, len(target)), target)

    def evaluate(self, model: nn.Module, split: Split = "test", size: int = 256) -> dict[str, float]:
        """accuracy and top5 as fractions, loss in nats, each the mean over the split.

        Runs in eval mode on the device and in the floating dtype of the model's first floating parameter. Modes and the
        state of the random number generators are as before afterwards. Raises UsageError for an empty split
        and for an output of another shape.
        """
        where = next((found for found in model.parameters() if found.is_floating_point()), torch.empty(0))
        seen, sums = 0, dict.fromkeys(("accuracy", "loss", *(("top5",) if self.classes > 10 else ())), 0.0)
        with untouched(model, where.device):
            for batch in self.batches(split, size):
                moved = batch.to(where.device)
                args = [arg.to(where.dtype) if arg.is_floating_point() else arg for arg in moved.args]
                logits = self.logits(model(*args, **moved.kwargs), batch.size).double()
                ranked = logits.topk(TOP if "top5" in sums else 1).indices == moved.target[:, None]
                sums["accuracy"] += int(ranked[:, 0].sum())
                sums["loss"] += float(fn.cross_entropy(logits, moved.target, reduction="sum"))
                if "top5" in sums:
                    sums["top5"] += int(ranked.sum())
                seen += batch.size
        if not seen:
            raise UsageError(f"the task {self.name} has no {split} samples to evaluate on")
        return {key: value / seen for key, value in sums.items()}

    def logits(self, output: Any, count: int) -> Tensor:
        """The tensor of shape (count, classes) in a model's output."""
        found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(found, Tensor):
            raise UsageError(f"its output is of type {type(output).__name__}, no tensor and without logits")
        if found.shape != (count, self.classes):
            raise UsageError(f"its output has the shape {tuple(found.shape)}, not {(count, self.classes)}")
        return found


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode without gradients; each module's own mode and all generators are put back, after errors too."""
    modes = {module: module.training for module in model.modules()}
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
