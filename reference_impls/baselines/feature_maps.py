"""Criteria that look at feature maps where they are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conformance.errors import UsageError
from conformance.method import Run
from reference_impls.baselines.criterion import Criterion, position_means
from reference_impls.baselines.features import Consumer, consumers, watch


@dataclass(frozen=True)
class FeatureMaps(Criterion):
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
