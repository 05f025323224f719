"""Small nets of drawn sizes: chains, perceptrons, attentions and concatenations. Their repr is the example."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as fn

from conformance.strategies import AttentionShape, ConvShape, attentions, convolutions, widths

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CLASSES = 3


def activations() -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(ACTIVATIONS, key=["relu", "tanh", "gelu", "silu", "sigmoid"].index))


class Mean(nn.Module):
    """Over all spatial dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


# -- chains of convolutions ------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    conv: ConvShape
    norm: str
    activation: str
    pooled: bool


@dataclass(frozen=True)
class Chain:
    """Convolution, norm, activation and pooling, repeated; then flattened or averaged into a classifier."""

    rank: int
    inputs: int
    size: int
    stages: tuple[Stage, ...]
    flat: bool

    def sizes(self) -> list[int]:
        """Positions of a spatial dimension before and after every stage."""
        found = [self.size]
        for stage in self.stages:
            after = stage.conv.size(found[-1])
            found.append(after // 2 if stage.pooled else after)
        return found

    def build(self) -> nn.Module:
        layers: list[nn.Module] = []
        for stage in self.stages:
            layers.append(stage.conv.layer())
            layers += _norm(stage.norm, self.rank, stage.conv.outputs)
            layers.append(ACTIVATIONS[stage.activation]())
            layers += [POOLS[self.rank - 1](2)] if stage.pooled else []
        width = self.stages[-1].conv.outputs
        if self.flat:
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * self.sizes()[-1] ** self.rank, CLASSES))
        return nn.Sequential(*layers, Mean(), nn.Linear(width, CLASSES))

    def inputs_of(self, batch: int) -> Tensor:
        return torch.randn(batch, self.inputs, *[self.size] * self.rank, generator=torch.Generator().manual_seed(batch))


def _norm(kind: str, rank: int, width: int) -> list[nn.Module]:
    if kind == "batch":
        return [BATCH_NORMS[rank - 1](width)]
    if kind == "group":
        # The most groups there can be without one a channel, else one a channel.
        return [nn.GroupNorm(max((n for n in range(2, width) if width % n == 0), default=width), width)]
    return []


@st.composite
def chains(draw: st.DrawFn, rank: int) -> Chain:
    inputs, size = draw(widths(2, 4)), draw(st.integers(4, 5 if rank == 3 else 8))
    stages: list[Stage] = []
    channels, now = inputs, size
    for _ in range(draw(st.integers(1, 3))):
        conv = draw(convolutions(rank, channels, now, largest=10))
        after = conv.size(now)
        pooled = after >= 2 and draw(st.booleans())
        stages.append(Stage(conv, draw(st.sampled_from(("none", "batch", "group"))), draw(activations()), pooled))
        channels, now = conv.outputs, after // 2 if pooled else after
    return Chain(rank, inputs, size, tuple(stages), draw(st.booleans()))


# -- perceptrons -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Perceptron:
    """Linear layers of these widths; a norm and an activation between any two; any number of tokens."""

    widths: tuple[int, ...]
    tokens: int
    bias: bool
    norm: str
    activation: str

    def build(self) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in zip(self.widths, self.widths[1:], strict=False):
            layers.append(nn.Linear(before, after, self.bias))
            if self.norm == "layer":
                layers.append(nn.LayerNorm(after))
            if self.norm == "batch" and not self.tokens:
                layers.append(nn.BatchNorm1d(after))
            layers.append(ACTIVATIONS[self.activation]())
        return nn.Sequential(*layers, nn.Linear(self.widths[-1], CLASSES, self.bias))

    def inputs_of(self, batch: int) -> Tensor:
        tokens = [self.tokens] if self.tokens else []
        return torch.randn(batch, *tokens, self.widths[0], generator=torch.Generator().manual_seed(batch))


def perceptrons() -> st.SearchStrategy[Perceptron]:
    return st.builds(
        Perceptron,
        widths=st.lists(widths(), min_size=2, max_size=4).map(tuple),
        tokens=st.integers(0, 3),
        bias=st.booleans(),
        norm=st.sampled_from(("none", "batch")),
        activation=activations(),
    )


# -- attentions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attending:
    """An embedding, one attention with a residual, a two-layer perceptron, and a classifier of the mean."""

    shape: AttentionShape
    model: int
    hidden: int
    tokens: int
    fused: bool

    def build(self) -> nn.Module:
        return Attention(self)

    def inputs_of(self, batch: int) -> Tensor:
        return torch.randn(batch, self.tokens, 5, generator=torch.Generator().manual_seed(batch))


