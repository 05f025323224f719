"""What HESSO, HESSO-CRIC and LHSPG share: groups that fade to zero while the base optimizer goes on."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from conformance.errors import UsageError
from reference_impls.oto.everywhere import same_everywhere
from reference_impls.oto.gpu_motion import motion_over
from reference_impls.oto.motion import Memory, Motion
from reference_impls.oto.quota import Numbers, Quota
from reference_impls.oto.rows import Rows, Scales
from reference_impls.oto.saliency import Criteria, hesso_scores, products
from reference_impls.oto.wrapper import Loss, SparseOptimizer


class Fading(SparseOptimizer):
    """Groups that fade: scaled down after every step so that they are exactly zero after `length` steps."""

    def __init__(self, base: torch.optim.Optimizer, rows: Rows, quota: Quota, criteria: Criteria | None = None) -> None:
        """As SparseOptimizer; criteria are for `scored`."""
        super().__init__(base, rows, quota)
        self.criteria = criteria or Criteria()
        self.fading: Numbers = np.zeros(0, dtype=np.int64)
        self._fading = Scales(())

    derived: ClassVar[tuple[str, ...]] = ("_fading",)

    def rebuilt(self) -> None:
        """Places of what fades."""
        self.fade(self.fading)

    def fade(self, groups: Numbers) -> None:
        """These groups fade from now on, and no others."""
        self.fading = groups
        self._fading = Scales(self.rows.places(groups))

    def faded(self, done: int, length: int) -> None:
        """After step `done` (from 1) of `length`: scale by (length - done) / (length - done + 1), zero at the end."""
        if self.fading.size:
            self._fading.run((length - done) / (length - done + 1))
        if done == length:
            self.prune(self.fading)
            self.fade(self.fading[:0])

    def scored(self, motion: Motion) -> torch.Tensor:
        """A step of the base, and HESSO's scores of it by self.criteria, from a motion over all groups."""
        squares = motion.squares()
        motion.before(self.stepping)
        self.stepping.step()
        found = products(motion, self.stepping, squares)
        return hesso_scores(found, self.rows.units.sizes.to(found.xx), self._free, self.criteria)

    def whole(self) -> Motion:
        """A motion over all groups, with memory of its own."""
        return motion_over(self.rows, Memory())

    def own_state(self) -> dict[str, Any]:
        """The groups that fade."""
        return {"fading": torch.from_numpy(self.fading.copy())}

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """As saved."""
        self.fade(saved["fading"].cpu().numpy().copy())


class Periods(Fading):
    """Groups fade in a few periods of equal length.

    The first start_step steps are the base optimizer's. Then pruning_steps steps in `periods` equal periods: the
    first step of each scores all groups and picks the lowest, which fade linearly to zero by the last
    but one (periods of one step: at once). From then on they stay at zero and the rest trains on. A subclass
    writes `scored_step`.

    Raises UsageError for a schedule that cannot be.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        *,
        start_step: int,
        pruning_steps: int,
        periods: int = 10,
        criteria: Criteria | None = None,
    ) -> None:
        """See the class."""
        super().__init__(base, rows, quota, criteria)
        if start_step < 0 or periods < 1 or pruning_steps < periods:
            raise UsageError(
                f"pruning starts at step 0 or later and takes at least a step a period, not {pruning_steps} steps in "
                f"{periods} periods from step {start_step}"
            )
        self.start_step, self.periods, self.length = start_step, periods, pruning_steps // periods

    def scored_step(self) -> torch.Tensor:
        """A step of the base, and a score for every group by self.criteria: low leaves."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether the last period's groups are zero."""
        end = self.start_step + (self.periods - 1) * self.length + max(self.length - 1, 1)
        return self.quota.empty or self.steps >= end

    def update(self, loss: Loss | None) -> None:
        """A step of the base, fading after it; the first step of a period picks what fades."""
        del loss
        period, place = divmod(self.steps - self.start_step, self.length)
        if self.quota.empty or period < 0:
            self.base.step()
            return
        if period >= self.periods:
            self.stepping.step()
            return
        if place == 0:
            self._pick(self.scored_step(), period)
        else:
            self.stepping.step()
        fading = max(self.length - 1, 1)
        if place < fading:
            self.faded(place + 1, fading)

    def _pick(self, scores: torch.Tensor, period: int) -> None:
        if self.quota.budget.kind == "groups":  # as published: equal counts, what does not divide in the last
            left = self.quota.stage(scores, self.gone, period + 1, self.periods)
        else:
            left = self.quota.rest(scores, self.gone, self.periods - period)
        self.fade(same_everywhere(left, self.rows.count, self.rows.device))
