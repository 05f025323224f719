"""Normalisations as single operations (others arrive decomposed into means and products)."""

from __future__ import annotations

import numpy as np

from conformance.partition.labels import Labelled, Labels, Pass, fixed, is_fixed, nonzero, zero_if
from conformance.partition.rules.registry import Call, Dims, rule


def _affine_zero(x_zero: Labels, weight: Labelled | None, bias: Labelled | None, centred: bool) -> Labels:
    """Sign of weight * normalised + bias. centred: a zero input normalises to zero."""
    zero = (x_zero > 0) & centred
    if weight is not None:
        zero = zero | (weight.dims[0] > 0)
    if bias is not None:
        zero = zero & (bias.dims[0] > 0)
    return zero_if(x_zero, zero)


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_functional",
      "_batch_norm_no_update")  # fmt: skip
def batch_norm(p: Pass, call: Call) -> list[Dims]:
    """Per channel: everything of the channel goes together."""
    x = call.tensors[0]
    weight, bias, mean, var = (call.get(name) for name in ("weight", "bias", "running_mean", "running_var"))
    always = call.node.op._schema.name == "aten::_batch_norm_with_update"
    training = always or bool(call.get("training", call.get("train", False)))
    call.not_a_weight(mean, var)
    channels = x.dims[1]
    for tensor in (weight, bias, mean, var):
        if tensor is not None:
            p.join(channels, tensor.dims[0])
    if training:
        for at, labels in enumerate(x.dims):
            if at != 1:
                p.fix(labels, "is averaged over by a batch norm")
    base = channels
    if is_fixed(channels):
        base = next((t.dims[0] for t in (weight, bias, mean) if t is not None and not is_fixed(t.dims[0])), channels)
    out = _affine_zero(zero_if(base, channels > 0), weight, bias, centred=training)
    rest = [labels if at != 1 else out for at, labels in enumerate(x.dims)]
    if not training:
        rest = [labels if at == 1 else nonzero(labels) for at, labels in enumerate(rest)]
    return [rest, *(_statistics(shape, out) for shape in call.out_shapes[1:])]


def _statistics(shape: tuple[int, ...], channels: Labels) -> Dims:
    """Saved statistics: per channel when they have one number a channel."""
    return [nonzero(channels) if size == channels.size else fixed(size) for size in shape]


@rule("native_layer_norm", "layer_norm")
def layer_norm(p: Pass, call: Call) -> list[Dims]:
    """The normalised dimensions stay; the others are independent rows."""
    x, weight, bias = call["input"], call.get("weight"), call.get("bias")
    count = len(call["normalized_shape"])
    lead = x.ndim - count
    for at in range(lead, x.ndim):
        p.fix(x.dims[at], "is normalised over by a layer norm")
        for tensor in (weight, bias):
            if tensor is not None:
                p.join(x.dims[at], tensor.dims[at - lead])
                p.fix(tensor.dims[at - lead], "is normalised over by a layer norm")
    rows = [nonzero(labels) for labels in x.dims[:lead]]
    made: Dims = [*(x.dims[:lead] if bias is None else rows), *x.dims[lead:]]
    return [made, *([*rows, *(fixed(1) for _ in range(count))] for _ in call.out_shapes[1:])]


@rule("rms_norm", "_fused_rms_norm")
def rms_norm(p: Pass, call: Call) -> list[Dims]:
    """As layer_norm, without a mean or a bias."""
    x, weight = call["input"], call.get("weight")
    count = len(call["normalized_shape"])
    lead = x.ndim - count
    for at in range(lead, x.ndim):
        p.fix(x.dims[at], "is normalised over by an RMS norm")
        if weight is not None:
            p.join(x.dims[at], weight.dims[at - lead])
            p.fix(weight.dims[at - lead], "is normalised over by an RMS norm")
    rows = [nonzero(labels) for labels in x.dims[:lead]]
    return [list(x.dims), *([*rows, *(fixed(1) for _ in range(count))] for _ in call.out_shapes[1:])]


@rule("native_group_norm", "group_norm")
def group_norm(p: Pass, call: Call) -> list[Dims]:
    """Whole norm groups leave together: the channels inside one share their moments."""
    x, weight, bias = call["input"], call.get("weight"), call.get("bias")
    groups = call.get("group", call.get("num_groups"))
    channels = x.dims[1]
    for tensor in (weight, bias):
        if tensor is not None:
            p.join(channels, tensor.dims[0])
    for labels in x.dims[2:]:
        p.fix(labels, "is normalised over by a group norm")
    base = channels
    if is_fixed(base):
        base = next((t.dims[0] for t in (weight, bias) if t is not None), base)
    if groups == 1:
        p.fix(base, "is normalised over by a group norm of one group")
    elif not is_fixed(base):
        parts = base.reshape(groups, -1)
        for column in range(1, parts.shape[1]):
            p.join(np.ascontiguousarray(parts[:, 0]), np.ascontiguousarray(parts[:, column]))
    out = _affine_zero(zero_if(base, channels > 0), weight, bias, centred=True)
    rows = nonzero(x.dims[0])
    made = [x.dims[0] if bias is None else rows, out, *x.dims[2:]]
    of_group = fixed(groups) if is_fixed(base) else nonzero(np.ascontiguousarray(base.reshape(groups, -1)[:, 0]))
    return [made, *([rows, of_group] for _ in call.out_shapes[1:])]


@rule("_weight_norm_interface")
def weight_norm(p: Pass, call: Call) -> list[Dims]:
    """v * (g / norm of v over all dimensions but dim): only slices along dim are independent."""
    v, g = call["v"], call["g"]
    dim = v.axis(call.get("dim", 0))
    for at, labels in enumerate(v.dims):
        if at != dim:
            p.fix(labels, "is normalised over by a weight norm")
    line = g.dims[dim] if g.ndim == v.ndim else g.dims[0]
    p.join(v.dims[dim], line)
    # A zero direction has no norm, so the magnitude alone makes the slice zero: its labels go on.
    made = [line if at == dim else labels for at, labels in enumerate(v.dims)]
    return [made, [nonzero(labels) for labels in g.dims]]
