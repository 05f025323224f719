"""Criteria that look at feature maps where they are read: mean activation, HRank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Facts, Run
from conformance.method.ladder import Scope
from reference_impls.baselines.criterion import Criterion, position_means
from reference_impls.baselines.features import Consumer, consumers, watch


@dataclass(frozen=True)
class _Features(Criterion):
    """A figure for each input channel of each layer that reads a group, averaged over samples and calls."""

    batches: int = 10
    size: int = 64

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        super().__post_init__()
        if self.batches < 1 or self.size < 1:
            raise UsageError(f"{self.name}: batches and size are at least 1")

    def figures(self, reader: Consumer, x: torch.Tensor) -> tuple[torch.Tensor, int] | None:
        """Sum of each channel's figure over x (batch, channel, positions...), and how many went in; None for none."""
        raise NotImplementedError

    def local(self, run: Run) -> torch.Tensor:
        """Averaged over data for each reader, then reduced over the readers of a group."""
        totals: dict[tuple[str, int], tuple[torch.Tensor, int]] = {}

        def see(reader: Consumer, x: torch.Tensor) -> None:
            if (found := self.figures(reader, x)) is not None:
                line, number = totals.get(reader.key, (torch.zeros(()), 0))
                totals[reader.key] = line.to(found[0].device) + reader.per_position(found[0]), number + found[1]

        watch(run, run.data.unlabelled(self.batches, self.size), consumers(run), see)
        lines = {key: total / number for key, (total, number) in totals.items()}
        return position_means(run, lines, self.reduce)


@dataclass(frozen=True)
class Activation(_Features):
    """Mean absolute activation at the inputs of the convolutions and linear layers that read a group."""

    facts: ClassVar[Facts] = Facts(
        name="activation",
        summary="smallest mean absolute activation leaves first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="a common control; no single paper",
    )

    @property
    def unknown(self) -> str:
        """Inputs of modules are seen, functional calls are not."""
        return "none is read by a convolution or linear layer that is called as a module"

    def figures(self, reader: Consumer, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Sum of absolute values."""
        del reader
        line = x.transpose(0, 1).flatten(1).abs().double()
        return line.sum(1), line.shape[1]


@dataclass(frozen=True)
class HRank(_Features):
    """Mean rank of a channel's two-dimensional feature map at the inputs of the convolutions that read it.

    A group of which no convolution of two or three dimensions reads a map larger than 1 x 1 stays.
    """

    facts: ClassVar[Facts] = Facts(
        name="hrank",
        summary="smallest mean rank of the feature map leaves first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020; of maps where they are read",
    )
    ranking: Scope = "local"
    batches: int = 8

    @property
    def unknown(self) -> str:
        """Only maps have a rank."""
        return "no convolution reads a feature map of two dimensions"

    def figures(self, reader: Consumer, x: torch.Tensor) -> tuple[torch.Tensor, int] | None:
        """Sum of ranks; the depth of volumes counts as more samples."""
        if reader.spatial < 2 or min(x.shape[-2:]) < 2:
            return None
        ranks = torch.linalg.matrix_rank(x.float()).double().transpose(0, 1).flatten(1)
        return ranks.sum(1), ranks.shape[1]
