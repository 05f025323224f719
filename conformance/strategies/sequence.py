"""Layers that mix tokens: attention written in several ways, torch's own modules, recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from conformance.strategies.description import Form, Layer

SEPARATE, ROWS, CHUNKS, HEADS, EINSUM = "separate", "rows", "chunks", "heads", "einsum"
STYLES = (SEPARATE, ROWS, CHUNKS, HEADS, EINSUM)


@dataclass(frozen=True, repr=False)
class Attention(Layer):
    """Self-attention of tokens with an output layer back to their width.

    style says how queries, keys and values are made: `separate` linear layers; one for all three, cut by
    reshape and unbind (`rows`), in thirds (`chunks`) or inside every head (`heads`); `einsum` with weights of
    shape (heads, D, width). Only `separate` and `einsum` have values of another width (value_width, 0 for the
    same), only `separate` has `shared` query heads a key head. scaled uses scaled_dot_product_attention.
    """

    heads: int
    width: int
    style: str = SEPARATE
    value_width: int = 0
    shared: int = 1
    scaled: bool = True
    causal: bool = False
    bias: bool = True

    def module(self, form: Form) -> nn.Module:
        if self.style == EINSUM:
            return EinsumHeads(self, form.width)
        return SeparateHeads(self, form.width) if self.style == SEPARATE else FusedHeads(self, form.width)


def mix(query: Tensor, key: Tensor, value: Tensor, scaled: bool, causal: bool) -> Tensor:
    """Attention of (B, heads, N, width)."""
    if scaled:
        return fn.scaled_dot_product_attention(query, key, value, is_causal=causal)
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    mixed: Tensor = scores.softmax(-1) @ value
    return mixed


class SeparateHeads(nn.Module):
    def __init__(self, given: Attention, dim: int) -> None:
        super().__init__()
        self.heads, self.shared, self.width = given.heads, given.shared, given.width
        self.value_width = given.value_width or given.width
        self.scaled, self.causal = given.scaled, given.causal
        self.query = nn.Linear(dim, self.heads * self.shared * self.width, given.bias)
        self.key = nn.Linear(dim, self.heads * self.width, given.bias)
        self.value = nn.Linear(dim, self.heads * self.value_width, given.bias)
        self.out = nn.Linear(self.heads * self.shared * self.value_width, dim, given.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads * self.shared, self.width).transpose(1, 2)
        key = self.key(x).view(batch, length, self.heads, self.width).transpose(1, 2)
        value = self.value(x).view(batch, length, self.heads, self.value_width).transpose(1, 2)
        if self.shared > 1:
            key, value = key.repeat_interleave(self.shared, 1), value.repeat_interleave(self.shared, 1)
        mixed = mix(query, key, value, self.scaled, self.causal).transpose(1, 2)
        out: Tensor = self.out(mixed.reshape(batch, length, -1))
        return out


class FusedHeads(nn.Module):
    def __init__(self, given: Attention, dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.style = given.heads, given.width, given.style
        self.scaled, self.causal = given.scaled, given.causal
        self.inner = given.heads * given.width
        self.qkv = nn.Linear(dim, 3 * self.inner, given.bias)
        self.proj = nn.Linear(self.inner, dim, given.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = self._heads(self.qkv(x))
        mixed = mix(query, key, value, self.scaled, self.causal)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, self.inner))
        return out

    def _heads(self, made: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = made.shape
        if self.style == ROWS:
            rows = made.reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            return rows.unbind(0)
        if self.style == CHUNKS:
            return tuple(
                torch.unflatten(part, -1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in made.chunk(3, -1)
            )
        heads = made.view(batch, length, self.num_heads, 3 * self.head_dim).transpose(1, 2)
        return torch.split(heads, self.head_dim, -1)


class EinsumHeads(nn.Module):
    def __init__(self, given: Attention, dim: int) -> None:
        super().__init__()
        wide = given.value_width or given.width
        self.scaled, self.causal = given.scaled, given.causal
        self.query, self.key = (nn.Parameter(torch.randn(given.heads, dim, given.width) * 0.3) for _ in range(2))
        self.value = nn.Parameter(torch.randn(given.heads, dim, wide) * 0.3)
        self.out = nn.Parameter(torch.randn(given.heads, wide, dim) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (torch.einsum("bnd,hde->bhne", x, each) for each in (self.query, self.key, self.value))
        return torch.einsum("bhne,hed->bnd", mix(query, key, value, self.scaled, self.causal), self.out)


class SelfMultihead(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


@dataclass(frozen=True, repr=False)
class Multihead(Layer):
    """`nn.MultiheadAttention` of tokens; heads divide the width."""

    heads: int
    bias: bool = True

    def module(self, form: Form) -> nn.Module:
        return SelfMultihead(form.width, self.heads, self.bias)


@dataclass(frozen=True, repr=False)
class Encoder(Layer):
    """`nn.TransformerEncoderLayer` on tokens; heads divide the width."""

    heads: int
    hidden: int
    norm_first: bool = True

    def module(self, form: Form) -> nn.Module:
        return nn.TransformerEncoderLayer(
            form.width, self.heads, self.hidden, batch_first=True, norm_first=self.norm_first
        )


RECURRENT = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class States(nn.Module):
    """All states of a recurrent layer, batch first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[0]
        return out


@dataclass(frozen=True, repr=False)
class Recurrent(Layer):
    """kind: lstm, gru, rnn; on tokens, in both directions or one."""

    hidden: int
    kind: str = "lstm"
    depth: int = 1
    both: bool = False

    def after(self, form: Form) -> Form:
        return form.wide(self.hidden * (2 if self.both else 1))

    def module(self, form: Form) -> nn.Module:
        make = RECURRENT[self.kind]
        return States(make(form.width, self.hidden, self.depth, batch_first=True, bidirectional=self.both))
