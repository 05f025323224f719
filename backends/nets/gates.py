"""Products: gates, gated linear units, two-branch products, soft mixtures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.nets.chains import IMAGE
from backends.nets.registry import net


@net("squeeze-excite", IMAGE, tags="cnn gate")
class SqueezeExcite(nn.Module):
    """Channels scaled by a sigmoid of their own pooled values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.last = nn.Conv2d(12, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))
        x = x * torch.sigmoid(self.excite(fn.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("conv-over-channels", IMAGE, tags="cnn gate held")
class ConvOverChannels(nn.Module):
    """The gate is a 1-d convolution along the channel axis: neighbours matter, so channels must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.gate = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.last = nn.Conv2d(10, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))
        gate = self.gate(x.mean((2, 3)).unsqueeze(1)).sigmoid().squeeze(1)
        x = x * gate[:, :, None, None]
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("softmax-channel-gate", IMAGE, tags="cnn gate held")
class SoftmaxChannelGate(nn.Module):
    """Gates that sum to one over the channels: removing a channel changes all other gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3)
        self.gate = nn.Linear(9, 9)
        self.last = nn.Conv2d(9, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.conv(x))
        x = x * self.gate(x.mean((2, 3))).softmax(1)[:, :, None, None]
        out: Tensor = self.head(fn.relu(self.last(x)).mean((2, 3)))
        return out


@net("selective-kernel", IMAGE, tags="cnn gate")
class SelectiveKernel(nn.Module):
    """Two kernels blended per channel by a softmax over the branch (not the channel) axis."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 9, 3, padding=1)
        self.large = nn.Conv2d(3, 9, 5, padding=2)
        self.squeeze = nn.Linear(9, 4)
        self.select = nn.Linear(4, 18)
        self.last = nn.Conv2d(9, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([fn.relu(self.small(x)), fn.relu(self.large(x))], 1)
        logits = self.select(fn.relu(self.squeeze(stacked.sum(1).mean((2, 3)))))
        weight = logits.view(-1, 2, 9).softmax(1)[..., None, None]
        out: Tensor = self.head(fn.relu(self.last((stacked * weight).sum(1))).mean((2, 3)))
        return out


@net("layer-scale", (9,), tags="linear residual")
class LayerScale(nn.Module):
    """A residual MLP whose branch is scaled by one learned factor a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(9, 12)
        self.up = nn.Linear(12, 17)
        self.down = nn.Linear(17, 12)
        self.gamma = nn.Parameter(torch.linspace(0.1, 0.6, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.gamma * self.down(fn.gelu(self.up(x)))
        out: Tensor = self.head(x)
        return out


@net("glu-chunk", (6, 9), tags="linear gate split")
class GluChunk(nn.Module):
    """One linear makes value and gate; both halves lose the same positions."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(9, 26)
        self.down = nn.Linear(13, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, -1)
        out: Tensor = self.head((x + self.down(value * fn.silu(gate))).mean(1))
        return out


@net("glu-two-linears", (6, 9), tags="linear gate")
class GluTwoLinears(nn.Module):
    """Value and gate from a linear each, without bias; the gate is a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(9, 14, bias=False)
        self.gate = nn.Linear(9, 14, bias=False)
        self.down = nn.Linear(14, 9, bias=False)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.value(x) * torch.sigmoid(self.gate(x)))
        out: Tensor = self.head(x.mean(1))
        return out


@net("glu-function", (4, 15), tags="cnn gate split")
class GluFunction(nn.Module):
    """`torch.nn.functional.glu` between one-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 18, 3)
        self.conv2 = nn.Conv1d(9, 7, 3)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(fn.relu(self.conv2(fn.glu(self.conv1(x), 1))).mean(2))
        return out


@net("bilinear-product", IMAGE, tags="cnn gate")
class BilinearProduct(nn.Module):
    """The product of two branches: a channel is zero as soon as one of the two is."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 11, 3)
        self.right = nn.Conv2d(3, 11, 3)
        self.last = nn.Conv2d(11, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.left(x) * self.right(x).tanh())
        out: Tensor = self.head(fn.relu(x).mean((2, 3)))
        return out


@net("outer-product", (9,), tags="linear outer")
class OuterProduct(nn.Module):
    """The flattened outer product of two vectors: one neuron is a whole row, or column, behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(9, 6)
        self.right = nn.Linear(9, 4)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        product = fn.relu(self.left(x)).unsqueeze(2) * fn.relu(self.right(x)).unsqueeze(1)
        out: Tensor = self.head(product.flatten(1))
        return out


@net("highway", (9,), tags="linear gate residual")
class Highway(nn.Module):
    """g * h(x) + (1 - g) * x, where 1 - g never is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(9, 11)
        self.carry = nn.Linear(11, 11)
        self.gate = nn.Linear(11, 11)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x))
        gate = torch.sigmoid(self.gate(x))
        out: Tensor = self.head(gate * fn.relu(self.carry(x)) + (1 - gate) * x)
        return out


@net("soft-mixture", (9,), tags="linear moe")
class SoftMixture(nn.Module):
    """All experts run, stacked in three-dimensional weights, and a softmax blends them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(9, 12)
        self.router = nn.Linear(12, 3)
        self.up = nn.Parameter(torch.randn(3, 12, 14) * 0.3)
        self.down = nn.Parameter(torch.randn(3, 14, 8) * 0.3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(self.stem(x))
        hidden = fn.relu(torch.einsum("bi,eih->beh", x, self.up))
        experts = torch.einsum("beh,eho->beo", hidden, self.down)
        weight = self.router(x).softmax(-1)
        out: Tensor = self.head((experts * weight[..., None]).sum(1))
        return out


@net("mixture-of-modules", (9,), tags="linear moe")
class MixtureOfModules(nn.Module):
    """Experts as modules of different hidden widths, each with its own scalar gate."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(9, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(9, width), nn.GELU(), nn.Linear(width, 8)) for width in (6, 10, 13)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        mixed = torch.zeros(x.shape[0], 8, dtype=x.dtype, device=x.device)
        for index, expert in enumerate(self.experts):
            mixed = mixed + gates[:, index : index + 1] * expert(x)
        out: Tensor = self.head(mixed)
        return out
