"""Masks of the smallest weights: at once, in rounds with fine-tuning, and as lottery tickets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Facts, Masks, Method, Run
from conformance.method.weights import maskable, outermost
from conformance.subnet.state import tensor_at
from reference_impls.tickets.levels import Schedule, gone, with_half_pace
from reference_impls.tickets.lowest import lowest, shuffled
from reference_impls.tickets.rounds import Reset, Rounds

Ranking = Literal["global", "layer"]
Output = Literal["include", "exclude", "half"]
RANKINGS: tuple[Ranking, ...] = ("global", "layer")
OUTPUTS: tuple[Output, ...] = ("include", "exclude", "half")


@dataclass(frozen=True)
class Pools:
    """Weights that are ranked together, and the share of each pool that goes in the end, at its pace."""

    names: tuple[tuple[str, ...], ...]
    totals: tuple[float, ...]
    paces: tuple[float, ...]

    @classmethod
    def of(cls, run: Run, ranking: Ranking, output: Output, rounds: int, schedule: Schedule) -> Pools:
        """As the options say, so that all pools together lose the run's budget.

        Raises UsageError for an option that does not exist, when nothing may be masked, and for a budget that
        half the rate in the output layer does not allow.
        """
        for given, known in ((ranking, RANKINGS), (output, OUTPUTS)):
            if given not in known:
                raise UsageError(f"there are {', '.join(known)}, but no {given!r}")
        graph, total = run.groups.graph, run.budget.remove
        names = maskable(graph, run.limits)
        last = () if output == "include" else tuple(name for name in outermost(graph) if name in names)
        others = tuple(name for name in names if name not in last)
        if not (others or (output == "half" and last)):
            raise UsageError("nothing of this model may be masked")
        slow = last if output == "half" else ()
        if slow:
            counts = [sum(tensor_at(run.model, name).numel() for name in some) for some in (others, slow)]
            total = with_half_pace(total, counts[0], counts[1], rounds, schedule)
        found = [(some, pace) for some, pace in ((others, 1.0), (slow, 0.5)) if some]
        if ranking == "layer":
            found = [((name,), pace) for some, pace in found for name in some]
        return cls(tuple(some for some, _ in found), (total,) * len(found), tuple(pace for _, pace in found))

    def masks(self, run: Run, kept: dict[str, torch.Tensor], rounds: int, level: int, schedule: Schedule) -> Masks:
        """What is left after round `level`, by the weights as they are now."""
        made: dict[str, torch.Tensor] = {}
        for names, total, pace in zip(self.names, self.totals, self.paces, strict=True):
            weights = {name: tensor_at(run.model, name) for name in names}
            made |= lowest(weights, kept, gone(total, rounds, level, schedule, pace), run.limits)
        return Masks(made)


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


@dataclass(frozen=True)
class LotteryTicket(IterativeMagnitude):
    """As iterative magnitude pruning, with the weights put back to what they were before training."""

    facts: ClassVar[Facts] = Facts(
        name="lottery-ticket",
        summary="smallest single weights are masked in rounds, the others put back to where they began",
        driver=Driver.ROUNDS,
        data=DataNeed.TRAINING,
        paper="Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; rewinding: Frankle et al., ICML 2020",
        granularity="weight",
        exactness="masked",
        budgets=("weights",),
    )
    reset: Reset = "init"
