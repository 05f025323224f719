"""Normalisations, over channels and per channel, with and without parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.chains import IMAGE, Pooled
from backends.nets.registry import net


def _around(norm: nn.Module, width: int = 12) -> nn.Module:
    """Conv - norm - relu - conv - relu - pool - linear, around a norm of `width` channels."""
    trunk = nn.Sequential(nn.Conv2d(3, width, 3), norm, nn.ReLU(), nn.Conv2d(width, 7, 1), nn.ReLU())
    return Pooled(trunk, 7)


@net("group-norm", IMAGE, tags="cnn group-norm")
def group_norm() -> nn.Module:
    return _around(nn.GroupNorm(4, 12))


@net("instance-norm", IMAGE, tags="cnn instance-norm")
def instance_norm() -> nn.Module:
    return _around(nn.InstanceNorm2d(12, affine=True))


@net("instance-norm-plain", IMAGE, tags="cnn instance-norm")
def instance_norm_plain() -> nn.Module:
    return _around(nn.InstanceNorm2d(12))


@net("batch-norm-no-affine", IMAGE, tags="cnn batch-norm zero-breaking")
def batch_norm_no_affine() -> nn.Module:
    """Without weight and bias the running mean makes a zero channel non-zero."""
    norm = nn.BatchNorm2d(12, affine=False)
    norm.running_mean = torch.linspace(-0.5, 0.6, 12)
    norm.running_var = torch.linspace(0.5, 1.6, 12)
    return _around(norm)


@net("batch-norm-first", IMAGE, tags="cnn batch-norm")
def batch_norm_first() -> nn.Module:
    """A norm on the model's own input, and one behind a pooled feature vector."""
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 5),
    )  # fmt: skip


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return fn.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


@net("layer-norm-2d", IMAGE, tags="cnn layer-norm")
def layer_norm_2d() -> nn.Module:
    return _around(LayerNorm2d(11), 11)


class ChannelNorm(nn.Module):
    """Layer norm over channels, written out: mean and variance over dim 1 of (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + 1e-6)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


@net("channel-norm-written-out", IMAGE, tags="cnn layer-norm")
def channel_norm_written_out() -> nn.Module:
    return _around(ChannelNorm(11), 11)


@net("layer-norm", (6, 9), tags="linear layer-norm")
def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 14), nn.LayerNorm(14), nn.GELU(), nn.Linear(14, 11), nn.ReLU(), nn.Linear(11, 5))


@net("rms-norm", (6, 9), tags="linear rms-norm")
def rms_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 14), nn.RMSNorm(14), nn.SiLU(), nn.Linear(14, 11), nn.ReLU(), nn.Linear(11, 5))


@net("local-response-norm", IMAGE, tags="cnn held")
def local_response_norm() -> nn.Module:
    """Each channel is divided by its neighbours, so their order matters."""
    return _around(nn.LocalResponseNorm(3), 9)


@net("global-response-norm", IMAGE, tags="cnn held")
class GlobalResponse(nn.Module):
    """Each channel's norm over space is divided by the mean of all channels' norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.weight = nn.Parameter(torch.linspace(0.2, 0.7, 10))
        self.bias = nn.Parameter(torch.zeros(10))
        self.last = nn.Conv2d(10, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.gelu(self.conv(x))
        size = x.square().sum((2, 3), keepdim=True).sqrt()
        size = size / (size.mean(1, keepdim=True) + 1e-6)
        x = x + x * size * self.weight[:, None, None] + self.bias[:, None, None]
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is normalised per output channel in every forward."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return fn.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@net("weight-standardised-conv", IMAGE, tags="cnn weight-transform group-norm")
def weight_standardised_conv() -> nn.Module:
    trunk = nn.Sequential(
        StandardisedConv(3, 9, 3), nn.ReLU(), StandardisedConv(9, 12, 3), nn.GroupNorm(3, 12), nn.ReLU()
    )
    return Pooled(trunk, 12)


@net("weight-norm-conv", IMAGE, tags="cnn weight-transform")
def weight_norm_conv() -> nn.Module:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 9, 3))
    last = nn.utils.parametrizations.weight_norm(nn.Conv2d(9, 7, 1))
    return Pooled(nn.Sequential(conv, nn.ReLU(), last, nn.ReLU()), 7)


@net("convnext-block", IMAGE, tags="cnn depthwise residual layer-norm")
class ConvNextBlock(nn.Module):
    """Depthwise 7x7, layer norm over channels, two linears on channels-last, layer scale, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 2, stride=2)
        self.depthwise = nn.Conv2d(9, 9, 7, padding=3, groups=9)
        self.norm = nn.LayerNorm(9)
        self.up = nn.Linear(9, 20)
        self.down = nn.Linear(20, 9)
        self.gamma = nn.Parameter(torch.full((9,), 0.3))
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branch = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        branch = self.gamma * self.down(fn.gelu(self.up(branch)))
        out: Tensor = self.head((x + branch.permute(0, 3, 1, 2)).mean((2, 3)))
        return out
