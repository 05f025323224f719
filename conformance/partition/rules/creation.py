"""Operations that make tensors from nothing."""

from __future__ import annotations

import numpy as np

from conformance.partition.labels import Labelled, Pass, fixed, nonzero
from conformance.partition.rules.registry import Call, Dims, hold_all, rule


@rule("zeros", "new_zeros", "ones", "new_ones", "full", "new_full", "empty", "new_empty", "empty_like", "zeros_like",
      "ones_like", "full_like", "empty_strided", "new_empty_strided")  # fmt: skip
def constant_fill(p: Pass, call: Call) -> list[Dims]:
    """Every position holds the same number, so any of them may go."""
    name = call.node.op._schema.name
    like = call.tensors[0].dims if name.endswith("_like") else None
    value = call.get("fill_value", 0)
    zero = "zeros" in name or ("full" in name and not isinstance(value, Labelled) and value == 0)
    dims: Dims = []
    for at, size in enumerate(call.shape):
        if like is not None:  # follows its operand's shape
            dims.append(np.abs(like[at]) if zero else nonzero(like[at]))
            continue
        labels = p.fresh(size, ("fill", at)) if _may_shrink(call) else fixed(size)
        p.copied(labels)
        dims.append(labels if zero else nonzero(labels) if not p.collecting else labels)
    return [dims]


def _may_shrink(call: Call) -> bool:
    """A filled tensor of floats; counts and masks are left as they are."""
    return call.get("dtype") is None or bool(call["dtype"].is_floating_point)


@rule("arange", "linspace", "logspace", "eye", "scalar_tensor", "tril_indices", "triu_indices", "rand", "randn",
      "randint", "randperm", "bernoulli", "normal", "uniform", "rand_like", "randn_like", "exponential",
      "_local_scalar_dense", "item", "result_type")  # fmt: skip
def numbered(p: Pass, call: Call) -> list[Dims]:
    """Positions differ by their number or by chance: none may go, nor any of a tensor they are drawn for."""
    return hold_all(p, call, "is numbered or drawn at random")
