"""Second-order criteria: how many samples they differentiate, and how many of them at a time."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.errors import UsageError
from reference_impls.baselines.criterion import Criterion


@dataclass(frozen=True)
class SecondOrder(Criterion):
    """Squared weights times a diagonal of the Fisher information, from gradients of single samples.

    chunk samples of a batch are differentiated at a time: each needs memory for one more set of parameters.
    """

    batches: int = 2
    size: int = 64
    chunk: int = 8

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        super().__post_init__()
        if min(self.batches, self.size, self.chunk) < 1:
            raise UsageError(f"{self.name}: batches, size and chunk are at least 1")
