"""Selections of a partition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

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
