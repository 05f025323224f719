"""Convolutions in groups, and the blocks built around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.branches import conv_bn
from backends.nets.chains import IMAGE, Pooled
from backends.nets.registry import net


@net("grouped-conv", IMAGE, tags="cnn grouped")
def grouped_conv() -> nn.Module:
    trunk = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 18, 3, groups=3), nn.BatchNorm2d(18), nn.ReLU(),
        nn.Conv2d(18, 7, 1), nn.ReLU(),
    )  # fmt: skip
    return Pooled(trunk, 7)


@net("depthwise-separable", IMAGE, tags="cnn depthwise")
def depthwise_separable() -> nn.Module:
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 11, 1), nn.ReLU6(),
    )  # fmt: skip
    return Pooled(trunk, 11)


@net("depthwise-multiplier", IMAGE, tags="cnn depthwise")
def depthwise_multiplier() -> nn.Module:
    """Each channel makes two: a removed input channel takes a pair of output channels along."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.ReLU(),
        nn.Conv2d(12, 7, 1),
        nn.ReLU(),
    )
    return Pooled(trunk, 7)


@net("grouped-transposed-conv", (3, 6, 6), tags="cnn grouped", task="image")
def grouped_transposed_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2),
        nn.ReLU(),
        nn.Conv2d(12, 2, 1),
    )


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels read in columns of `groups` rows instead of row by row; shape (B, C, H, W)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


@net("channel-shuffle", IMAGE, tags="cnn grouped shuffle split")
class ChannelShuffle(nn.Module):
    """Half of the channels pass by, the other half goes through a depthwise branch; then a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.branch = nn.Sequential(
            nn.Conv2d(6, 8, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 6, 1),
            nn.ReLU(),
        )
        self.last = nn.Conv2d(12, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = fn.relu(self.stem(x)).chunk(2, 1)
        x = shuffle(torch.cat([left, self.branch(right)], 1), 2)
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("shuffle-between-groups", IMAGE, tags="cnn grouped shuffle")
class ShuffleBetweenGroups(nn.Module):
    """Two grouped convolutions with a shuffle between them, so that every group reads every other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.conv1 = nn.Conv2d(12, 18, 1, groups=3)
        self.conv2 = nn.Conv2d(18, 12, 3, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = shuffle(fn.relu(self.conv1(fn.relu(self.stem(x)))), 3)
        out: Tensor = self.head(fn.relu(self.conv2(x)).mean((2, 3)))
        return out


class InvertedBlock(nn.Module):
    """Expand, depthwise, project, add; no activation after the projection."""

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.expand = conv_bn(width, expanded, 1)
        self.depthwise = nn.Conv2d(expanded, expanded, 3, padding=1, groups=expanded, bias=False)
        self.norm = nn.BatchNorm2d(expanded)
        self.project = conv_bn(expanded, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(fn.relu6(self.norm(self.depthwise(fn.relu6(self.expand(x))))))
        return x + out


@net("inverted-residual", IMAGE, tags="cnn depthwise residual")
def inverted_residual() -> nn.Module:
    return Pooled(nn.Sequential(conv_bn(3, 7), nn.ReLU6(), InvertedBlock(7, 15), InvertedBlock(7, 18)), 7)


@net("ghost-module", IMAGE, tags="cnn depthwise concat")
class Ghost(nn.Module):
    """A convolution, cheap depthwise copies of its channels beside them, cut to an odd number."""

    def __init__(self) -> None:
        super().__init__()
        self.primary = conv_bn(3, 8)
        self.cheap = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(13, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = fn.relu(self.primary(x))
        x = torch.cat([first, fn.relu(self.cheap(first))], 1)[:, :13]
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out
