"""Hypothesis strategies for tests of pruned models: selections of a partition, and layer shapes.

    from hypothesis import given
    from conformance.strategies import selections

    GROUPS = pc.partition(pc.trace(model, args))

    @given(choice=selections(GROUPS))
    def test_every_subnet_is_exact(choice):
        pc.assert_equivalent(pc.zero(model, choice), pc.extract(model, choice), args)

This is the only module that needs Hypothesis; `import conformance` does not load it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "conformance.strategies needs hypothesis, which is not installed: pip install hypothesis"
    ) from error

from conformance.partition.groups import Groups
from conformance.partition.selection import Selection

IntArray = npt.NDArray[np.int64]

_DRAWS = 3000
"""An example of Hypothesis is some 8000 bytes at most, and a group takes two."""

_ALL, _MOST, _HALF, _NONE = 1, 64, 128, 256
"""Bars: the groups of an axis whose number, from 0 to 255, is not below it leave."""


def selections(groups: Groups) -> st.SearchStrategy[Selection]:
    """Any selection of the partition: any set of groups that leaves a position in every dimension.

    Extremes come often: nothing, one group, all that may go, a whole axis beside an untouched one.
    Shrinks towards the empty selection. A partition without groups has the empty selection only.
    In models of more than 3000 groups neighbours on an axis leave together.
    """
    axes = [np.flatnonzero(groups.axis_of == axis) for axis in range(int(groups.axis_of.max()) + 1)]
    # Mapped last: Hypothesis then prints an example as the call that makes it.
    return _removed(groups, axes).map(groups.select)


@st.composite
def _removed(draw: st.DrawFn, groups: Groups, axes: list[IntArray]) -> list[int]:
    """A group leaves when its number reaches its axis's bar; so 0 stays whatever the bar is.

    What a bar decides is how many leave while examples are drawn. An example that shrinks ends with the
    lowest bar, 1, and with a 1 for each group that has to leave: were there a way to say "all of the
    axis", the groups' own numbers would shrink away under it, and the axis could not shrink after that.
    """
    # Axes that draw on their own hardly ever agree, so two times in three they have a bar in common.
    common = draw(st.sampled_from((_ALL, None, _bar_for_one(groups.count))))
    block = 1 + groups.count // _DRAWS
    parts = [np.empty(0, dtype=np.int64)]
    for axis in axes:
        own = draw(st.sampled_from((_ALL, _MOST, _HALF, _bar_for_one(axis.size), _NONE)))
        numbers = [draw(st.integers(0, _NONE - 1)) for _ in range(0, axis.size, block)]
        parts.append(axis[np.repeat(numbers, block)[: axis.size] >= (common or own)])
    # Which group stays where a dimension would lose all of its positions.
    spared = np.random.default_rng(draw(st.integers(0, 255)))
    return sorted(groups.leave_one(np.concatenate(parts), spared).tolist())


def _bar_for_one(size: int) -> int:
    """Reached by about one group in `size`."""
    return max(1, _NONE - max(1, _NONE // max(size, 1)))


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
