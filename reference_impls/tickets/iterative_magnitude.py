"""Masks of the smallest weights, in rounds with fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts, Masks, Run
from reference_impls.tickets.lowest import shuffled
from reference_impls.tickets.pools import Output, Pools, Ranking
from reference_impls.tickets.rounds import Reset, Rounds


@dataclass(frozen=True)
class IterativeMagnitude(Rounds):
    """Rounds that mask the smallest weights; ranking and output as in `Magnitude`.

    control also knows `shuffle-layer` and `shuffle-global`: the last round's masks at random places, within
    each tensor or across all.
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
