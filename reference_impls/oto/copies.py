"""Sparse optimizers that are copied and pickled, as torch's own can be: with what they decide by, without caches.

A traced graph holds operations of torch, which cannot be pickled, and the model's own code. What has been counted in it
stays true without it.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from conformance.errors import UsageError
from conformance.method import Cost
from conformance.method.units import Units
from conformance.partition.groups import Groups
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows


def portable(rows: Rows, quota: Quota) -> tuple[Rows, Quota]:
    """The same over the same tensors, with groups that have forgotten what was traced but its state's names and shapes.

    Raises UsageError for a budget in latency, which is measured on the model.
    """
    if quota.cost.latency is not None:
        raise UsageError("an optimizer whose budget is measured in time cannot be pickled: save its state_dict()")
    quota.cost.macs()  # counted while the operations are there
    groups = _without_operations(quota.groups)
    cost = Cost(groups)
    vars(cost).update({name: value for name, value in vars(quota.cost).items() if name not in ("groups", "latency")})
    units = rows.units
    return Rows(Units(groups, units.slices, units.tensors)), replace(quota, groups=groups, cost=cost)


def _without_operations(groups: Groups) -> Groups:
    graph = replace(
        groups.graph,
        model=nn.Module(),
        args=(),
        kwargs={},
        nodes=(),
        output_tree=None,
        constants={},
        calls=(),
        reads=(),
    )
    return replace(groups, graph=graph)
