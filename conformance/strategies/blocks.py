"""Layers with several paths inside: residuals, branches, splits, gates, shared modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from conformance.strategies.description import Form, Layer, chain, through
from conformance.strategies.layers import ACTIVATIONS, CONVOLUTIONS

Stack = tuple[Layer, ...]


class Sum(nn.Module):
    """shortcut(x) + body(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.body(x)
        return out


@dataclass(frozen=True, repr=False)
class Residual(Layer):
    """body(x) + shortcut(x); an empty shortcut is x itself."""

    body: Stack
    shortcut: Stack = ()

    def after(self, form: Form) -> Form:
        return through(self.body, form)

    def module(self, form: Form) -> nn.Module:
        return Sum(chain(self.body, form), chain(self.shortcut, form))


class Joined(nn.Module):
    """Branches of one input, joined."""

    def __init__(self, branches: Sequence[nn.Module], join: str, dim: int) -> None:
        super().__init__()
        self.branches, self.join, self.dim = nn.ModuleList(branches), join, dim

    def forward(self, x: Tensor) -> Tensor:
        made = [branch(x) for branch in self.branches]
        if self.join == "cat":
            return torch.cat(made, self.dim)
        if self.join == "stack":
            return torch.stack(made, 1).sum(1)
        out: Tensor = made[0]
        for other in made[1:]:
            out = out * other if self.join == "product" else torch.maximum(out, other)
        return out


@dataclass(frozen=True, repr=False)
class Branches(Layer):
    """Side by side from one input. join: cat (along the width), stack (then summed), product, maximum."""

    bodies: tuple[Stack, ...]
    join: str = "cat"

    def after(self, form: Form) -> Form:
        forms = [through(body, form) for body in self.bodies]
        return forms[0].wide(sum(each.width for each in forms)) if self.join == "cat" else forms[0]

    def module(self, form: Form) -> nn.Module:
        return Joined([chain(body, form) for body in self.bodies], self.join, form.channel_dim)


class Parted(nn.Module):
    """The input cut along a dimension, a branch a piece, and put together again."""

    def __init__(self, branches: Sequence[nn.Module], sizes: tuple[int, ...], how: str, dim: int) -> None:
        super().__init__()
        self.branches, self.sizes, self.how, self.dim = nn.ModuleList(branches), sizes, how, dim

    def forward(self, x: Tensor) -> Tensor:
        pieces = self._pieces(x)
        return torch.cat([branch(piece) for branch, piece in zip(self.branches, pieces, strict=True)], self.dim)

    def _pieces(self, x: Tensor) -> Sequence[Tensor]:
        if self.how == "chunk":
            return x.chunk(len(self.sizes), self.dim)
        if self.how == "split":
            return torch.split(x, list(self.sizes), self.dim)
        ends = [sum(self.sizes[: number + 1]) for number in range(len(self.sizes))]
        return [x.narrow(self.dim, end - size, size) for end, size in zip(ends, self.sizes, strict=True)]


@dataclass(frozen=True, repr=False)
class Split(Layer):
    """The width cut into pieces of these sizes, each through its body, then side by side. how: split, chunk, narrow."""

    sizes: tuple[int, ...]
    bodies: tuple[Stack, ...]
    how: str = "split"

    def after(self, form: Form) -> Form:
        forms = [through(body, form.wide(size)) for body, size in zip(self.bodies, self.sizes, strict=True)]
        return forms[0].wide(sum(each.width for each in forms))

    def module(self, form: Form) -> nn.Module:
        made = [chain(body, form.wide(size)) for body, size in zip(self.bodies, self.sizes, strict=True)]
        return Parted(made, self.sizes, self.how, form.channel_dim)


class Repeated(nn.Module):
    """One module called twice, with an activation between the calls."""

    def __init__(self, body: nn.Module, between: nn.Module) -> None:
        super().__init__()
        self.body, self.between = body, between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.between(self.body(x)))
        return out


@dataclass(frozen=True, repr=False)
class Twice(Layer):
    """The same weights two times; the body keeps the form."""

    body: Stack
    between: str = "relu"

    def module(self, form: Form) -> nn.Module:
        return Repeated(chain(self.body, form), ACTIVATIONS[self.between]())


# -- gates -----------------------------------------------------------------------------------------


class Excite(nn.Module):
    """Channels of (B, C, ...) scaled by a gate made of their means."""

    def __init__(self, width: int, hidden: int, gate: nn.Module, rank: int, pointwise: bool) -> None:
        super().__init__()
        make = CONVOLUTIONS[rank - 1] if pointwise else nn.Linear
        arguments = (1,) if pointwise else ()
        self.squeeze, self.excite = make(width, hidden, *arguments), make(hidden, width, *arguments)
        self.gate, self.dims, self.pointwise = gate, tuple(range(2, rank + 2)), pointwise

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(self.excite(fn.relu(self.squeeze(x.mean(self.dims, keepdim=self.pointwise)))))
        if not self.pointwise:
            scale = scale.view(*scale.shape, *[1] * len(self.dims))
        out: Tensor = x * scale
        return out


@dataclass(frozen=True, repr=False)
class SqueezeExcite(Layer):
    """On maps; two linear layers, or pointwise convolutions."""

    hidden: int
    gate: str = "sigmoid"
    pointwise: bool = True

    def module(self, form: Form) -> nn.Module:
        return Excite(form.width, self.hidden, ACTIVATIONS[self.gate](), form.rank, self.pointwise)


class Halves(nn.Module):
    """The first half of a dimension times a function of the second."""

    def __init__(self, gate: nn.Module, dim: int) -> None:
        super().__init__()
        self.gate, self.dim = gate, dim

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, self.dim)
        out: Tensor = value * self.gate(gate)
        return out


@dataclass(frozen=True, repr=False)
class Glu(Layer):
    """Half of the width gates the other half; the function `glu` is torch's own."""

    gate: str = "glu"

    def after(self, form: Form) -> Form:
        return form.wide(form.width // 2)

    def module(self, form: Form) -> nn.Module:
        dim = form.channel_dim
        return nn.GLU(dim) if self.gate == "glu" else Halves(ACTIVATIONS[self.gate](), dim)


class GatedUnit(nn.Module):
    """down(up(x) * gate(x)) on the last dimension."""

    def __init__(self, width: int, hidden: int, act: nn.Module, bias: bool, fused: bool) -> None:
        super().__init__()
        self.hidden, self.act = hidden, act
        self.up = nn.Linear(width, 2 * hidden if fused else hidden, bias)
        self.gate = None if fused else nn.Linear(width, hidden, bias)
        self.down = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            value, gate = self.up(x).split([self.hidden, self.hidden], -1)
        else:
            value, gate = self.up(x), self.gate(x)
        out: Tensor = self.down(value * self.act(gate))
        return out


@dataclass(frozen=True, repr=False)
class Gated(Layer):
    """SwiGLU and its relatives, on flat and tokens; fused makes value and gate in one linear layer."""

    hidden: int
    gate: str = "silu"
    bias: bool = False
    fused: bool = False

    def module(self, form: Form) -> nn.Module:
        return GatedUnit(form.width, self.hidden, ACTIVATIONS[self.gate](), self.bias, self.fused)


class TiedUnit(nn.Module):
    """There with a weight and back with its transpose."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, width) * 0.3)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return fn.linear(fn.relu(fn.linear(x, self.weight, self.bias)), self.weight.t())


@dataclass(frozen=True, repr=False)
class Tied(Layer):
    """An autoencoder of one weight; on flat and tokens."""

    hidden: int

    def module(self, form: Form) -> nn.Module:
        return TiedUnit(form.width, self.hidden)
