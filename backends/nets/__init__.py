"""Small nets, one for each pattern a pruner has to get right; importing this package registers them."""

from __future__ import annotations

from backends.nets import (
    attention,
    branches,
    chains,
    detection,
    gates,
    grouped,
    norms,
    recurrent,
    sharing,
    text,
    wiring,
)
from backends.nets.registry import NETS, NetRecord, net

__all__ = [
    "NETS", "NetRecord", "attention", "branches", "chains", "detection", "gates", "grouped", "net", "norms",
    "recurrent", "sharing", "text", "wiring",
]  # fmt: skip
