"""What each ATen operation says about the positions of its operands, one small function each."""

from conformance.partition.rules import (
    contraction,
    creation,
    detection,
    elementwise,
    indexing,
    normalisation,
    reduction,
    shape,
)
from conformance.partition.rules.registry import RULES, Call, base_name, hold_all, rule

__all__ = [
    "RULES",
    "Call",
    "base_name",
    "contraction",
    "creation",
    "detection",
    "elementwise",
    "hold_all",
    "indexing",
    "normalisation",
    "reduction",
    "rule",
    "shape",
]
