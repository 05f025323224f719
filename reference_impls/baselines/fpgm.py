"""FPGM: filters near the geometric median of their layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import UNKNOWN, Criterion, Members, left


@dataclass(frozen=True)
class Fpgm(Criterion):
    """Filters near the geometric median of their layer leave first: the others can stand in for them.

    Score: s_j = sum over k of ||f_j - f_k||_2, f_j the row j of a kernel or matrix W (out, in, kh, kw), flattened, k
    over all rows that have not left; positions of one group are summed, members reduced, then divided by the axis'
    mean. Shape (count + 1,), float64; before normalising in the weights' unit. A group without a row in a matrix or
    kernel (norms and biases alone) stays.

    Data: D0, none.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.
        reduce=mean: how the members of a group join: mean, sum, max, prod, first (in the model's order).
        normalise=mean: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=producers: which count: all, producers (rows), consumers (the columns that read).
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        squared=false: true takes distances between squared weights, as one widely used implementation does.

    The result depends on the weights alone; the same vector added to all filters changes nothing (unless squared).
    Raises UsageError for an option that does not exist and a budget out of reach, and when no group has a filter.

    Source: He et al., Filter Pruning via Geometric Median, CVPR 2019. There layers lose the same share and filters are
    set to zero while training goes on; here it is a criterion over coupled groups, applied once (or in `steps`).
    """

    facts: ClassVar[Facts] = Facts(
        name="fpgm",
        summary="filters nearest to all others of their layer leave first",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="He et al., Filter Pruning via Geometric Median, CVPR 2019; over coupled groups",
    )
    members: Members = "producers"
    squared: bool = False

    @property
    def unknown(self) -> str:
        """Norms and biases have no filters."""
        return "none has a filter (a row or column of a matrix or kernel)"

    def local(self, run: Run) -> torch.Tensor:
        """Reduced over the members that are matrices or kernels; filters that have left count no more."""
        gone = left(run)
        lines, known = {}, {}
        for item in run.units.members(self.members):
            tensor = run.units.tensors[item.name].detach()
            numbers = item.rows(self.members)
            if tensor.ndim < 2:
                continue
            filters = tensor.movedim(item.dim, 0).flatten(1)
            filters = filters.square() if self.squared else filters
            here = torch.from_numpy(~gone[numbers]).to(tensor.device)
            # By differences: through products of matrices, near filters of large norm would be at any distance.
            far = torch.cdist(filters, filters[here], compute_mode="donot_use_mm_for_euclid_dist").sum(1)
            lines[item.name, item.dim], known[item.name, item.dim] = far, torch.ones_like(far)
        scores = run.units.from_lines(lines, self.reduce)
        return torch.where(run.units.from_lines(known) > 0, scores, UNKNOWN)
