"""Straight chains of layers, and the ways a chain ends in a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.registry import net

IMAGE = (3, 12, 12)


class Pooled(nn.Module):
    """A trunk that ends in `width` channels, average-pooled into a linear classifier of 5."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(x).mean((-2, -1)))
        return out


@net("mlp", (9,), tags="linear")
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 14), nn.GELU(), nn.Linear(14, 11), nn.ReLU(), nn.Linear(11, 5))


@net("mlp-no-bias", (9,), tags="linear")
def mlp_no_bias() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 14, bias=False), nn.Tanh(), nn.Linear(14, 5, bias=False))


@net("conv-bn-relu", IMAGE, tags="cnn batch-norm")
def conv_bn_relu() -> nn.Module:
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 10, 1), nn.SiLU(),
    )  # fmt: skip
    return Pooled(trunk, 10)


@net("flatten-linear", (3, 8, 8), tags="cnn")
def flatten_linear() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 7, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 9, 13),
        nn.ReLU(),
        nn.Linear(13, 5),
    )


@net("adaptive-pool-head", IMAGE, tags="cnn")
def adaptive_pool_head() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(6 * 6, 5)
    )


@net("conv-head", IMAGE, tags="cnn")
def conv_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 5, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten())


@net("prelu", IMAGE, tags="cnn")
def prelu() -> nn.Module:
    trunk = nn.Sequential(
        nn.Conv2d(3, 9, 3), nn.PReLU(9), nn.Conv2d(9, 7, 3), nn.PReLU(), nn.Conv2d(7, 6, 1), nn.ReLU()
    )
    return Pooled(trunk, 6)


@net("transposed-conv", (3, 6, 6), tags="cnn", task="image")
def transposed_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 10, 4, stride=2, padding=1),
        nn.BatchNorm2d(10), nn.ReLU(), nn.ConvTranspose2d(10, 2, 3),
    )  # fmt: skip


@net("conv-1d", (4, 20), tags="cnn audio")
def conv_1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 9, 5), nn.BatchNorm1d(9), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(9, 7, 3, dilation=2),
        nn.ELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(7, 5),
    )  # fmt: skip


@net("conv-3d", (2, 5, 8, 8), tags="cnn video")
def conv_3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, (3, 3, 3), padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.AvgPool3d((1, 2, 2)),
        nn.Conv3d(6, 9, (1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(9, 5),
    )  # fmt: skip


@net("pixel-shuffle", (3, 6, 6), tags="cnn", task="image")
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1), nn.ReLU(), nn.Conv2d(7, 20, 3, padding=1), nn.PixelShuffle(2),
        nn.ReLU(),
        nn.Conv2d(5, 2, 1),
    )  # fmt: skip


@net("space-to-depth", (3, 8, 8), tags="cnn")
def space_to_depth() -> nn.Module:
    trunk = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(24, 7, 1), nn.ReLU()
    )
    return Pooled(trunk, 7)


@net("star-relu", IMAGE, tags="cnn zero-breaking")
class StarRelu(nn.Module):
    """s * relu(x)^2 + b with scalars shared by all channels: the bias makes a zero channel non-zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.scale = nn.Parameter(torch.tensor(0.8944))
        self.bias = nn.Parameter(torch.tensor(-0.4472))
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * fn.relu(self.conv1(x)).square() + self.bias
        out: Tensor = self.head(fn.relu(self.conv2(x)).mean((2, 3)))
        return out


@net("sigmoid-conv", IMAGE, tags="cnn zero-breaking")
def sigmoid_conv() -> nn.Module:
    """The sigmoid of zero is a half, and the padded convolution behind it sees that half."""
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Sigmoid(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(6, 7, 1),
        nn.ReLU(),
    )
    return Pooled(trunk, 7)
