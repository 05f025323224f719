"""What the methods whose groups fade share: the weights of their criteria, and their periods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conformance.errors import UsageError
from conformance.method import Run
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.trained import Trained, share


@dataclass(frozen=True)
class Scored(Trained):
    """What HESSO and HESSO-CRIC share: the weights of the criteria (see Criteria) and where pruning starts."""

    start: float = 0.1
    magnitude: float = 0.2
    average: float = 0.2
    cosine: float = 0.2
    taylor: float = 0.2
    taylor2: float = 0.0
    cosine_sign: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError for weights and shares that cannot be."""
        share("start", self.start)
        self.criteria  # noqa: B018 - checks the weights

    @property
    def criteria(self) -> Criteria:
        """The weights."""
        return Criteria(self.magnitude, self.average, self.cosine, self.taylor, self.taylor2, self.cosine_sign)


@dataclass(frozen=True)
class InPeriods(Scored):
    """From `start` to `finish`, shares of training, in so many periods (fewer if a period had no step)."""

    finish: float = 0.25
    periods: int = 10

    def __post_init__(self) -> None:
        """Raise UsageError for shares that cannot be."""
        super().__post_init__()
        share("finish", self.finish)

    def schedule(self, run: Run, earliest: int) -> dict[str, Any]:
        """The arguments of `Periods`, no step before `earliest`."""
        start = max(int(self.start * run.total), earliest)
        steps = int(self.finish * run.total) - start
        if steps < 1:
            raise UsageError(
                f"{self.name} prunes from {self.start:g} to {self.finish:g} of training, which is no step of "
                f"{run.total} from step {earliest} on"
            )
        return {
            "start_step": start,
            "pruning_steps": steps,
            "periods": min(self.periods, steps),
            "criteria": self.criteria,
        }
