"""Masks of the smallest weights, at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts, Masks, Method, Run
from reference_impls.tickets.pools import Output, Pools, Ranking


@dataclass(frozen=True)
class Magnitude(Method):
    """The smallest weights of the model as it is are masked.

    ranking compares all weights (`global`) or takes the same share of every tensor (`layer`). output: the
    output layer is ranked with the others (`include`), stays whole (`exclude`), or loses half as much (`half`).
    """

    facts: ClassVar[Facts] = Facts(
        name="magnitude",
        summary="smallest single weights are masked, at once",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015; at once",
        granularity="weight",
        exactness="masked",
        budgets=("weights",),
    )
    ranking: Ranking = "global"
    output: Output = "include"

    def decide(self, run: Run) -> Masks:
        """All of the budget at once."""
        return Pools.of(run, self.ranking, self.output, 1, "geometric").masks(run, {}, 1, 1, "geometric")
