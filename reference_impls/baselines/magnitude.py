"""Criteria that look at weights alone: random, L1, L2, LAMP, FPGM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Method, Run
from conformance.method.units import Reduce
from reference_impls.baselines.criterion import UNKNOWN, Criterion, Members, Normalise, left, no_bias


@dataclass(frozen=True)
class Random(Method):
    """Groups leave in an order drawn from the seed: what any criterion has to beat."""

    facts: ClassVar[Facts] = Facts(
        name="random",
        summary="groups leave in random order",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="a control, without a paper",
        equivariant=False,
        random=True,
    )

    def score(self, run: Run) -> torch.Tensor:
        """Uniform draws."""
        return torch.rand(run.groups.count + 1, generator=run.rng("scores"), dtype=torch.float64)


def magnitude(run: Run, power: int, reduce: Reduce, members: Members) -> torch.Tensor:
    """Sum of |w|^p over each member's slice, reduced over the members; biases are left out. Shape (count + 1,)."""
    return run.units.reduce(lambda _, weight: weight.abs() ** power, members, reduce, only=no_bias)


@dataclass(frozen=True)
class _Magnitude(Criterion):
    """Sum of |w|^p over each member's slice: rows, norm entries and the columns that read them."""

    power: ClassVar[int] = 2

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members; biases are left out, as in the criterion's papers."""
        return magnitude(run, self.power, self.reduce, self.members)


@dataclass(frozen=True)
class L1(_Magnitude):
    """Sum of absolute weights."""

    facts: ClassVar[Facts] = Facts(
        name="l1",
        summary="smallest sum of absolute weights leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017; over coupled groups",
    )
    power: ClassVar[int] = 1


@dataclass(frozen=True)
class L2(_Magnitude):
    """Sum of squared weights (no root is taken)."""

    facts: ClassVar[Facts] = Facts(
        name="l2",
        summary="smallest sum of squared weights leaves first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (group norm)",
    )


@dataclass(frozen=True)
class Lamp(_Magnitude):
    """Sum of squared weights over the sum of all that are not smaller: the largest of an axis has 1, and stays."""

    facts: ClassVar[Facts] = Facts(
        name="lamp",
        summary="squared weights relative to what is not smaller",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021; on groups, not weights",
    )
    reduce: Reduce = "sum"
    normalise: Normalise = "lamp"


@dataclass(frozen=True)
class Fpgm(Criterion):
    """Sum of the Euclidean distances of a filter to all filters of its layer: what the others can stand in for leaves.

    squared takes distances between squared weights, as one widely used implementation does.
    """

    facts: ClassVar[Facts] = Facts(
        name="fpgm",
        summary="filters nearest to all others of their layer leave first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="He et al., Filter Pruning via Geometric Median, CVPR 2019; over coupled groups",
    )
    members: Members = "producers"
    squared: bool = False

    @property
    def unknown(self) -> str:
        """Norms and biases have no filters."""
        return "none has a filter (a row or column of a matrix or kernel)"

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members that are matrices or kernels; filters that have left count no more."""
        gone = left(run)
        lines, known = {}, {}
        for item in run.units.members(self.members):
            tensor = run.units.tensors[item.name].detach()
            numbers = item.rows(self.members)
            if tensor.ndim < 2:
                continue
            filters = tensor.movedim(item.dim, 0).flatten(1)
            filters = filters.square() if self.squared else filters
            here = torch.from_numpy(~gone[numbers]).to(tensor.device)
            # By differences: through products of matrices, near filters of large norm would be at any distance.
            far = torch.cdist(filters, filters[here], compute_mode="donot_use_mm_for_euclid_dist").sum(1)
            lines[item.name, item.dim], known[item.name, item.dim] = far, torch.ones_like(far)
        scores = run.units.from_lines(lines, self.reduce)
        return torch.where(run.units.from_lines(known) > 0, scores, UNKNOWN)
