"""Criteria that look at weights alone: random, L1, L2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Method, Run
from reference_impls.baselines.criterion import Criterion


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


@dataclass(frozen=True)
class _Magnitude(Criterion):
    """Sum of |w|^p over each member's slice: rows, norm entries and the columns that read them."""

    power: ClassVar[int] = 2

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members; biases are left out, as in the criterion's papers."""
        return run.units.reduce(
            lambda _, weight: weight.abs() ** self.power,
            "all",
            self.reduce,
            only=lambda item: not item.name.endswith("bias"),
        )


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
