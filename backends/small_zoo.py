"""Small models to be trained and pruned in minutes, one a family: `small:NAME` and `small:NAME-wWIDTH`.

    resnet20   basic blocks in three stages of WIDTH, 2 WIDTH, 4 WIDTH channels (16)
    resnet18   basic blocks in four stages of WIDTH to 8 WIDTH channels (64), with the 3 x 3 stem for small images
    vgg11      eight convolutions with batch norm, WIDTH to 8 WIDTH channels (16); pools while there is something to
    densenet   three dense blocks of four bottleneck layers that each add WIDTH channels (12)
    vit        four pre-norm blocks of dimension WIDTH (64, a multiple of 4) with 4 heads

The number in brackets is the width of a name without one. All take images from 8 x 8 pixels on, any number of
channels and any number of classes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.common import Draw, Drawn, tagged
from conformance.backend import Backend, unknown_name
from conformance.errors import UsageError

SHAPE = (3, 32, 32)
CLASSES = 10
SMALLEST = 8
"""Pixels of the shorter side."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = fn.relu(self.norm1(self.conv1(x)))
        return fn.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of basic blocks that each double the channels, the mean over the image, one linear layer."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, stages: tuple[int, ...] = (3, 3, 3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks, channels = [], width
        for stage, count in enumerate(stages):
            for number in range(count):
                blocks.append(BasicBlock(channels, width << stage, 2 if stage and not number else 1))
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


class Vgg(nn.Module):
    """Convolutions in five groups, each followed by a pooling as long as two pixels are left to pool."""

    GROUPS = ((1,), (2,), (4, 4), (8, 8), (8, 8))

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        channels, side = shape[0], min(shape[1:])
        layers: list[nn.Module] = []
        for group in self.GROUPS:
            for factor in group:
                convolution = nn.Conv2d(channels, factor * width, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(factor * width), nn.ReLU()]
                channels = factor * width
            if side >= 2:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).flatten(1))
        return out


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution; norm, ReLU, 3x3 convolution; the result is put beside what came in."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(fn.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(fn.relu(self.norm2(out)))], 1)


class DenseNet(nn.Module):
    """Three dense blocks; between them half of the channels are kept and the image is halved."""

    LAYERS = 4

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        channels = 2 * width
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)]
        for block in range(3):
            if block:
                half = nn.Conv2d(channels, channels // 2, 1, bias=False)
                layers += [nn.BatchNorm2d(channels), nn.ReLU(), half, nn.AvgPool2d(2)]
                channels //= 2
            for _ in range(self.LAYERS):
                layers.append(DenseLayer(channels, width))
                channels += width
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).mean((2, 3)))
        return out


class Attention(nn.Module):
    """Self-attention over (batch, tokens, dim) with query, key and value from one linear layer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        mixed = fn.scaled_dot_product_attention(query, key, value, scale=self.scale)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim))
        return out


class EncoderBlock(nn.Module):
    """Norm and attention, norm and two linear layers, each added to what came in."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patches, a learned position each, four blocks, the mean over the patches, one linear layer."""

    HEADS = 4
    DEPTH = 4

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        patch = patch_size(shape)
        self.patches = nn.Conv2d(shape[0], width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (shape[1] // patch) * (shape[2] // patch), width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, self.HEADS) for _ in range(self.DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return out


def patch_size(shape: tuple[int, ...]) -> int:
    """The smallest power of two from 2 on that divides both sides into at most 64 patches: 2 at 8 px, 4 at 28 and 32.

    Raises UsageError when there is none.
    """
    _, height, width = shape
    for patch in (2, 4, 8, 16, 32):
        if height % patch == 0 and width % patch == 0 and (height // patch) * (width // patch) <= 64:
            return patch
    raise UsageError(f"small:vit finds no patch of 2 to 32 pixels that divides {height}x{width} into 64 or fewer")


@dataclass(frozen=True)
class Family:
    """How the models of a family are made from (shape, classes, width); width is a multiple of `step`.

    fits raises UsageError for a shape of images the family does not take.
    """

    make: Callable[[tuple[int, ...], int, int], nn.Module]
    width: int
    tags: tuple[str, ...]
    step: int = 1
    fits: Callable[[tuple[int, ...]], object] = lambda shape: shape


FAMILIES = {
    "resnet20": Family(ResNet, 16, ("cnn", "residual")),
    "resnet18": Family(functools.partial(ResNet, stages=(2, 2, 2, 2)), 64, ("cnn", "residual")),
    "vgg11": Family(Vgg, 16, ("cnn",)),
    "densenet": Family(DenseNet, 12, ("cnn", "concat")),
    "vit": Family(VisionTransformer, 64, ("attention", "transformer"), step=VisionTransformer.HEADS, fits=patch_size),
}


class SmallCollection:
    """The small collection."""

    prefix = "small"

    def names(self) -> list[str]:
        """Every family at its own width and, as `FAMILY-wWIDTH`, at half of it, sorted; `get` takes any width."""
        halves = (f"{name}-w{family.width // 2}" for name, family in FAMILIES.items())
        return sorted([*FAMILIES, *halves])

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The model for ten classes and images of input_shape (channels, height, width), 3 x 32 x 32 unless given.

        Raises UsageError for an unknown name, a width the family cannot have, or an impossible shape.
        """
        return self.adapted(name, SHAPE if input_shape is None else input_shape, CLASSES)

    def adapted(self, name: str, shape: tuple[int, ...], classes: int) -> Backend:
        """The model for images of `shape` and so many classes. Raises UsageError as `get` does."""
        spec = f"{self.prefix}:{name}"
        family, width = self._family(name)
        if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < SMALLEST or classes < 1:
            raise UsageError(
                f"{spec} takes an input shape of channels, height and width, the latter at least {SMALLEST}, and at "
                f"least one class, not {tuple(shape)} and {classes}"
            )
        family.fits(tuple(shape))

        def build() -> nn.Module:
            return family.make(tuple(shape), classes, width)

        return Backend(
            name=spec,
            build=build,
            inputs=Drawn((Draw(tuple(shape)),)),
            source=f"{__name__}:{name.partition('-')[0]}",
            size="tiny",
            tags=tagged((self.prefix,), family.tags),
        )

    def _family(self, name: str) -> tuple[Family, int]:
        found = re.fullmatch(r"(\w+?)(?:-w([1-9]\d{0,3}))?", name)
        if found is None or found[1] not in FAMILIES:
            raise unknown_name(self.prefix, name, self.names())
        family = FAMILIES[found[1]]
        width = int(found[2] or family.width)
        if width % family.step:
            raise UsageError(f"{self.prefix}:{name}: the width is a multiple of {family.step}")
        return family, width


collection = SmallCollection()
