"""Attention: fused, separate, grouped-query, cross, with a position bias, and PyTorch's own modules.

Shapes are (B, N, D) unless said otherwise; head width times heads differs from D where it can.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.registry import net

TOKENS = (7, 10)


@net("attention-fused-qkv", TOKENS, tags="attention")
class FusedQkv(nn.Module):
    """One linear for query, key and value, taken apart by reshape and unbind; 3 heads of 6."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(10, 54)
        self.proj = nn.Linear(18, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = self.qkv(x).reshape(batch, length, 3, 3, 6).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = fn.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, 18))
        out: Tensor = self.head(x.mean(1))
        return out


class Heads(nn.Module):
    """Separate query, key and value of `heads` x `key_dim`, values of `value_dim`, written out in matmuls."""

    def __init__(self, dim: int, heads: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.query = nn.Linear(dim, heads * key_dim)
        self.key = nn.Linear(dim, heads * key_dim)
        self.value = nn.Linear(dim, heads * value_dim)
        self.out = nn.Linear(heads * value_dim, dim)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        batch = x.shape[0]
        query = self.query(x).view(batch, -1, self.heads, self.key_dim).transpose(1, 2)
        key = self.key(memory).view(batch, -1, self.heads, self.key_dim).transpose(1, 2)
        value = self.value(memory).view(batch, -1, self.heads, self.value_dim).transpose(1, 2)
        scores = query @ key.transpose(-2, -1) / self.key_dim**0.5
        weights = (scores if bias is None else scores + bias).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, -1, self.heads * self.value_dim)
        out: Tensor = self.out(mixed)
        return out


@net("attention-separate", TOKENS, tags="attention residual layer-norm")
class Separate(nn.Module):
    """A pre-norm block whose value heads are wider than its key heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(10)
        self.attention = Heads(10, 3, 4, 6)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        out: Tensor = self.head((x + self.attention(normed, normed)).mean(1))
        return out


@net("attention-cross", TOKENS, (5, 10), tags="attention multi-input")
class Cross(nn.Module):
    """Queries from one sequence, keys and values from another of a different length."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Heads(10, 2, 6, 7)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        out: Tensor = self.head((x + self.attention(x, memory)).mean(1))
        return out


@net("attention-relative-bias", TOKENS, tags="attention")
class RelativeBias(nn.Module):
    """One learned bias a head and distance, read from a table: heads are columns of the table."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.attention = Heads(10, 4, 5, 3)
        self.table = nn.Parameter(torch.randn(13, 4) * 0.2)
        steps = torch.arange(7)
        self.register_buffer("index", steps[:, None] - steps[None, :] + 6)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.flatten()].view(7, 7, 4).permute(2, 0, 1)
        out: Tensor = self.head((x + self.attention(x, x, bias)).mean(1))
        return out


@net("attention-grouped-query", TOKENS, tags="attention gqa")
class GroupedQuery(nn.Module):
    """6 query heads on 3 key/value heads of 4: a key/value head leaves with its two query heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(10, 24, bias=False)
        self.key = nn.Linear(10, 12, bias=False)
        self.value = nn.Linear(10, 12, bias=False)
        self.out = nn.Linear(24, 10, bias=False)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, 6, 4).transpose(1, 2)
        key = self.key(x).view(batch, length, 3, 4).transpose(1, 2)
        value = self.value(x).view(batch, length, 3, 4).transpose(1, 2)
        key = key[:, :, None].expand(batch, 3, 2, length, 4).reshape(batch, 6, length, 4)
        value = value.repeat_interleave(2, 1)
        mixed = fn.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, 24))
        out: Tensor = self.head(x.mean(1))
        return out


