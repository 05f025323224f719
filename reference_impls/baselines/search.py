"""Search by drawing: random shares for the axes, each candidate measured, the best one wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Decision, Driver, Facts, Method, Run
from conformance.method.units import Reduce
from reference_impls.baselines.magnitude import magnitude


@dataclass(frozen=True)
class RandomSearch(Method):
    """Draws how much each axis loses, measures every candidate, and keeps the best.

    Candidate: a share for each axis, uniform on [1 / spread, 1]; a group's score is its place in its axis (from 0 to
    1, by its sum of |w| over rows and columns of W (out, in, kh, kw), or in random order) over the axis' share,
    without a unit; shape (count + 1,), float64. The lowest leave until the budget is met, so that an axis loses in
    proportion to its share. The host estimates each candidate's batch norm statistics anew, on 10 unlabelled batches
    of 64, and measures it on the validation split; those of the winner are estimated once more for the result.

    Data: D2, labelled batches: the validation split is measured on, never the test split.

    Options:
        candidates=20: how many are measured.
        within=l1: which groups of an axis leave: the smallest sums of |w| (l1), or random ones.
        spread=10: the largest share over the smallest; 1 gives every axis the same.
        reduce=mean: how the members of a group join for l1: mean, sum, max, prod, first (in the model's order).

    The result depends on the weights, the data and the seed, which draws the candidates: by position, so that
    renumbering channels may give others. Raises UsageError for an option that does not exist and a budget out of
    reach.

    Source: after Li et al., EagleEye: Fast Sub-net Evaluation for Efficient Pruning, ECCV 2020; reconstructed. There
    draws that miss the target are thrown away; here each is brought to the budget.
    """

    facts: ClassVar[Facts] = Facts(
        name="random-search",
        summary="the best of several random allocations, measured after recalibration",
        driver=Driver.SEARCH,
        data=DataNeed.LABELLED,
        paper="after Li et al., EagleEye: Fast Sub-net Evaluation for Efficient Pruning, ECCV 2020; reconstructed",
        equivariant=False,
    )
    candidates: int = 20
    within: Literal["l1", "random"] = "l1"
    spread: float = 10.0
    reduce: Reduce = "mean"

    def __post_init__(self) -> None:
        """Raise UsageError for a choice that does not exist."""
        if self.candidates < 1 or not self.spread >= 1:
            raise UsageError(f"{self.name}: candidates and spread are at least 1")
        if self.within not in ("l1", "random"):
            raise UsageError(f"{self.name}: within is l1 or random, not {self.within!r}")
        if self.reduce not in get_args(Reduce):
            raise UsageError(f"{self.name}: there are {', '.join(get_args(Reduce))}, but no {self.reduce!r}")

    def propose(self, run: Run, number: int) -> Decision | None:
        """Candidate `number`, the same for the same seed; None after the last.

        Raises UsageError when the budget cannot be reached.
        """
        if number >= self.candidates:
            return None
        generator = run.rng(f"candidate {number}")
        axes = int(run.groups.axis_of.max(initial=-1)) + 1
        share = 1 / self.spread + (1 - 1 / self.spread) * torch.rand(axes, generator=generator, dtype=torch.float64)
        if self.within == "l1":
            line = magnitude(run, 1, self.reduce, "all").double().cpu()
        else:
            line = torch.rand(run.groups.count + 1, generator=generator, dtype=torch.float64)
        place = _places(run.groups.axis_of[1:], line.numpy()[1:])
        # Places divided by shares: at any threshold an axis has lost groups in proportion to its share.
        scores = np.concatenate([[0.0], place / share.numpy()[run.groups.axis_of[1:]]])
        return self.select(run, torch.from_numpy(scores))

    def finalize(self, run: Run, decision: Decision) -> None:
        """Batch norm statistics as the winner was measured with."""
        del decision
        run.calibrate(run.model)


def _places(axis: npt.NDArray[np.int64], line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each entry's place in its axis by size, as a share in (0, 1]."""
    by = np.lexsort((np.arange(line.size), line, axis))
    size = np.bincount(axis)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    place: npt.NDArray[np.float64] = np.empty(line.size)
    place[by] = np.arange(line.size) - start[axis[by]] + 1
    return place / size[axis]
