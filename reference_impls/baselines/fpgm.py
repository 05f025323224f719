"""FPGM: filters near the geometric median of their layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.method import DataNeed, Driver, Facts, Run
from reference_impls.baselines.criterion import UNKNOWN, Criterion, Members, left


@dataclass(frozen=True)
class Fpgm(Criterion):
    """Sum of the Euclidean distances of a filter to all filters of its layer: what the others can stand in for leaves.

    squared takes distances between squared weights, as one widely used implementation does.
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
