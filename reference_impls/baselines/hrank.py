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
    """Groups whose feature maps have a low rank leave first: they carry little that others do not.

    Score: the mean rank of the channel's map, a matrix (height, width), over samples and calls, at the input of the
    convolutions that read the group; positions of one group are averaged, its readers reduced, then divided by the
    axis' mean. Shape (count + 1,), float64; before normalising a number of rows. The rank is that of singular values
    in float32, above torch's default tolerance. A group that no convolution of two or three dimensions reads in a map
    larger than 1 x 1 stays; the depth of volumes counts as more samples.

    Data: D1, unlabelled training batches.

    Options:
        ranking=local: axes lose equal shares; isomorphic: classes of axes built alike do; global: compares all groups.
        reduce=mean: how the readers of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: without effect: readers are looked at.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=8, size=64: how many batches, and samples in each.

    The result depends on the weights, the data and the seed, which shuffles it. The model is in evaluation mode.
    Raises UsageError for an option that does not exist and a budget out of reach, and when no convolution reads such a
    map.

    Source: Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020. There maps are taken behind each
    filter, and layers fine-tuned one by one; here they are taken where they are read, after norm, activation and
    pooling, since that is what is lost.
    """

    facts: ClassVar[Facts] = Facts(
        name="hrank",
        summary="smallest mean rank of the feature map leaves first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020; of maps where they are read",
        requires="feature maps that convolutions read",
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
