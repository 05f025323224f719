"""HESSO: redundant groups fade to zero in a few periods while the base optimizer goes on."""

from __future__ import annotations

import torch

from reference_impls.oto.fading import Periods


class HESSO(Periods):
    """Hybrid Efficient Structured Sparse Optimizer: in periods, by where the base optimizer's step takes each group.

    For the schedule and its options see `Periods`.
    """

    def scored_step(self) -> torch.Tensor:
        """A step of the base, and HESSO's scores of it."""
        return self.scored(self.whole())
