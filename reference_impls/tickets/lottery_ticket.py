"""Lottery tickets: masks of the smallest weights, the others put back to where they began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.tickets.iterative_magnitude import IterativeMagnitude
from reference_impls.tickets.rounds import Reset


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
