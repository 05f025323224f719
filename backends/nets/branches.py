"""Residual sums, concatenations, and what is split and put together again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.chains import IMAGE, Pooled
from backends.nets.registry import net


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size (divided by stride), and its batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """relu(shortcut(x) + conv-bn-relu-conv-bn(x))."""

    def __init__(self, inputs: int, middle: int, outputs: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, middle)
        self.conv2 = conv_bn(middle, outputs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return fn.relu(self.shortcut(x) + self.conv2(fn.relu(self.conv1(x))))


@net("residual", IMAGE, tags="cnn residual batch-norm")
def residual() -> nn.Module:
    trunk = nn.Sequential(conv_bn(3, 8), nn.ReLU(), Residual(8, 6, 8, nn.Identity()), Residual(8, 10, 8, nn.Identity()))
    return Pooled(trunk, 8)


@net("residual-projection", IMAGE, tags="cnn residual batch-norm")
def residual_projection() -> nn.Module:
    trunk = nn.Sequential(
        conv_bn(3, 8), nn.ReLU(), Residual(8, 6, 12, conv_bn(8, 12, 1)), Residual(12, 7, 12, nn.Identity())
    )
    return Pooled(trunk, 12)


@net("residual-from-input", IMAGE, tags="cnn residual")
class ResidualFromInput(nn.Module):
    """The sum has the model's own input in it, so its three channels cannot go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 9, 3, padding=1)
        self.conv2 = nn.Conv2d(9, 3, 3, padding=1)
        self.conv3 = nn.Conv2d(3, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv2(fn.relu(self.conv1(x)))
        out: Tensor = self.head(fn.relu(self.conv3(x)).amax((2, 3)))
        return out


class PadShortcut(nn.Module):
    """Every second pixel, with zero channels added in front and behind (the parameter-free shortcut)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before = before
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return fn.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


@net("option-a-shortcut", IMAGE, tags="cnn residual padding")
class OptionA(nn.Module):
    """A residual block that widens from 6 to 11 channels by zero padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.conv1 = conv_bn(6, 9, stride=2)
        self.conv2 = conv_bn(9, 11)
        self.shortcut = PadShortcut(2, 3)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x))
        x = fn.relu(self.conv2(fn.relu(self.conv1(x))) + self.shortcut(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@net("concat", IMAGE, tags="cnn concat")
class Concat(nn.Module):
    """Three branches of different widths side by side, one of them pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 6, 3, padding=1)
        self.narrow = nn.Conv2d(8, 4, 1)
        self.pooled = nn.Conv2d(8, 5, 1)
        self.norm = nn.BatchNorm2d(15)
        self.last = nn.Conv2d(15, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x))
        pooled = self.pooled(fn.max_pool2d(x, 3, 1, 1))
        x = fn.relu(self.norm(torch.cat([self.wide(x), self.narrow(x), pooled], 1)))
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("dense-block", IMAGE, tags="cnn concat batch-norm")
class DenseBlock(nn.Module):
    """Each layer reads everything before it, behind its own batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        widths = (8, 13, 18)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, 5, 3, padding=1, bias=False) for width in widths)
        self.final = nn.BatchNorm2d(23)
        self.head = nn.Linear(23, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(fn.relu(norm(torch.cat(features, 1)))))
        out: Tensor = self.head(fn.relu(self.final(torch.cat(features, 1))).mean((2, 3)))
        return out


@net("split", IMAGE, tags="cnn split concat")
class Split(nn.Module):
    """Unequal parts of one convolution take different ways and are concatenated in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.first = nn.Conv2d(5, 6, 3, padding=1)
        self.second = nn.Conv2d(4, 7, 1)
        self.last = nn.Conv2d(16, 9, 1)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(fn.relu(self.stem(x)), [5, 4, 3], 1)
        x = torch.cat([c, fn.relu(self.second(b)), fn.relu(self.first(a))], 1)
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("chunk-sum", IMAGE, tags="cnn split")
class ChunkSum(nn.Module):
    """The two halves of one convolution are added up, which ties them position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 14, 3, padding=1)
        self.last = nn.Conv2d(7, 9, 1)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = fn.relu(self.stem(x)).chunk(2, 1)
        out: Tensor = self.head(fn.relu(self.last(a + b)).mean((2, 3)))
        return out


@net("hierarchical-split", IMAGE, tags="cnn split concat residual")
class HierarchicalSplit(nn.Module):
    """Equal parts, each convolved together with the result of the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(12, 9, 1)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(fn.relu(self.stem(x)).chunk(3, 1))
        for index, conv in enumerate(self.convs, start=1):
            parts[index] = fn.relu(conv(parts[index] + parts[index - 1]))
        out: Tensor = self.head(fn.relu(self.last(torch.cat(parts, 1))).mean((2, 3)))
        return out


@net("two-inputs", (3, 10, 10), (2, 10, 10), tags="cnn multi-input")
class TwoInputs(nn.Module):
    """Two images of different channel counts are encoded apart and added up."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3)
        self.right = nn.Conv2d(2, 8, 3)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = fn.relu(self.left(left) + self.right(right))
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out
