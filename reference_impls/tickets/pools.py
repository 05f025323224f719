"""Which weights are ranked together, and how much of each such pool goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from conformance.errors import UsageError
from conformance.method import Masks, Run
from conformance.method.weights import maskable, outermost
from conformance.subnet.state import tensor_at
from reference_impls.tickets.levels import Schedule, gone, with_half_pace
from reference_impls.tickets.lowest import lowest

Ranking = Literal["global", "layer"]
Output = Literal["include", "exclude", "half"]
RANKINGS: tuple[Ranking, ...] = ("global", "layer")
OUTPUTS: tuple[Output, ...] = ("include", "exclude", "half")


def check_pools(name: str, ranking: str, output: str) -> None:
    """Raise UsageError, in the name of a method, for a ranking or an output that does not exist."""
    for given, known in ((ranking, RANKINGS), (output, OUTPUTS)):
        if given not in known:
            raise UsageError(f"{name}: there are {', '.join(known)}, but no {given!r}")


@dataclass(frozen=True)
class Pools:
    """Weights that are ranked together, and the share of each pool that goes in the end, at its pace."""

    names: tuple[tuple[str, ...], ...]
    totals: tuple[float, ...]
    paces: tuple[float, ...]

    @classmethod
    def of(cls, run: Run, ranking: Ranking, output: Output, rounds: int, schedule: Schedule) -> Pools:
        """As the options say, so that all pools together lose the run's budget.

        Raises UsageError when nothing may be masked, and for a budget that half the rate in the output layer does
        not allow.
        """
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
