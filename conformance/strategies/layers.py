"""Layers with weights or one function: linear, convolutions, embeddings, norms, activations, scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from conformance.strategies.description import MAPS, TOKENS, Form, Layer

Mode = Literal["zeros", "reflect", "replicate", "circular"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu6": nn.ReLU6,
    "elu": nn.ELU, "leaky": nn.LeakyReLU, "softplus": nn.Softplus, "hardswish": nn.Hardswish, "mish": nn.Mish,
    "hardsigmoid": nn.Hardsigmoid, "softsign": nn.Softsign, "logsigmoid": nn.LogSigmoid,
}  # fmt: skip


# -- weights ---------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Linear(Layer):
    """On flat and tokens."""

    outputs: int
    bias: bool = True

    def after(self, form: Form) -> Form:
        return form.wide(self.outputs)

    def module(self, form: Form) -> nn.Module:
        return nn.Linear(form.width, self.outputs, self.bias)


@dataclass(frozen=True, repr=False)
class PerPosition(Layer):
    """The same linear map at every position of any layout."""

    outputs: int
    bias: bool = True

    def after(self, form: Form) -> Form:
        return form.wide(self.outputs)

    def module(self, form: Form) -> nn.Module:
        if form.layout == MAPS:
            return CONVOLUTIONS[form.rank - 1](form.width, self.outputs, 1, bias=self.bias)
        return nn.Linear(form.width, self.outputs, self.bias)


@dataclass(frozen=True, repr=False)
class Conv(Layer):
    """On maps; the same numbers in every dimension. mode is torch's padding_mode."""

    outputs: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    mode: Mode = "zeros"

    def after(self, form: Form) -> Form:
        reach = self.dilation * (self.kernel - 1)
        sizes = tuple((size + 2 * self.padding - reach - 1) // self.stride + 1 for size in form.positions)
        return Form(MAPS, self.outputs, sizes)

    def module(self, form: Form) -> nn.Module:
        made: nn.Module = CONVOLUTIONS[form.rank - 1](
            form.width, self.outputs, self.kernel, self.stride, self.padding, self.dilation, self.groups, self.bias,
            self.mode,
        )  # fmt: skip
        return made


@dataclass(frozen=True, repr=False)
class ConvTranspose(Layer):
    """On maps; kernel at least as large as stride, no padding."""

    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = True

    def after(self, form: Form) -> Form:
        sizes = tuple((size - 1) * self.stride + self.kernel for size in form.positions)
        return Form(MAPS, self.outputs, sizes)

    def module(self, form: Form) -> nn.Module:
        made: nn.Module = TRANSPOSED[form.rank - 1](
            form.width, self.outputs, self.kernel, self.stride, groups=self.groups, bias=self.bias
        )
        return made


@dataclass(frozen=True, repr=False)
class Embedding(Layer):
    """Ids to tokens."""

    outputs: int

    def after(self, form: Form) -> Form:
        return Form(TOKENS, self.outputs, form.positions)

    def module(self, form: Form) -> nn.Module:
        return nn.Embedding(form.width, self.outputs)


# -- norms and pointwise functions ------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Norm(Layer):
    """kind: batch, layer (over the width), rms, group, instance, whole (layer norm of all but the batch), local.

    groups counts for `group` only; affine not for `local`. Instance and local norms are on maps.
    """

    kind: str = "batch"
    groups: int = 1
    affine: bool = True

    def module(self, form: Form) -> nn.Module:
        return NORMS[self.kind](self, form)


class Swapped(nn.Module):
    """A module of the last dimension on dimension 1, or the other way round.

    What comes out is contiguous: torch's local response norm refuses other memory.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.transpose(1, -1)).transpose(1, -1)
        return out.contiguous()


def _swapped(inner: nn.Module, swapped: bool) -> nn.Module:
    return Swapped(inner) if swapped else inner


def _batch_norm(norm: Norm, form: Form) -> nn.Module:
    made = BATCH_NORMS[max(form.rank, 1) - 1](form.width, affine=norm.affine)
    return _swapped(made, form.layout == TOKENS)


def _instance_norm(norm: Norm, form: Form) -> nn.Module:
    made: nn.Module = INSTANCE_NORMS[form.rank - 1](form.width, affine=norm.affine)
    return made


NORMS: dict[str, Callable[[Norm, Form], nn.Module]] = {
    "batch": _batch_norm,
    "layer": lambda norm, form: _swapped(nn.LayerNorm(form.width, elementwise_affine=norm.affine), form.layout == MAPS),
    "rms": lambda norm, form: _swapped(nn.RMSNorm(form.width, elementwise_affine=norm.affine), form.layout == MAPS),
    "group": lambda norm, form: _swapped(
        nn.GroupNorm(norm.groups, form.width, affine=norm.affine), form.layout == TOKENS
    ),
    "instance": _instance_norm,
    "whole": lambda norm, form: nn.LayerNorm(form.shape, elementwise_affine=norm.affine),
    "local": lambda norm, form: nn.LocalResponseNorm(3),
}


@dataclass(frozen=True, repr=False)
class Activation(Layer):
    """A function of ACTIVATIONS, or `softmax` over the width."""

    kind: str = "relu"

    def module(self, form: Form) -> nn.Module:
        return nn.Softmax(form.channel_dim) if self.kind == "softmax" else ACTIVATIONS[self.kind]()


@dataclass(frozen=True, repr=False)
class PRelu(Layer):
    """One slope, or one for each channel (not on tokens, where torch takes a slope a position)."""

    each: bool = False

    def module(self, form: Form) -> nn.Module:
        return nn.PReLU(form.width if self.each else 1)


class Affine(nn.Module):
    """scale * x + shift, with one of each a channel; each can be left out."""

    def __init__(self, shape: tuple[int, ...], scale: bool, shift: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full(shape, 0.3)) if scale else None
        self.shift = nn.Parameter(torch.zeros(shape)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift


@dataclass(frozen=True, repr=False)
class Scale(Layer):
    """Layer scale: a learned factor a channel, with a shift or without."""

    shift: bool = False

    def module(self, form: Form) -> nn.Module:
        shape = (form.width, *[1] * form.rank) if form.layout == MAPS else (form.width,)
        return Affine(shape, scale=True, shift=self.shift)


@dataclass(frozen=True, repr=False)
class Positions(Layer):
    """A learned position embedding, added."""

    def module(self, form: Form) -> nn.Module:
        return Drawn(form.shape)


class Drawn(nn.Module):
    """x + table, of the traced shape without the batch."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, *shape) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Nothing in evaluation mode."""

    def module(self, form: Form) -> nn.Module:
        return nn.Dropout(0.25)
