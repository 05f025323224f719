"""Layers that change which positions or channels there are, or their order: pooling, resizing, shuffles, padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from conformance.strategies.description import FLAT, MAPS, TOKENS, Form, Layer

POOLS = {
    "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "average": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
}
ADAPTIVE = {
    "max": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "average": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
}


class Plain(nn.Module):
    """A function of the input without state of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# -- pooling and resizing ---------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Pool(Layer):
    """kind: max or average; on maps."""

    kind: str = "max"
    kernel: int = 2
    stride: int = 2
    padding: int = 0

    def after(self, form: Form) -> Form:
        sizes = tuple((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in form.positions)
        return Form(MAPS, form.width, sizes)

    def module(self, form: Form) -> nn.Module:
        made: nn.Module = POOLS[self.kind][form.rank - 1](self.kernel, self.stride, self.padding)
        return made


@dataclass(frozen=True, repr=False)
class AdaptivePool(Layer):
    """To `size` positions in every dimension of maps."""

    kind: str = "average"
    size: int = 1

    def after(self, form: Form) -> Form:
        return Form(MAPS, form.width, (self.size,) * form.rank)

    def module(self, form: Form) -> nn.Module:
        made: nn.Module = ADAPTIVE[self.kind][form.rank - 1](self.size)
        return made


@dataclass(frozen=True, repr=False)
class Upsample(Layer):
    """Twice the positions of maps; smooth is linear in every dimension, else the nearest."""

    smooth: bool = False

    def after(self, form: Form) -> Form:
        return Form(MAPS, form.width, tuple(2 * size for size in form.positions))

    def module(self, form: Form) -> nn.Module:
        smooth = ("linear", "bilinear", "trilinear")[form.rank - 1]
        return nn.Upsample(scale_factor=2, mode=smooth if self.smooth else "nearest")


@dataclass(frozen=True, repr=False)
class Summary(Layer):
    """One vector of maps or tokens: mean or max over positions, or the first of them."""

    kind: str = "mean"

    def after(self, form: Form) -> Form:
        return Form(FLAT, form.width)

    def module(self, form: Form) -> nn.Module:
        dims = tuple(range(2, form.rank + 2)) if form.layout == MAPS else (1,)
        if self.kind == "mean":
            return Plain(lambda x: x.mean(dims))
        if self.kind == "max":
            return Plain(lambda x: x.amax(dims))
        return Plain(lambda x: x.flatten(2)[:, :, 0]) if form.layout == MAPS else Plain(lambda x: x[:, 0])


@dataclass(frozen=True, repr=False)
class Flatten(Layer):
    """One vector of all positions."""

    def after(self, form: Form) -> Form:
        return Form(FLAT, math.prod(form.shape))

    def module(self, form: Form) -> nn.Module:
        return nn.Flatten()


@dataclass(frozen=True, repr=False)
class ToTokens(Layer):
    """Maps to tokens, a position each."""

    def after(self, form: Form) -> Form:
        return Form(TOKENS, form.width, (math.prod(form.positions),))

    def module(self, form: Form) -> nn.Module:
        return Plain(lambda x: x.flatten(2).transpose(1, 2))


@dataclass(frozen=True, repr=False)
class ToMaps(Layer):
    """Tokens to maps of one dimension."""

    def after(self, form: Form) -> Form:
        return Form(MAPS, form.width, form.positions)

    def module(self, form: Form) -> nn.Module:
        return Plain(lambda x: x.transpose(1, 2))


class WithClass(nn.Module):
    """A learned vector in front of the tokens of (B, N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


@dataclass(frozen=True, repr=False)
class ClassToken(Layer):
    """One learned token more."""

    def after(self, form: Form) -> Form:
        return Form(TOKENS, form.width, (form.positions[0] + 1,))

    def module(self, form: Form) -> nn.Module:
        return WithClass(form.width)


# -- channels in another order or number -------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Shuffle(Layer):
    """Channels read in columns of `groups` rows; on maps. The width is read from the input, or constant in the code."""

    groups: int
    constant: bool = False

    def module(self, form: Form) -> nn.Module:
        groups, known = self.groups, form.width

        def shuffle(x: Tensor) -> Tensor:
            width = known if self.constant else x.shape[1]
            y = x.view(x.shape[0], groups, width // groups, *x.shape[2:])
            return y.transpose(1, 2).reshape(x.shape[0], width, *x.shape[2:])

        return Plain(shuffle)


class Indexed(nn.Module):
    """Positions `order` of a dimension."""

    order: Tensor

    def __init__(self, order: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, self.order)


@dataclass(frozen=True, repr=False)
class Rearranged(Layer):
    """Channels in another order: flip, roll (by one), even (every second one only), index (by a fixed table)."""

    kind: str = "flip"

    def after(self, form: Form) -> Form:
        return form.wide((form.width + 1) // 2) if self.kind == "even" else form

    def module(self, form: Form) -> nn.Module:
        dim = form.channel_dim
        if self.kind == "index":
            return Indexed(torch.randperm(form.width), dim)
        if self.kind == "even":
            return Plain(lambda x: x[:, ::2]) if dim == 1 else Plain(lambda x: x[..., ::2])
        return Plain(lambda x: x.flip(dim)) if self.kind == "flip" else Plain(lambda x: x.roll(1, dim))


@dataclass(frozen=True, repr=False)
class Padded(Layer):
    """Zero channels in front and behind."""

    before: int = 1
    behind: int = 0

    def after(self, form: Form) -> Form:
        return form.wide(form.width + self.before + self.behind)

    def module(self, form: Form) -> nn.Module:
        pads: list[Any] = [0, 0] * form.rank if form.layout == MAPS else []
        pads += [self.before, self.behind]
        return Plain(lambda x: fn.pad(x, pads))


@dataclass(frozen=True, repr=False)
class Maxout(Layer):
    """The largest of `pieces` neighbouring channels."""

    pieces: int = 2

    def after(self, form: Form) -> Form:
        return form.wide(form.width // self.pieces)

    def module(self, form: Form) -> nn.Module:
        dim, pieces = form.channel_dim, self.pieces
        return Plain(lambda x: torch.unflatten(x, dim, (-1, pieces)).amax(dim + 1))


@dataclass(frozen=True, repr=False)
class PixelShuffle(Layer):
    """Blocks of 2 x 2 pixels into channels, or back with `up`; on maps of two dimensions."""

    up: bool = False

    def after(self, form: Form) -> Form:
        if self.up:
            return Form(MAPS, form.width // 4, tuple(2 * size for size in form.positions))
        return Form(MAPS, form.width * 4, tuple(size // 2 for size in form.positions))

    def module(self, form: Form) -> nn.Module:
        return nn.PixelShuffle(2) if self.up else nn.PixelUnshuffle(2)
