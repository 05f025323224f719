"""Exact rules for normalisations and softmax: exact moments, random functions of the divisor."""

from __future__ import annotations

from typing import Any

import torch

from conformance.equivalence.field.linear import mean_over, variance_over
from conformance.equivalence.field.table import Exact, exact


def _rsqrt(e: Exact, variance: torch.Tensor, eps: Any) -> torch.Tensor:
    return e.random("rsqrt", e.reduce(variance + e.field.number(eps), 2.0**20))


def _affine(e: Exact, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    if weight is not None:
        x = e.product(x, weight)
    return x if bias is None else e.reduce(x + bias, 2.0**20)


@exact("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
       "batch_norm", "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm")  # fmt: skip
def batch_norm(e: Exact) -> Any:
    """(x - mean) * rsqrt(var + eps) * weight + bias, per channel."""
    x = e.residue("input")
    weight, bias = (e.fitting(name, x.shape[1]) for name in ("weight", "bias"))
    shape = [1, -1, *[1] * (x.ndim - 2)]
    training = bool(e.get("training", e.get("train", False)))
    if training or e.get("running_mean") is None:
        variance, mean = variance_over(e, x, [at for at in range(x.ndim) if at != 1], 0.0, True)
    else:
        mean, variance = (e.fitting(name, x.shape[1]).view(shape) for name in ("running_mean", "running_var"))
    scale = _rsqrt(e, variance, e.get("eps", e.get("epsilon")))
    made = e.product(e.reduce(x - mean, 2.0**20), scale)
    made = _affine(e, made, *(None if t is None else t.view(shape) for t in (weight, bias)))
    statistics = [mean.flatten(), scale.flatten()] if training else [x.new_zeros(0), x.new_zeros(0)]
    extra = len(e.op._schema.returns) - 3
    return (made, *statistics, *[x.new_zeros(0)] * max(extra, 0)) if extra >= 0 else made


def _over(e: Exact) -> tuple[list[int], list[int], torch.Tensor]:
    """(sizes, dimensions, input) of a norm over the last dimensions, which must have these sizes."""
    sizes, x = list(e.get("normalized_shape")), e.residue("input")
    dims = list(range(x.ndim - len(sizes), x.ndim))
    if [x.shape[dim] for dim in dims] != sizes:
        raise ValueError(f"{e.name} is over sizes {sizes}, its input has shape {tuple(x.shape)}")
    return sizes, dims, x


@exact("native_layer_norm", "layer_norm")
def layer_norm(e: Exact) -> Any:
    """Moments over the last dimensions."""
    sizes, dims, x = _over(e)
    variance, mean = variance_over(e, x, dims, 0.0, True)
    scale = _rsqrt(e, variance, e.get("eps"))
    weight, bias = (e.fitting(name, *sizes) for name in ("weight", "bias"))
    made = _affine(e, e.product(e.reduce(x - mean, 2.0**20), scale), weight, bias)
    return (made, mean, scale) if e.name == "native_layer_norm" else made


@exact("rms_norm", "_fused_rms_norm")
def rms_norm(e: Exact) -> Any:
    """x * rsqrt(mean(x*x) + eps) * weight."""
    sizes, dims, x = _over(e)
    eps = e.get("eps")
    scale = _rsqrt(e, mean_over(e, e.product(x, x), dims, True), torch.finfo(torch.float32).eps if eps is None else eps)
    made = _affine(e, e.product(x, scale), e.fitting("weight", *sizes), None)
    return (made, scale) if e.name == "_fused_rms_norm" else made


@exact("native_group_norm", "group_norm")
def group_norm(e: Exact) -> Any:
    """Moments over each group of channels and all space."""
    x = e.residue("input")
    groups = e.get("group", e.get("num_groups"))
    parts = x.reshape(x.shape[0], groups, -1)
    variance, mean = variance_over(e, parts, [2], 0.0, True)
    scale = _rsqrt(e, variance, e.get("eps"))
    made = e.product(e.reduce(parts - mean, 2.0**20), scale).view(x.shape)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    affine = (e.fitting(name, x.shape[1]) for name in ("weight", "bias"))
    made = _affine(e, made, *(None if t is None else t.view(shape) for t in affine))
    return (made, mean.squeeze(-1), scale.squeeze(-1)) if e.name == "native_group_norm" else made


@exact("_softmax", "softmax", "_safe_softmax")
def softmax(e: Exact) -> torch.Tensor:
    """phi_exp(x) over the exact sum of phi_exp(x)."""
    powers = e.random("exp", e.residue("self"), torch.exp)
    total = e.reduce(torch.sum(powers, e.get("dim"), keepdim=True))
    return e.product(powers, e.random("reciprocal", total))


@exact("_log_softmax", "log_softmax")
def log_softmax(e: Exact) -> torch.Tensor:
    """x - phi_log(sum of phi_exp(x))."""
    x = e.residue("self")
    total = e.reduce(torch.sum(e.random("exp", x, torch.exp), e.get("dim"), keepdim=True))
    return e.reduce(x - e.random("log", total), 2.0**20)


@exact("logsumexp")
def logsumexp(e: Exact) -> torch.Tensor:
    """phi_log(sum of phi_exp(x))."""
    powers = e.random("exp", e.residue("self"), torch.exp)
    return e.random("log", e.reduce(torch.sum(powers, e.get("dim"), keepdim=bool(e.get("keepdim")))))


@exact("log_sigmoid_forward")
def log_sigmoid(e: Exact) -> Any:
    """A random function of x."""
    x = e.residue("self")
    return e.random("log_sigmoid", x), x.new_zeros(0)


@exact("_weight_norm_interface")
def weight_norm(e: Exact) -> Any:
    """v * g / norm(v), the norm over all dimensions but dim."""
    v, g = e.residue("v"), e.residue("g")
    dim = e.get("dim", 0) % v.ndim
    others = [at for at in range(v.ndim) if at != dim]
    square = e.reduce(torch.sum(e.product(v, v), others, keepdim=True))
    scale = e.product(g.reshape(square.shape), e.random("reciprocal", e.random("sqrt", square, torch.sqrt)))
    return e.product(v, scale), square.reshape(e.get("g").shape)
