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
    """Zero positions may go from the normalised dimensions: the subnet goes on dividing by the original width."""
    x, weight, bias = call["input"], call.get("weight"), call.get("bias")
    count = len(call["normalized_shape"])
    rows = [nonzero(labels) for labels in x.dims[: x.ndim - count]]
    lead = rows if bias is not None else x.dims[: x.ndim - count]
    statistics = [*rows, *(fixed(1) for _ in range(count))]
    return [[*lead, *_normalised(p, x, count, weight, bias)], *(statistics for _ in call.out_shapes[1:])]


@rule("rms_norm", "_fused_rms_norm")
def rms_norm(p: Pass, call: Call) -> list[Dims]:
    """As layer_norm, without a mean or a bias: zero stays zero."""
    x, weight = call["input"], call.get("weight")
    count = len(call["normalized_shape"])
    lead = x.dims[: x.ndim - count]
    statistics = [*(nonzero(labels) for labels in lead), *(fixed(1) for _ in range(count))]
    made = [*lead, *_normalised(p, x, count, weight, None, centred=False)]
    return [made, *(statistics for _ in call.out_shapes[1:])]


def _normalised(
    p: Pass, x: Labelled, count: int, weight: Labelled | None, bias: Labelled | None, *, centred: bool = True
) -> Dims:
    """The last `count` dimensions of x after their norm. A mean that is subtracted takes zeros away."""
    made: Dims = []
    for place in range(count):
        labels = x.dims[x.ndim - count + place]
        p.require_zero(labels, "is not zero where it is normalised over")
        own = [labels, *(tensor.dims[place] for tensor in (weight, bias) if tensor is not None)]
        for other in own[1:]:
            p.join(labels, other)
        base = next((line for line in own if not is_fixed(line)), labels)
        zero = np.zeros(labels.size, dtype=bool) if centred else labels > 0
        if weight is not None:
            zero = zero | (weight.dims[place] > 0)
        if bias is not None:
            zero = zero & (bias.dims[place] > 0)
        made.append(zero_if(base, zero))
    return made


@rule("native_group_norm", "group_norm")
def group_norm(p: Pass, call: Call) -> list[Dims]:
    """Whole norm groups leave, or the same zero channels of every group: the channels inside share their moments.

    One group over all channels is as a layer norm: zero channels may go.
    """
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
    # A group that is zero as a whole normalises to zero; single channels of one do not.
    together = np.ones(channels.size, dtype=bool)
    of_group = fixed(groups)
    if groups == 1:
        p.require_zero(channels, "is not zero where it is normalised over")
        together[:] = False
    elif not is_fixed(base):
        of_group = p.fresh(groups, "whole group")
        inside = p.fresh(channels.size // groups, "channel in group")
        p.grid(base, [of_group, inside], (groups, inside.size), prefer=0)
        together = np.abs(base) == np.repeat(np.abs(of_group), inside.size)
        p.require_zero(np.where(together, np.abs(channels), channels), "is not zero where it is normalised over")
    out = _affine_zero(zero_if(base, (channels > 0) & together), weight, bias, centred=True)
    rows = nonzero(x.dims[0])
    made = [x.dims[0] if bias is None else rows, out, *x.dims[2:]]
    return [made, *([rows, nonzero(of_group)] for _ in call.out_shapes[1:])]


@rule("_weight_norm_interface")
def weight_norm(p: Pass, call: Call) -> list[Dims]:
    """v * (g / norm of v over all dimensions but dim): zero slices along the others add nothing to the norm."""
    v, g = call["v"], call["g"]
    dim = v.axis(call.get("dim", 0))
    for at, labels in enumerate(v.dims):
        if at != dim:
            p.require_zero(labels, "is not zero where a weight norm sums it")
    line = g.dims[dim] if g.ndim == v.ndim else g.dims[0]
    p.join(v.dims[dim], line)
    # A zero direction has no norm, so the magnitude alone makes the slice zero: its labels go on.
    made = [line if at == dim else labels for at, labels in enumerate(v.dims)]
    return [made, [nonzero(labels) for labels in g.dims]]
