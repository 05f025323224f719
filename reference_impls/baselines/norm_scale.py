"""The scales of batch norms, one figure a group."""

from __future__ import annotations

import torch

from conformance.method import Run, Slices
from conformance.method.units import Reduce
from reference_impls.baselines.criterion import position_means

BATCH_NORMS = (torch.nn.modules.batchnorm._BatchNorm,)


def is_scale(run: Run, item: Slices) -> bool:
    """Whether a member is the scale of a batch norm of one, two or three dimensions."""
    path, _, leaf = item.name.rpartition(".")
    return leaf == "weight" and isinstance(run.model.get_submodule(path), BATCH_NORMS)


def scales(run: Run, reduce: Reduce) -> torch.Tensor:
    """|gamma| of each group, reduced over its batch norms; UNKNOWN for a group without one. Shape (count + 1,)."""
    lines = {
        (item.name, item.dim): run.units.tensors[item.name].detach().abs()
        for item in run.units.members("producers")
        if is_scale(run, item)
    }
    return position_means(run, lines, reduce)
