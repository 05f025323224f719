"""One run of a method on a model: what its hooks see, and the services it may call."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from conformance.method.budget import Budget, Cost
from conformance.method.data import Data
from conformance.method.ladder import Limits
from conformance.method.protocol import Decision, Method
from conformance.method.recipe import Recipe
from conformance.method.task import Batch
from conformance.method.units import Units
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection
from conformance.subnet.extract import extract
from conformance.subnet.zero import zero

Row = dict[str, float | int | str]


@dataclass
class Run:
    """What a host shares with a method.

    model is the run's own copy of the caller's; groups and units are of it, and stay valid as long as its
    parameters keep their shapes. step counts optimizer steps of the present phase, from 0; total is how many
    the phase has. loss is the last batch's (a scalar tensor, detached, averaged over processes). state is the
    method's own tree of tensors, numbers and text, saved and restored with every checkpoint. watched runs log
    validation figures and the share of zero groups after each epoch. scores are those the decision was ranked by,
    None where a method decides in another way.
    """

    method: Method
    model: torch.nn.Module
    groups: Groups
    units: Units
    cost: Cost
    budget: Budget
    limits: Limits
    recipe: Recipe
    data: Data
    seed: int
    device: torch.device
    phase: str = ""
    epoch: int = 0
    step: int = 0
    total: int = 0
    round: int = 0
    watched: bool = False
    loss: torch.Tensor | None = None
    batch: Batch | None = None
    optimizer: torch.optim.Optimizer | None = None
    state: dict[str, Any] = field(default_factory=dict)
    scores: torch.Tensor | None = None
    log: Callable[[Row], None] = lambda row: None  # noqa: ARG005

    def rng(self, name: str) -> torch.Generator:
        """A generator on the CPU of this run's own, the same for the same seed and name, at its beginning."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def pruned(self, decision: Decision) -> torch.nn.Module:
        """A copy of the model with the decision at zero, full size."""
        if isinstance(decision, Selection):
            return zero(self.model, decision)
        twin = copy.deepcopy(self.model)
        decision.apply_(twin)
        return twin

    def subnet(self, decision: Decision) -> torch.nn.Module:
        """The smaller module a decision leaves; for masks the full-size one."""
        if isinstance(decision, Selection):
            return extract(self.model, decision)
        return self.pruned(decision)

    def calibrate(self, model: torch.nn.Module, batches: int = 10, size: int = 64) -> None:
        """Estimate the running statistics of batch norms anew on unlabelled training batches, in place."""
        calibrate(model, self.data.unlabelled(batches, size))


def calibrate(model: torch.nn.Module, batches: Iterable[Batch]) -> None:
    """Running mean and variance of every batch norm as plain averages over `batches`; modes are restored."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()
        with torch.no_grad():
            for batch in batches:
                model(*batch.args, **batch.kwargs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
