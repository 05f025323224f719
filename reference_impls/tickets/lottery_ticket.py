"""Lottery tickets: masks of the smallest weights, the others put back to where they began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Driver, Facts
from reference_impls.tickets.iterative_magnitude import IterativeMagnitude
from reference_impls.tickets.rounds import Reset


@dataclass(frozen=True)
class LotteryTicket(IterativeMagnitude):
    """The single weights nearest to zero are masked in rounds, the others put back to where they began and trained.

    Score: |w| at the end of each training, W (out, in, kh, kw) or (out, in), as in `magnitude`; in the weights' unit
    and dtype. After round L of R = rounds the share 1 - (1 - p)^(L / R) has gone (geometric), or p L / R (linear), p
    the budget; what is left trains from theta_0 (or theta_k) times the mask, with the running statistics of then and
    an optimizer that knows nothing. Masks are bool, of W's shape; a masked weight has no gradient and is zero after
    every step.

    Data: D3, training by the recipe, R + 1 times. The budget is in weights.

    Options:
        rounds=1: how often is pruned and trained.
        schedule=geometric: each round masks the same share of what is left; linear: of the whole.
        reset=init: the weights each round trains: from before training (init), from after `rewind` of it (rewind),
            drawn anew (random), or as they are, at the fine-tuning rate (keep).
        rewind=0: for reset=rewind, a share of the training below 1 or a number of steps; training goes on from there.
        control=none: the last round has random weights (random), or its masks at random places within each tensor
            (shuffle-layer) or across all (shuffle-global).
        dense_first=true: train the model before the first round; false takes it as trained.
        ranking=global: all weights are compared (global), or every tensor loses the same share (layer).
        output=include: the output layer is ranked too (include), stays whole (exclude), or goes at half rate (half).

    The result depends on the recipe, the data and the seed; every round sees the data in the same order, so report the
    mean of several seeds. Raises UsageError for options that do not exist or contradict each other, when nothing may
    be masked, and for a budget that the limits, or half the rate in the output layer, do not allow.

    Source: Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; rewinding: Frankle et al., ICML 2020. Exactly
    each round's share goes (a strict threshold takes all ties), and ignored weights are not counted.
    """

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
