"""Criteria that look at the next layer's output: ThiNet, and channel pruning by LASSO."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Decision, Driver, Facts, Run
from conformance.method.ladder import Scope
from conformance.partition.selection import Selection
from conformance.subnet.state import tensor_at
from reference_impls.baselines.criterion import UNKNOWN, Criterion, Normalise
from reference_impls.baselines.moments import Moments, axis_grams, moments

Array = npt.NDArray[np.float64]

_REFIT = "refit"
RIDGE = 1e-6


@dataclass(frozen=True)
class _Reconstruction(Criterion):
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


@dataclass(frozen=True)
class ThiNet(_Reconstruction):
    """Channels leave one by one, each the one that adds least to what the next layers' output has lost.

    refit scales each kept channel.
    """

    facts: ClassVar[Facts] = Facts(
        name="thinet",
        summary="channels the next layer's output misses least leave first, chosen greedily",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="Luo et al., ThiNet: A Filter Level Pruning Method, ICCV 2017; over coupled groups",
    )

    def order(self, gram: Array) -> Array:
        """The place of each channel among those that leave, from 1."""
        return greedy(gram)

    def refitted(self, found: Moments, gone: torch.Tensor) -> torch.Tensor:
        """Columns times the factors that bring the sum of contributions nearest to the dense one."""
        lost = gone[:: found.kernel]
        gram = found.gram()
        kept = ~lost
        change = _solve(gram[kept][:, kept], gram[kept][:, lost].sum(1, keepdim=True)).flatten()
        factors = torch.ones_like(gram[0])
        factors[kept] += change
        return found.weight * factors.repeat_interleave(found.kernel)


@dataclass(frozen=True)
class ChannelLasso(_Reconstruction):
    """Channels leave in the order in which a growing L1 penalty on their coefficients turns them off.

    refit solves for the kept weights themselves.
    """

    facts: ClassVar[Facts] = Facts(
        name="cp",
        summary="channels that a LASSO on the next layer's output turns off first leave first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017; over coupled groups",
    )
    refit: bool = True

    def order(self, gram: Array) -> Array:
        """The largest penalty on the path at which the coefficient is not zero; the coefficient parts equal ones."""
        return lasso_order(gram)

    def refitted(self, found: Moments, gone: torch.Tensor) -> torch.Tensor:
        """W + W_lost M_lost,kept M_kept,kept^-1 on the kept columns, M the second moments of the inputs."""
        weight, kept = found.weight.clone(), ~gone
        for group, inputs in enumerate(found.inputs):
            missing = inputs[kept][:, gone] @ weight[group][:, gone].T
            weight[group, :, kept] += _solve(inputs[kept][:, kept], missing).T
        return weight


def _solve(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve a positive semi-definite system, with RIDGE of the mean diagonal added to it."""
    ridge = RIDGE * float(matrix.diagonal().mean())
    if ridge == 0:  # nothing is read at all: nothing can stand in
        return torch.zeros_like(right)
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    solved: torch.Tensor = torch.linalg.solve(matrix + ridge * identity, right)
    return solved


def greedy(gram: Array) -> Array:
    """For inner products (n, n) of contributions the place, from 1, of each when what is lost grows least.

    What is lost with a set T is the squared norm of its sum: sum over j, k in T of gram[j, k]. Channels that
    contribute nothing share a place: no order among them is better than another.
    """
    size = gram.shape[0]
    cost = np.diag(gram).copy()  # what each adds to the loss when it goes next
    dead = np.asarray(~gram.any(axis=1))
    place = np.zeros(size)
    number = 1
    while number <= size:
        chosen = int(np.argmin(np.where(place == 0, cost, np.inf)))
        if dead[chosen]:
            place[dead] = number
            number += int(dead.sum())
            continue
        place[chosen] = number
        cost += 2 * gram[chosen]
        number += 1
    return place


def lasso_order(gram: Array, penalties: int = 50) -> Array:
    """For inner products (n, n) of contributions a score: at which penalty of a falling series each is turned on.

    The target is the sum of all contributions. Whole numbers count down the series, from `penalties`; the
    coefficient at that penalty, as a share of all, is added to part channels that come on together.
    """
    target = gram.sum(1)
    top = np.abs(target).max()
    score, beta = np.zeros(gram.shape[0]), np.zeros(gram.shape[0])
    size = np.sqrt(np.clip(np.diag(gram), 0, None))
    for number in range(penalties, 0, -1):
        if top == 0:
            break
        penalty = top * 10 ** (-4 * (penalties - number + 1) / penalties)
        beta = lasso(gram, target, penalty, beta)
        share = np.abs(beta) * size
        score = np.where((score == 0) & (beta != 0), number + share / (share.sum() or 1) * (1 - 1e-9), score)
    return score


def lasso(gram: Array, target: Array, penalty: float, start: Array, iterations: int = 300) -> Array:
    """The minimiser of b^T gram b / 2 - target^T b + penalty |b|_1, by accelerated proximal steps from `start`.

    Ends when a step moves nothing by more than 1e-7 of the largest coefficient, or after `iterations`.
    """
    rate = 1 / np.linalg.norm(gram, 2)
    beta = ahead = start
    t = 1.0
    for _ in range(iterations):
        moved = ahead - rate * (gram @ ahead - target)
        new: Array = np.sign(moved) * np.maximum(np.abs(moved) - rate * penalty, 0)
        after = (1 + math.sqrt(1 + 4 * t * t)) / 2
        ahead = new + (t - 1) / after * (new - beta)
        if np.abs(new - beta).max() <= 1e-7 * np.abs(new).max():
            return new
        beta, t = new, after
    return beta
