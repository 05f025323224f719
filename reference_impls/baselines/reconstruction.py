"""Criteria that look at the output of the layers that read a group, and refit those layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UsageError
from conformance.method import Decision, Run
from conformance.method.ladder import Scope
from conformance.partition.selection import Selection
from conformance.subnet.state import tensor_at
from reference_impls.baselines.criterion import UNKNOWN, Criterion, Normalise
from reference_impls.baselines.moments import Moments, axis_grams, moments

Array = npt.NDArray[np.float64]
_REFIT = "refit"
RIDGE = 1e-6


@dataclass(frozen=True)
class Reconstruction(Criterion):
    """Looks at the output of the layers that read a group, at drawn positions of unlabelled samples.

    refit changes the kept weights of those layers by least squares so that their output is the dense model's
    again as nearly as it can be. It is done once, after all has been chosen, from the dense model's inputs.
    """

    ranking: Scope = "local"
    normalise: Normalise = "none"
    batches: int = 10
    size: int = 64
    positions: int = 10
    refit: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        super().__post_init__()
        if min(self.batches, self.size, self.positions) < 1:
            raise UsageError(f"{self.name}: batches, size and positions are at least 1")

    @property
    def unknown(self) -> str:
        """Inputs of modules are seen, functional calls are not."""
        return "none is read by a convolution or linear layer that is called as a module"

    def order(self, gram: Array) -> Array:
        """A score for each channel of one axis from the inner products (n, n) of their contributions."""
        raise NotImplementedError

    def refitted(self, found: Moments, gone: torch.Tensor) -> torch.Tensor:
        """The reader's weight (channel groups, outputs, n) once the columns `gone` (n,) have left."""
        raise NotImplementedError

    def local(self, run: Run) -> torch.Tensor:
        """Each axis by itself."""
        scores = torch.full((run.groups.count + 1,), UNKNOWN, dtype=torch.float64)
        found = moments(run, run.data.unlabelled(self.batches, self.size), self.positions)
        for numbers, gram in axis_grams(run, found).values():
            scores[torch.from_numpy(numbers)] = torch.from_numpy(self.order(gram.numpy()))
        return scores

    def decide(self, run: Run) -> Decision:
        """As every criterion; with refit the new weights are worked out while the dense model is there."""
        dense = copy.deepcopy(run.model) if self.refit else run.model
        decision = super().decide(run)
        if self.refit:
            assert isinstance(decision, Selection)
            before = replace(run, model=dense, units=run.units.of(dense))
            run.state[_REFIT] = self._refits(before, decision)
        return decision

    def _refits(self, run: Run, decision: Selection) -> dict[str, torch.Tensor]:
        """New values of the weights that read something that leaves; tied weights stay as they are."""
        owners = {names[0]: names for names in run.groups.graph.owners().values()}
        tied = {name for names in owners.values() if len(names) > 1 for name in names}
        new = {}
        for found in moments(run, run.data.unlabelled(self.batches, self.size), self.positions):
            name, slices = found.reader.slices.name, found.reader.slices
            gone = torch.from_numpy(decision.gone[slices.groups]).repeat_interleave(found.kernel)
            if name in tied or not gone.any() or gone.all():
                continue
            old = run.units.tensors[name].detach()
            weight = self.refitted(found, gone.to(found.weight.device))
            new[name] = weight.reshape(old.shape).to(old.dtype)
        return new

    def finalize(self, run: Run, decision: Decision) -> None:
        """Put the new weights in; what has left is at zero afterwards as before."""
        with torch.no_grad():
            for name, weight in run.state.get(_REFIT, {}).items():
                tensor_at(run.model, name).copy_(weight)
        assert isinstance(decision, Selection)
        run.units.fill_(decision.removed)


def solve_with_ridge(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve a positive semi-definite system, with RIDGE of the mean diagonal added to it."""
    ridge = RIDGE * float(matrix.diagonal().mean())
    if ridge == 0:  # nothing is read at all: nothing can stand in
        return torch.zeros_like(right)
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    solved: torch.Tensor = torch.linalg.solve(matrix + ridge * identity, right)
    return solved
