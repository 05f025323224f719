"""Nets whose difficulty is in how values are passed: outputs, indexing, reshapes, kept dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.chains import IMAGE
from backends.nets.registry import net


@net("dict-output", IMAGE, tags="cnn multi-output")
class DictOutput(nn.Module):
    """Two heads on one trunk, returned by name; the trunk's features are an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 7, 3), nn.ReLU())
        self.classes = nn.Linear(7, 5)
        self.mask = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {
            "classes": self.classes(features.mean((2, 3))),
            "mask": self.mask(features),
            "features": features,
        }


@net("tuple-output", IMAGE, tags="cnn multi-output")
class TupleOutput(nn.Module):
    """An auxiliary classifier on the way, and a nested tuple as output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 11, 3), nn.ReLU())
        self.auxiliary = nn.Linear(8, 5)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        early = self.first(x)
        late = self.second(early)
        return self.head(late.mean((2, 3))), (self.auxiliary(early.mean((2, 3))), late.amax((1, 2, 3)))


@net("select-channels", IMAGE, tags="cnn indexing")
class SelectChannels(nn.Module):
    """A fixed permutation of channels, then every second one, then one channel on its own."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.register_buffer("order", torch.tensor([3, 9, 1, 0, 7, 5, 2, 8, 6, 4]))
        self.even = nn.Conv2d(5, 7, 1)
        self.single = nn.Conv2d(1, 4, 1)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))[:, self.order]
        parts = [fn.relu(self.even(x[:, ::2])), fn.relu(self.single(x[:, 3:4]))]
        out: Tensor = self.head(torch.cat(parts, 1).mean((2, 3)))
        return out


@net("flip-and-roll", IMAGE, tags="cnn indexing")
class FlipAndRoll(nn.Module):
    """A channel meets the one at the mirrored position, and its neighbour, in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.last = nn.Conv2d(10, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))
        x = x + x.flip(1)
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("maxout", (9,), tags="linear reshape")
class Maxout(nn.Module):
    """The larger of 3 candidates a unit: each unit is three rows of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(9, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stem(x).unflatten(1, (8, 3)).amax(2))
        return out


@net("max-over-channels", IMAGE, tags="cnn")
class MaxOverChannels(nn.Module):
    """A spatial gate made of the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))
        x = x * self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("mixer", (3, 8, 8), tags="linear residual layer-norm patches")
class Mixer(nn.Module):
    """Patches, then one MLP across tokens and one across channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 2, stride=2)
        self.norm1 = nn.LayerNorm(10)
        self.tokens = nn.Sequential(nn.Linear(16, 13), nn.GELU(), nn.Linear(13, 16))
        self.norm2 = nn.LayerNorm(10)
        self.channels = nn.Sequential(nn.Linear(10, 21), nn.GELU(), nn.Linear(21, 10))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.head((x + self.channels(self.norm2(x))).mean(1))
        return out


@net("windows", (3, 8, 8), tags="reshape shift")
class Windows(nn.Module):
    """Shifted 4x4 windows cut out, a linear across channels inside, and put back; (B, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, padding=1)
        self.up = nn.Linear(9, 14)
        self.down = nn.Linear(14, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x)).permute(0, 2, 3, 1)
        batch, height, width, channels = x.shape
        shifted = torch.roll(x, (-2, -2), (1, 2))
        cut = shifted.view(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        cut = self.down(fn.gelu(self.up(cut.reshape(-1, 16, channels))))
        back = cut.view(batch, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(back.reshape(batch, height, width, channels), (2, 2), (1, 2))
        out: Tensor = self.head(x.mean((1, 2)))
        return out


@net("patch-merging", (3, 8, 8), tags="reshape concat layer-norm")
class PatchMerging(nn.Module):
    """Four neighbouring pixels side by side in the channel axis, normalised, and reduced by a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.norm = nn.LayerNorm(24)
        self.reduce = nn.Linear(24, 11, bias=False)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        out: Tensor = self.head(self.reduce(self.norm(torch.cat(corners, -1))).mean((1, 2)))
        return out


@net("blur-pool", IMAGE, tags="cnn depthwise")
class BlurPool(nn.Module):
    """A fixed depthwise blur whose kernel, a buffer, is expanded to all channels in the forward."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (kernel[:, None] * kernel)[None, None])
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))
        x = fn.conv2d(fn.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel.expand(8, 1, 3, 3), stride=2, groups=8)
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out
