"""Parameters that are used in more than one place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.chains import IMAGE
from backends.nets.registry import net


@net("shared-module", IMAGE, tags="cnn shared residual")
class SharedModule(nn.Module):
    """One convolution called twice: its inputs and outputs are the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x))
        x = fn.relu(self.conv(fn.relu(self.conv(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@net("shared-weight", (9,), tags="linear shared tied")
class SharedWeight(nn.Module):
    """An autoencoder whose decoder uses the transposed weight of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(13, 9) * 0.3)
        self.bias = nn.Parameter(torch.zeros(13))
        self.out = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        return fn.linear(fn.relu(fn.linear(x, self.weight, self.bias)), self.weight.t(), self.out)


@net("siamese", IMAGE, (3, 10, 10), tags="cnn shared multi-input")
class Siamese(nn.Module):
    """One encoder for two images of different sizes; the head reads the difference and the product."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 9, 3), nn.ReLU())
        self.head = nn.Linear(18, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left).mean((2, 3)), self.encoder(right).mean((2, 3))
        out: Tensor = self.head(torch.cat([(a - b).abs(), a * b], 1))
        return out


@net("weight-slices", (9,), tags="linear shared split")
class WeightSlices(nn.Module):
    """One parameter cut into the weights of two layers at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(19, 9) * 0.3)
        self.last = nn.Linear(11, 5)
        self.side = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        left = fn.relu(fn.linear(x, self.weight[:11]))
        right = fn.relu(fn.linear(x, self.weight[11:]))
        out: Tensor = self.last(left) + self.side(right)
        return out


@net("computed-weight", IMAGE, tags="cnn weight-transform")
class ComputedWeight(nn.Module):
    """A convolution weight made as the product of a low-rank pair in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(8, 4) * 0.5)
        self.right = nn.Parameter(torch.randn(4, 27) * 0.3)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(fn.conv2d(x, (self.left @ self.right).view(8, 3, 3, 3)))
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("unused-parameter", (9,), tags="linear")
class UnusedParameter(nn.Module):
    """A layer the forward never calls, beside two that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(9, 12)
        self.unused = nn.Linear(12, 7)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(fn.relu(self.stem(x)))
        return out