@net("attention-multi-query", TOKENS, tags="attention gqa")
class MultiQuery(nn.Module):
    """4 query heads of 5 share one key/value head, by broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(10, 20)
        self.shared = nn.Linear(10, 10)
        self.out = nn.Linear(20, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, 4, 5).transpose(1, 2)
        key, value = self.shared(x).unsqueeze(1).split([5, 5], -1)
        mixed = ((query @ key.transpose(-2, -1)) * 5**-0.5).softmax(-1) @ value
        out: Tensor = self.head((x + self.out(mixed.transpose(1, 2).reshape(batch, length, 20))).mean(1))
        return out


@net("attention-einsum", TOKENS, tags="attention einsum")
class Einsum(nn.Module):
    """Weights of shape (heads, D, head width), contracted by einsum without any reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(3, 10, 4) * 0.3)
        self.key = nn.Parameter(torch.randn(3, 10, 4) * 0.3)
        self.value = nn.Parameter(torch.randn(3, 10, 6) * 0.3)
        self.out = nn.Parameter(torch.randn(3, 6, 10) * 0.3)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        query = torch.einsum("bnd,hde->bhne", x, self.query)
        key = torch.einsum("bnd,hde->bhne", x, self.key)
        value = torch.einsum("bnd,hde->bhne", x, self.value)
        weights = (torch.einsum("bhne,bhme->bhnm", query, key) / 2).softmax(-1)
        mixed = torch.einsum("bhnm,bhme,hed->bnd", weights, value, self.out)
        out: Tensor = self.head((x + mixed).mean(1))
        return out


@net("attention-talking-heads", TOKENS, tags="attention zero-breaking")
class TalkingHeads(nn.Module):
    """Scores are mixed across heads before and after the softmax: a zero head does not stay zero."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(10, 36)
        self.before = nn.Linear(3, 3)
        self.after = nn.Linear(3, 3)
        self.proj = nn.Linear(12, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, 3, 4).permute(2, 0, 3, 1, 4)
        scores = self.before((query @ key.transpose(-2, -1) * 0.5).permute(0, 2, 3, 1))
        weights = self.after(scores.permute(0, 3, 1, 2).softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        out: Tensor = self.head((x + self.proj((weights @ value).transpose(1, 2).flatten(2))).mean(1))
        return out


@net("attention-channels", TOKENS, tags="attention")
class ChannelAttention(nn.Module):
    """Cross-covariance: the softmax runs over channels of a head, with normalised queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(10, 36)
        self.temperature = nn.Parameter(torch.ones(3, 1, 1))
        self.proj = nn.Linear(12, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, 3, 4).permute(2, 0, 3, 4, 1)
        scores = fn.normalize(query, dim=-1) @ fn.normalize(key, dim=-1).transpose(-2, -1) * self.temperature
        mixed = (scores.softmax(-1) @ value).permute(0, 3, 1, 2).reshape(batch, length, 12)
        out: Tensor = self.head((x + self.proj(mixed)).mean(1))
        return out


@net("attention-linear", TOKENS, tags="attention")
class LinearAttention(nn.Module):
    """No softmax: relu features, keys times values first, and a normaliser over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(10, 45, bias=False)
        self.proj = nn.Linear(15, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, 3, 5).permute(2, 0, 3, 1, 4)
        query, key = fn.relu(query), fn.relu(key)
        total = query @ key.sum(2, keepdim=True).transpose(-2, -1) + 1e-3
        mixed = (query @ (key.transpose(-2, -1) @ value) / total).transpose(1, 2).flatten(2)
        out: Tensor = self.head((x + self.proj(mixed)).mean(1))
        return out


@net("nn-multihead-attention", (7, 12), tags="attention")
class NnMultihead(nn.Module):
    """`torch.nn.MultiheadAttention` with 3 heads of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        out: Tensor = self.head((x + mixed).mean(1))
        return out


@net("nn-transformer-encoder", (7, 12), tags="attention residual layer-norm")
class NnEncoder(nn.Module):
    """`torch.nn.TransformerEncoderLayer`, one norm-first and one norm-last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True)
        self.second = nn.TransformerEncoderLayer(12, 4, 17, batch_first=True, activation="gelu")
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(x)).mean(1))
        return out


@net("conv-attention", (3, 6, 6), tags="cnn attention")
class ConvAttention(nn.Module):
    """Attention over pixels with 1x1 convolutions: heads lie in the channel axis, (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, padding=1)
        self.qkv = nn.Conv2d(9, 30, 1, bias=False)
        self.proj = nn.Conv2d(10, 9, 1)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, _, height, width = x.shape
        query, key, value = self.qkv(x).view(batch, 2, 15, height * width).chunk(3, 2)
        mixed = value @ ((query.transpose(-2, -1) @ key) * 5**-0.5).softmax(-1).transpose(-2, -1)
        x = x + self.proj(mixed.reshape(batch, 10, height, width))
        out: Tensor = self.head(x.mean((2, 3)))
        return out
