"""A selection as words for a command line: `conv1.weight:0:2,5` for positions 2 and 5 of dimension 0."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from conformance.errors import SelectionError
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection


def to_words(choice: Selection) -> tuple[str, ...]:
    """One word for each dimension that names removed groups not named before, producers first; a group once."""
    groups = choice.groups
    missing = choice.gone.copy()
    dims = [(name, index, dim) for name, index in groups.graph.names.items() for dim in range(len(groups.dims[index]))]
    words = []
    for name, index, dim in sorted(dims, key=lambda place: place[1:] not in groups.producer_dims):
        labels = groups.dims[index][dim]
        numbers, first = np.unique(labels, return_index=True)
        positions = sorted(first[missing[numbers]].tolist())
        if positions:
            missing[labels[positions]] = False
            words.append(f"{name}:{dim}:{','.join(map(str, positions))}")
    return tuple(words)


def from_words(words: Iterable[str], groups: Groups) -> Selection:
    """The selection of every group that one of these positions is in.

    Raises SelectionError for a word that is none, an unknown name, dimension or position, and one held back.
    """
    removed: set[int] = set()
    for word in words:
        name, dim, positions = _parts(word)
        if name not in groups.graph.names:
            raise SelectionError(f"the model has no parameter or buffer named {name}")
        lines = groups.dims[groups.graph.names[name]]
        if dim >= len(lines) or max(positions) >= lines[dim].size:
            raise SelectionError(f"{name} has no such positions in dimension {dim}")
        numbers = lines[dim][positions]
        if (numbers == 0).any():
            raise SelectionError(f"{name} dimension {dim}: position {positions[int(numbers.argmin())]} is held back")
        removed.update(numbers.tolist())
    return groups.select(sorted(removed))


def _parts(word: str) -> tuple[str, int, list[int]]:
    name, *rest = word.rsplit(":", 2)
    if len(rest) != 2 or not name or not all(part.isdecimal() for part in [rest[0], *rest[1].split(",")]):
        raise SelectionError(f"{word!r} is not NAME:DIMENSION:POSITIONS, such as conv1.weight:0:2,5")
    return name, int(rest[0]), [int(part) for part in rest[1].split(",")]
