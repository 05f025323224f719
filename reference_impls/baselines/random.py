"""Groups in random order, the control for every criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Method, Run


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