class Attention(nn.Module):
    def __init__(self, net: Attending) -> None:
        super().__init__()
        shape = net.shape
        self.heads, self.shared = shape.heads, shape.shared
        self.width, self.value_width, self.fused = shape.width, shape.value_width, net.fused
        self.embed = nn.Linear(5, net.model)
        self.query = nn.Linear(net.model, shape.heads * shape.shared * shape.width, shape.bias)
        self.key = nn.Linear(net.model, shape.heads * shape.width, shape.bias)
        self.value = nn.Linear(net.model, shape.heads * shape.value_width, shape.bias)
        self.out = nn.Linear(shape.heads * shape.shared * shape.value_width, net.model, shape.bias)
        self.up, self.down = nn.Linear(net.model, net.hidden), nn.Linear(net.hidden, net.model)
        self.head = nn.Linear(net.model, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, _ = x.shape
        query = self.query(x).view(batch, tokens, self.heads * self.shared, self.width).transpose(1, 2)
        key = self.key(x).view(batch, tokens, self.heads, self.width).transpose(1, 2)
        value = self.value(x).view(batch, tokens, self.heads, self.value_width).transpose(1, 2)
        if self.shared > 1:
            key, value = key.repeat_interleave(self.shared, 1), value.repeat_interleave(self.shared, 1)
        if self.fused:
            mixed = fn.scaled_dot_product_attention(query, key, value)
        else:
            mixed = ((query @ key.transpose(-2, -1)) * 0.5).softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(fn.gelu(self.up(x)))
        out: Tensor = self.head(x.mean(1))
        return out


def attending() -> st.SearchStrategy[Attending]:
    return st.builds(
        Attending, shape=attentions(), model=widths(2, 9), hidden=widths(2, 9), tokens=st.integers(2, 5), fused=st.booleans()
    )  # fmt: skip


# -- concatenations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joining:
    """Branches of these widths side by side in this order, cut again at other places, and read piece by piece."""

    rank: int
    inputs: int
    branches: tuple[int, ...]
    order: tuple[int, ...]
    cuts: tuple[int, ...]
    activation: str
    residual: bool

    def build(self) -> nn.Module:
        return Concatenation(self)

    def inputs_of(self, batch: int) -> Tensor:
        return torch.randn(batch, self.inputs, *[3] * self.rank, generator=torch.Generator().manual_seed(batch))


class Concatenation(nn.Module):
    def __init__(self, net: Joining) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[net.rank - 1]
        self.order, self.cuts, self.residual = net.order, list(net.cuts), net.residual
        self.branches = nn.ModuleList(convolution(net.inputs, width, 3, padding=1) for width in net.branches)
        self.activation = ACTIVATIONS[net.activation]()
        total = sum(net.branches)
        self.same = convolution(total, total, 1) if net.residual else nn.Identity()
        ends = [*net.cuts, total]
        sizes = [end - start for start, end in zip([0, *net.cuts], ends, strict=True)]
        self.readers = nn.ModuleList(convolution(size, 4, 1) for size in sizes)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        made = [branch(x) for branch in self.branches]
        whole = self.activation(torch.cat([made[number] for number in self.order], 1))
        if self.residual:
            whole = whole + self.same(whole)
        pieces = torch.tensor_split(whole, self.cuts, 1)
        read = [fn.relu(reader(piece)) for reader, piece in zip(self.readers, pieces, strict=True)]
        out: Tensor = self.head(torch.stack(read).sum(0).flatten(2).mean(2))
        return out


@st.composite
def joining(draw: st.DrawFn, rank: int) -> Joining:
    branches = tuple(draw(st.lists(widths(2, 7), min_size=2, max_size=3)))
    order = tuple(draw(st.permutations(range(len(branches)))))
    cuts = tuple(sorted(draw(st.sets(st.integers(1, sum(branches) - 1), max_size=2))))
    return Joining(rank, draw(widths(1, 3)), branches, order, cuts, draw(activations()), draw(st.booleans()))


Net = Chain | Perceptron | Attending | Joining

FAMILIES: dict[str, st.SearchStrategy[Net]] = {
    "chain-1d": chains(1),
    "chain-2d": chains(2),
    "chain-3d": chains(3),
    "perceptron": perceptrons(),
    "attention": attending(),
    "concatenation-1d": joining(1),
    "concatenation-2d": joining(2),
    "concatenation-3d": joining(3),
}
