"""Widths, and the numbers of single layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st


def widths(smallest: int = 2, largest: int = 13) -> st.SearchStrategy[int]:
    """A number of channels or neurons; small, and as often odd as even, so that sizes rarely agree by luck.

    Raises ValueError unless 1 <= smallest <= largest.
    """
    if not 1 <= smallest <= largest:
        raise ValueError(f"widths go from 1 on and upwards, not from {smallest} to {largest}")
    return st.integers(smallest, largest)


@dataclass(frozen=True)
class ConvShape:
    """The numbers of one convolution of `rank` spatial dimensions, 1 to 3, each the same in all of them."""

    rank: int
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    groups: int
    bias: bool

    def layer(self) -> torch.nn.Module:
        """The convolution, with weights as torch draws them."""
        kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
        made: torch.nn.Module = kinds[self.rank - 1](
            self.inputs, self.outputs, self.kernel, self.stride, self.padding, self.dilation, self.groups, self.bias
        )
        return made

    def size(self, before: int) -> int:
        """How many positions a spatial dimension of `before` positions has afterwards."""
        return (before + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@st.composite
def convolutions(draw: st.DrawFn, rank: int, inputs: int, size: int, *, largest: int = 12) -> ConvShape:
    """A convolution that `inputs` channels of `size` positions in every dimension can go through.

    Kernels of 1 to 3, strides of 1 and 2, odd and even padding and dilation; in one group, in as many as
    there are channels (with several outputs each), or in any number between that divides them. Shrinks towards a
    pointwise convolution. `largest` bounds the outputs, but for the multiple that groups need.

    Raises ValueError for a rank other than 1, 2 or 3.
    """
    if rank not in (1, 2, 3):
        raise ValueError(f"convolutions have 1 to 3 spatial dimensions, not {rank}")
    kernel = draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel // 2))
    dilation = draw(st.integers(1, 2)) if kernel > 1 and size + 2 * padding > 2 * (kernel - 1) else 1
    # What is left of a small size must still be one position.
    padding = max(padding, (dilation * (kernel - 1) + 2 - size) // 2)
    groups = draw(st.sampled_from([number for number in range(1, inputs + 1) if inputs % number == 0]))
    each = draw(st.integers(1, max(1, largest // groups)))
    return ConvShape(
        rank, inputs, max(2, each * groups) if groups == 1 else each * groups, kernel,
        draw(st.integers(1, 2)), padding, dilation, groups, draw(st.booleans()),
    )  # fmt: skip


@dataclass(frozen=True)
class AttentionShape:
    """The numbers of one attention. `shared` query heads use one key and value head together."""

    heads: int
    shared: int
    width: int
    value_width: int
    bias: bool


@st.composite
def attentions(draw: st.DrawFn, *, most_heads: int = 4, largest: int = 6) -> AttentionShape:
    """An attention whose head count, head width and value width may agree or differ.

    heads counts key and value heads; with shared > 1 there are that many times as many query heads.
    """
    return AttentionShape(
        heads=draw(st.integers(2, most_heads)),
        shared=draw(st.integers(1, 2)),
        width=draw(widths(2, largest)),
        value_width=draw(widths(2, largest)),
        bias=draw(st.booleans()),
    )
