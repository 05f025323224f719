"""How much has gone after each round, and weights that go at half the rate of others."""

from __future__ import annotations

from typing import Literal

from scipy.optimize import brentq

from conformance.errors import UsageError

Schedule = Literal["geometric", "linear"]
SCHEDULES: tuple[Schedule, ...] = ("geometric", "linear")


def gone(total: float, rounds: int, level: int, schedule: Schedule = "geometric", pace: float = 1.0) -> float:
    """The share that has gone after round `level` of `rounds`, when `total` is to have gone in the end.

    `geometric` removes the same share of what is left in every round, `linear` the same share of the whole.
    pace scales what a single round removes: at 0.5 the end is less than total.
    """
    if schedule == "linear":
        return pace * total * level / rounds
    each: float = 1 - (1 - total) ** (1 / rounds)
    return 1 - (1 - pace * each) ** level


def with_half_pace(budget: float, full: int, half: int, rounds: int, schedule: Schedule) -> float:
    """The `total` at which `full` weights at full and `half` weights at half pace lose the share `budget` together.

    Raises UsageError when that cannot be: even with all the others gone, half pace leaves too much.
    """

    def excess(total: float) -> float:
        slow = gone(total, rounds, rounds, schedule, pace=0.5)
        return (total * full + slow * half) / (full + half) - budget

    if excess(1.0) < 0:
        raise UsageError(
            f"{budget:g} of the weights cannot go while the output layer goes at half the rate: at most "
            f"{budget + excess(1.0):.4f} can"
        )
    return float(brentq(excess, 0.0, 1.0, xtol=1e-14, rtol=1e-14))
