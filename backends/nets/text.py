"""Nets that read token ids of shape (B, T)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.attention import Heads
from backends.nets.registry import net

LENGTH = (7,)
VOCAB = 31


@net("embedding-pool", LENGTH, tokens=VOCAB, tags="embedding text")
def embedding_pool() -> nn.Module:
    """The mean of word vectors, then an MLP."""
    return nn.Sequential(nn.EmbeddingBag(VOCAB, 12, mode="mean"), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))


@net("embedding-conv", LENGTH, tokens=VOCAB, tags="embedding text concat")
class EmbeddingConv(nn.Module):
    """Convolutions of two lengths over word vectors, pooled over time and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 10, padding_idx=0)
        self.short = nn.Conv1d(10, 8, 2)
        self.long = nn.Conv1d(10, 6, 4)
        self.head = nn.Linear(14, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(1, 2)
        out: Tensor = self.head(torch.cat([fn.relu(self.short(x)).amax(2), fn.relu(self.long(x)).amax(2)], 1))
        return out


@net("tied-lm-head", LENGTH, tokens=VOCAB, tags="embedding text tied", task="language-modelling")
class TiedHead(nn.Module):
    """The output layer is the embedding table; between them a residual MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 12)
        self.up = nn.Linear(12, 18)
        self.down = nn.Linear(18, 12)
        self.head = nn.Linear(12, VOCAB, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        out: Tensor = self.head(x + self.down(fn.gelu(self.up(x))))
        return out


@net("token-and-position", LENGTH, tokens=VOCAB, tags="embedding text attention residual layer-norm")
class TokenAndPosition(nn.Module):
    """Token, position and class embeddings meet in one residual stream, with attention and MLP behind."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, 12)
        self.positions = nn.Parameter(torch.randn(1, 8, 12) * 0.2)
        self.summary = nn.Parameter(torch.randn(1, 1, 12) * 0.2)
        self.norm = nn.LayerNorm(12)
        self.attention = Heads(12, 3, 4, 5)
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 19), nn.GELU(), nn.Linear(19, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([self.summary.expand(ids.shape[0], -1, -1), self.tokens(ids)], 1) + self.positions
        normed = self.norm(x)
        x = x + self.attention(normed, normed)
        out: Tensor = self.head((x + self.mlp(x))[:, 0])
        return out


def rotate(x: Tensor) -> Tensor:
    """Rotary position encoding of (B, heads, T, E), E even: pairs (i, i + E/2) turn by their position."""
    length, width = x.shape[-2:]
    rates = 100.0 ** -(torch.arange(width // 2, device=x.device, dtype=x.dtype) * 2 / width)
    angles = torch.arange(length, device=x.device, dtype=x.dtype)[:, None] * rates
    left, right = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


@net("rotary-decoder", LENGTH, tokens=VOCAB, tags="embedding text attention gqa rms-norm gate residual",
     task="language-modelling")  # fmt: skip
class RotaryDecoder(nn.Module):
    """RMS norm, rotary grouped-query causal attention (4 heads of 6 on 2), and a gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 14)
        self.norm1 = nn.RMSNorm(14)
        self.query = nn.Linear(14, 24, bias=False)
        self.key_value = nn.Linear(14, 24, bias=False)
        self.out = nn.Linear(24, 14, bias=False)
        self.norm2 = nn.RMSNorm(14)
        self.gate = nn.Linear(14, 17, bias=False)
        self.up = nn.Linear(14, 17, bias=False)
        self.down = nn.Linear(17, 14, bias=False)
        self.head = nn.Linear(14, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        batch, length, _ = x.shape
        normed = self.norm1(x)
        query = rotate(self.query(normed).view(batch, length, 4, 6).transpose(1, 2))
        key, value = self.key_value(normed).view(batch, length, 2, 2, 6).permute(2, 0, 3, 1, 4)
        mixed = fn.scaled_dot_product_attention(query, rotate(key), value, is_causal=True, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, 24))
        normed = self.norm2(x)
        x = x + self.down(fn.silu(self.gate(normed)) * self.up(normed))
        out: Tensor = self.head(x)
        return out
