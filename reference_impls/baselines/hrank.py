"""HRank: the rank of feature maps where a group is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts
from conformance.method.ladder import Scope
from reference_impls.baselines.feature_maps import FeatureMaps
from reference_impls.baselines.features import Consumer


@dataclass(frozen=True)
class HRank(FeatureMaps):
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
