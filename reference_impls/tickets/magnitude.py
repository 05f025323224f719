"""Masks of the smallest weights, at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts, Masks, Method, Run
from reference_impls.tickets.pools import Output, Pools, Ranking, check_pools


@dataclass(frozen=True)
class Magnitude(Method):
    """The single weights nearest to zero are masked, all at once; the model keeps its shape.

    Score: |w| of each weight that a convolution or matrix product reads as it is: W (out, in, kh, kw) or (out, in), no
    biases, norms or tables that are looked up; in the weights' unit and dtype. Of the n weights compared, those with
    the ceil(share n) lowest go, among equals the first in the model's order. Masks are bool, of W's shape.

    Data: D0, none. The budget is in weights.

    Options:
        ranking=global: all weights are compared (global), or every tensor loses the same share (layer).
        output=include: the output layer is ranked too (include), stays whole (exclude), or goes at half rate (half).

    The result depends on the weights alone. Of the limits, `min_keep` and `protect` hold for each tensor. Raises
    UsageError for an option that does not exist, when nothing may be masked, and for a budget that the limits, or half
    the rate in the output layer, do not allow.

    Source: Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015. There
    thresholds are set for each layer and the rest is trained on; here exactly the budget goes, at once:
    `iterative-magnitude` trains. Published programs take all ties with the threshold, and count weights that are to be
    ignored.
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

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        check_pools(self.name, self.ranking, self.output)

    def decide(self, run: Run) -> Masks:
        """All of the budget at once."""
        return Pools.of(run, self.ranking, self.output, 1, "geometric").masks(run, {}, 1, 1, "geometric")
