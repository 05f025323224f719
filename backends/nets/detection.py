"""Dense prediction: encoder-decoder with skips, detection blocks and heads, feature pyramids."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.branches import conv_bn
from backends.nets.registry import net


@net("unet", (3, 16, 16), tags="cnn concat", task="segmentation")
class UNet(nn.Module):
    """Two scales, bilinear upsampling, and the skip concatenated in front."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = conv_bn(3, 6)
        self.down2 = conv_bn(6, 9)
        self.bottom = conv_bn(9, 13)
        self.up2 = conv_bn(22, 8)
        self.up1 = nn.ConvTranspose2d(8, 7, 2, stride=2)
        self.merge = conv_bn(13, 10)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = fn.relu(self.down1(x))
        middle = fn.relu(self.down2(fn.max_pool2d(high, 2)))
        low = fn.relu(self.bottom(fn.max_pool2d(middle, 2)))
        low = fn.interpolate(low, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        middle = fn.relu(self.up2(torch.cat([middle, low], 1)))
        out: Tensor = self.head(fn.relu(self.merge(torch.cat([high, self.up1(middle)], 1))))
        return out


@net("feature-pyramid", (3, 16, 16), tags="cnn residual multi-output", task="segmentation")
class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions summed top-down with nearest upsampling; one shared head for all levels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (6, 10, 14)
        self.stages = nn.ModuleList(conv_bn(a, b, stride=2) for a, b in zip((3, *widths), widths, strict=False))
        self.laterals = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in widths)
        self.smooth = nn.Conv2d(8, 9, 3, padding=1)
        self.head = nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = fn.relu(stage(x))
            features.append(lateral(x))
        for level in (1, 0):
            features[level] = features[level] + fn.interpolate(features[level + 1], scale_factor=2.0)
        return [self.head(fn.relu(self.smooth(feature))) for feature in features]


class SplitBottlenecks(nn.Module):
    """Split in two, keep every intermediate result, concatenate them all, and mix by a 1x1 convolution."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, 2 * hidden, 1)
        self.steps = nn.ModuleList(
            nn.Sequential(conv_bn(hidden, hidden + 1), nn.SiLU(), conv_bn(hidden + 1, hidden), nn.SiLU())
            for _ in range(depth)
        )
        self.last = conv_bn((2 + depth) * hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(fn.silu(self.first(x)).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return fn.silu(self.last(torch.cat(parts, 1)))


@net("c2f", (3, 12, 12), tags="cnn split concat residual", task="features")
def c2f() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), nn.SiLU(), SplitBottlenecks(8, 5, 11, 2), nn.Conv2d(11, 4, 1))


@net("pyramid-pooling", (3, 12, 12), tags="cnn concat", task="features")
class PyramidPooling(nn.Module):
    """One max pool applied over and over, all results concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 7)
        self.last = conv_bn(28, 9, 1)
        self.head = nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [fn.silu(self.first(x))]
        for _ in range(3):
            parts.append(fn.max_pool2d(parts[-1], 5, 1, 2))
        out: Tensor = self.head(fn.silu(self.last(torch.cat(parts, 1))))
        return out


@net("detection-head", (3, 16, 16), tags="cnn multi-output detection", task="detection")
class DetectionHead(nn.Module):
    """Two levels; boxes as expectations over 4 bins a side, decoded with anchors; class scores apart.

    Returns (boxes of shape (B, anchors, 4), scores of shape (B, anchors, 3), the raw maps).
    """

    bins = 4
    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_bn(3, 8, stride=2), conv_bn(8, 12, stride=2)])
        self.boxes = nn.ModuleList(
            nn.Sequential(conv_bn(width, 9), nn.SiLU(), nn.Conv2d(9, 4 * self.bins, 1)) for width in (8, 12)
        )
        self.scores = nn.ModuleList(
            nn.Sequential(conv_bn(width, 7), nn.SiLU(), nn.Conv2d(7, self.classes, 1)) for width in (8, 12)
        )
        self.register_buffer("projection", torch.arange(self.bins, dtype=torch.float32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        boxes, scores, raw = [], [], []
        for stage, box, score, stride in zip(self.stages, self.boxes, self.scores, (2, 4), strict=True):
            x = fn.silu(stage(x))
            distances, logits = box(x), score(x)
            raw.append(torch.cat([distances, logits], 1))
            boxes.append(self.decode(distances, stride))
            scores.append(logits.flatten(2).transpose(1, 2).sigmoid())
        return torch.cat(boxes, 1), torch.cat(scores, 1), raw

    def decode(self, distances: Tensor, stride: int) -> Tensor:
        """Corner coordinates of shape (B, H*W, 4) from distances to the sides, in pixels."""
        batch, _, height, width = distances.shape
        bins = distances.view(batch, 4, self.bins, height * width).softmax(2)
        sides = torch.einsum("bskn,k->bns", bins, self.projection)
        rows = torch.arange(height, device=distances.device, dtype=distances.dtype) + 0.5
        columns = torch.arange(width, device=distances.device, dtype=distances.dtype) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        anchors = torch.stack([x.flatten(), y.flatten()], -1)
        return torch.cat([anchors - sides[..., :2], anchors + sides[..., 2:]], -1) * stride


@net("segmentation-atrous", (3, 12, 12), tags="cnn concat", task="segmentation")
class Atrous(nn.Module):
    """Parallel dilated convolutions and a globally pooled branch, expanded back and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.rates = nn.ModuleList(
            nn.Conv2d(8, 3 + rate, 3, padding=rate, dilation=rate, bias=False) for rate in (1, 2, 4)
        )
        self.pooled = nn.Conv2d(8, 5, 1)
        self.last = nn.Conv2d(21, 9, 1)
        self.head = nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x))
        size = x.shape[-2:]
        parts = [fn.relu(conv(x)) for conv in self.rates]
        pooled = fn.relu(self.pooled(fn.adaptive_avg_pool2d(x, 1)))
        parts.append(fn.interpolate(pooled, size=size, mode="bilinear", align_corners=False))
        out: Tensor = self.head(fn.relu(self.last(torch.cat(parts, 1))))
        return out
