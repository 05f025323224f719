"""How a model is trained: everything a training run depends on besides model, task and seed."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

import torch

from conformance.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """A training run.

    epochs, or steps where given, of batches of `batch` samples (over all processes together). lr falls as
    `schedule` says: `constant`, `cosine` to 0, or `step`: times gamma at each of `milestones` (shares of all
    steps); over the first `warmup` share it rises from 0. clip bounds the gradients' global norm. amp is
    the dtype to compute in: empty, `bfloat16` or `float16`. dense_epochs train the model by the same recipe
    before the method sees it; finetune_epochs train the subnet afterwards, at finetune_lr (lr / 10 where None).
    """

    epochs: int = 1
    steps: int | None = None
    batch: int = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    clip: float | None = None
    amp: Literal["", "bfloat16", "float16"] = ""
    dense_epochs: int = 0
    finetune_epochs: int = 0
    finetune_lr: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be."""
        if min(self.epochs, self.dense_epochs, self.finetune_epochs, self.steps or 0) < 0 or self.batch < 1:
            raise UsageError("epochs and steps are 0 or more, batch is at least 1")
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise UsageError(f"the base optimizers are sgd, adam and adamw, not {self.optimizer!r}")
        if self.schedule not in ("constant", "cosine", "step"):
            raise UsageError(f"the schedules are constant, cosine and step, not {self.schedule!r}")
        if not self.lr > 0 or not 0 <= self.warmup < 1:
            raise UsageError(f"lr is above 0 and warmup a share below 1, not {self.lr} and {self.warmup}")

    def computing(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Around a forward pass and its loss: torch's autocast where amp says so."""
        return torch.autocast(device.type, getattr(torch, self.amp)) if self.amp else contextlib.nullcontext()

    def base_optimizer(self, model: torch.nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """torch's own optimizer over the model's parameters that want gradients."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rate, decay = self.lr if lr is None else lr, self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, momentum=self.momentum, weight_decay=decay, nesterov=self.nesterov
            )
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)

    @property
    def finetune_rate(self) -> float:
        """The base rate for weights that are trained already."""
        return self.lr / 10 if self.finetune_lr is None else self.finetune_lr

    def factor(self, step: int, total: int) -> float:
        """By what the learning rate is multiplied at `step` (from 0) of `total`."""
        share = step / max(total, 1)
        rise = min(1.0, (step + 1) / (self.warmup * total)) if self.warmup * total >= 1 else 1.0
        if self.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * share))
        if self.schedule == "step":
            return rise * self.gamma ** sum(share >= milestone for milestone in self.milestones)
        return rise
