"""Operations of detectors that torchvision brings along; found by name, torchvision is not imported."""

from __future__ import annotations

from conformance.partition.labels import Pass, fixed
from conformance.partition.rules.registry import Call, Dims, rule


@rule("torchvision::roi_align")
def roi_align(p: Pass, call: Call) -> list[Dims]:
    """(N, C, H, W) sampled in boxes (K, 5) gives (K, C, *bins): channels ride along."""
    x, boxes = call["input"], call["rois"]
    for labels in (x.dims[0], *x.dims[2:], *boxes.dims):
        p.fix(labels, "is sampled at computed places")
    return [[fixed(call.shape[0]), x.dims[1], *(fixed(size) for size in call.shape[2:])]]


@rule("torchvision::nms")
def nms(p: Pass, call: Call) -> list[Dims]:
    """Boxes (K, 4) and scores (K,) give numbers of boxes."""
    for tensor in call.tensors:
        for labels in tensor.dims:
            p.fix(labels, "is compared with other boxes")
    return [[fixed(size) for size in shape] for shape in call.out_shapes]
