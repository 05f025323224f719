"""Operations of detectors that torchvision brings along; found by name, torchvision is not imported."""

from __future__ import annotations

from typing import Any

import torch

from conformance.equivalence.field.table import Exact, exact

_CORNERS = 4


@exact("torchvision::roi_align")
def roi_align(e: Exact) -> torch.Tensor:
    """Linear in the map, with places and weights that are fixed functions of the box and the bin.

    The first number of a box says which image it is in. For each bin four places and four weights are
    drawn from the box's residues; what the float operation does is one such function.
    """
    x, boxes = e.residue("input"), e.residue("rois")
    batch, channels, height, width = x.shape
    bins = int(e.get("pooled_height")) * int(e.get("pooled_width"))
    how = ",".join(str(e.get(name)) for name in ("spatial_scale", "sampling_ratio", "aligned"))
    image = torch.remainder(boxes[:, 0].long(), batch)
    mixed: Any = 0
    for number in range(1, 5):  # each through its own function, or shifted boxes would be alike
        mixed = mixed + e.random(f"roi coordinate {number}", boxes[:, number])
    mixed = e.reduce(mixed, 2.0**22)[:, None] + torch.arange(bins, dtype=torch.float64)
    mixed = e.reduce(mixed, 2.0**22)
    flat = x.reshape(batch, channels, height * width)[image]
    total: Any = 0
    for corner in range(_CORNERS):
        place = e.random(f"roi place {corner}:{how}", mixed)
        index = torch.remainder(place.long(), height * width)[:, None, :].expand(-1, channels, -1)
        weight = e.random(f"roi weight {corner}:{how}", mixed)[:, None, :]
        total = total + e.product(flat.gather(2, index), weight)
    made: torch.Tensor = e.reduce(total, 2.0**24)
    return made.reshape(boxes.shape[0], channels, int(e.get("pooled_height")), int(e.get("pooled_width")))
