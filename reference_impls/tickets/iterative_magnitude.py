"""Masks of the smallest weights, in rounds with fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts, Masks, Run
from reference_impls.tickets.lowest import shuffled
from reference_impls.tickets.pools import Output, Pools, Ranking, check_pools
from reference_impls.tickets.rounds import Reset, Rounds


@dataclass(frozen=True)
class IterativeMagnitude(Rounds):
    """The single weights nearest to zero are masked in rounds, and the others trained on after each.

    Score: |w| of the weights that are left, W (out, in, kh, kw) or (out, in), as in `magnitude`; in the weights' unit
    and dtype. After round L of R = rounds the share 1 - (1 - p)^(L / R) has gone (geometric), or p L / R (linear), p
    the budget. Masks are bool, of W's shape; a masked weight has no gradient and is zero after every step. What has
    gone stays gone.

    Data: D3, training by the recipe, R + 1 times (R with dense_first=false). The budget is in weights.

    Options:
        rounds=1: how often is pruned and trained.
        schedule=geometric: each round masks the same share of what is left; linear: of the whole.
        reset=keep: the weights each round trains: from before training (init), from after `rewind` of it (rewind),
            drawn anew (random), or as they are, at the fine-tuning rate (keep).
        rewind=0: for reset=rewind, a share of the training below 1 or a number of steps; training goes on from there.
        control=none: the last round has random weights (random), or its masks at random places within each tensor
            (shuffle-layer) or across all (shuffle-global).
        dense_first=true: train the model before the first round; false takes it as trained.
        ranking=global: all weights are compared (global), or every tensor loses the same share (layer).
        output=include: the output layer is ranked too (include), stays whole (exclude), or goes at half rate (half).

    The result depends on the recipe, the data and the seed; every round sees the data in the same order. Raises
    UsageError for options that do not exist or contradict each other, when nothing may be masked, and for a budget
    that the limits, or half the rate in the output layer, do not allow.

    Source: Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015. There
    thresholds are set for each layer; here exactly each round's share goes, among equals the first in the model's
    order.
    """

    facts: ClassVar[Facts] = Facts(
        name="iterative-magnitude",
        summary="smallest single weights are masked in rounds, the others trained on",
        driver=Driver.ROUNDS,
        data=DataNeed.TRAINING,
        paper="Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
        granularity="weight",
        exactness="masked",
        budgets=("weights",),
    )
    controls: ClassVar[tuple[str, ...]] = ("none", "random", "shuffle-layer", "shuffle-global")

    reset: Reset = "keep"
    ranking: Ranking = "global"
    output: Output = "include"

    def __post_init__(self) -> None:
        """Raise UsageError for options that cannot be."""
        super().__post_init__()
        check_pools(self.name, self.ranking, self.output)

    def prune(self, run: Run, level: int) -> None:
        """Mask the smallest of what the rounds before have kept."""
        pools = Pools.of(run, self.ranking, self.output, self.rounds, self.schedule)
        masks = pools.masks(run, run.state.get("masks", {}), self.rounds, level, self.schedule)
        kept = dict(masks.kept)
        if level == self.rounds and self.control.startswith("shuffle"):
            kept = shuffled(kept, run.rng("shuffle"), across=self.control == "shuffle-global")
        run.state["masks"] = kept
        shares = {name: float(mask.double().mean()) for name, mask in kept.items()}
        sparsest = min(shares, key=lambda name: shares[name])
        run.log(
            {
                "phase": f"round-{run.round}",
                "step": self.begins(run)[0],
                "density": Masks(kept).density,
                "sparsest": sparsest,
                "least_density": shares[sparsest],
            }
        )

    def _masks(self, run: Run) -> Masks:
        """The masks so far, on the run's device: a checkpoint gives them back on the CPU."""
        masks = Masks(run.state["masks"]).to(run.device)
        run.state["masks"] = dict(masks.kept)
        return masks

    def hold(self, run: Run) -> None:
        """Masked weights are zero."""
        self._masks(run).apply_(run.model)

    def still(self, run: Run) -> None:
        """Masked weights have no gradient."""
        self._masks(run).still_(run.model)

    def decide(self, run: Run) -> Masks:
        """The last round's masks."""
        return self._masks(run)
