"""A choice of groups to remove, in the full model's own indices."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from conformance.errors import SelectionError
from conformance.partition.groups import Groups

FORMAT = "pruning-conformance/selection"
VERSION = 1

Position = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Selection:
    """The groups that leave. Indices always refer to the full model, never to a pruned one."""

    groups: Groups = field(repr=False)
    removed: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.removed)

    @cached_property
    def gone(self) -> npt.NDArray[np.bool_]:
        """One flag a group number (entry 0 is always False)."""
        flags = np.zeros(self.groups.count + 1, dtype=bool)
        flags[list(self.removed)] = True
        return flags

    def kept(self, value: int, dim: int) -> npt.NDArray[np.int64]:
        """Positions of a tape value's dimension that stay, ascending."""
        return np.flatnonzero(~self.gone[self.groups.dims[value][dim]])

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a tape value in the subnet."""
        return tuple(
            labels.size - int(self.gone[labels].sum()) if labels.any() else labels.size
            for labels in self.groups.dims[value]
        )

    def slices(self) -> dict[str, dict[int, list[int]]]:
        """For each parameter or buffer name the removed positions of each dimension."""
        graph = self.groups.graph
        found: dict[str, dict[int, list[int]]] = {}
        for name, index in graph.names.items():
            for dim, labels in enumerate(self.groups.dims[index]):
                positions = np.flatnonzero(self.gone[labels])
                if positions.size:
                    found.setdefault(name, {})[dim] = positions.tolist()
        return found

    def union(self, other: Selection) -> Selection:
        """Both choices at once. Raises SelectionError when they belong to different models."""
        return self.groups.select(self.union_numbers(other))

    def union_numbers(self, other: Selection) -> list[int]:
        """The group numbers of both, which need not be a valid selection together."""
        if other.groups.fingerprint != self.groups.fingerprint:
            raise SelectionError("selections of different models cannot be joined")
        return sorted({*self.removed, *other.removed})

    def within(self, subnet: Groups, first: Selection) -> Selection:
        """This choice as a choice on the subnet that `first` left (removed groups of both drop out).

        Raises SelectionError when the subnet's groups do not line up with this choice.
        """
        graph = self.groups.graph
        wanted: set[int] = set()
        for name, index in graph.names.items():
            if name not in subnet.graph.names:
                raise SelectionError(f"the subnet has no {name}")
            for dim, labels in enumerate(self.groups.dims[index]):
                if not labels.any():
                    continue
                kept = first.kept(index, dim)
                inner = subnet.dims[subnet.graph.names[name]][dim]
                if inner.size != kept.size:
                    raise SelectionError(f"{name} has {inner.size} positions in dimension {dim}, not {kept.size}")
                hit = self.gone[labels[kept]]
                if (inner[hit] == 0).any() or np.isin(inner[~hit], inner[hit]).any():
                    raise SelectionError(f"the groups of {name} differ between the model and its subnet")
                wanted.update(inner[hit].tolist())
        return subnet.select(sorted(wanted))

    # -- as text -------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Slices by name, enough to repeat the choice on the same model."""
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "fingerprint": self.groups.fingerprint,
                "carry": self.groups.carry,
                "slices": self.slices(),
            }
        )

    @classmethod
    def from_json(cls, text: str, groups: Groups) -> Selection:
        """Read `to_json` back for a model with the same groups.

        What must fit are the slices; the fingerprint only says which model and inputs they came from.
        Raises SelectionError, naming what does not fit.
        """
        return cls.from_slices(_checked(text).slices, groups)

    @staticmethod
    def carry_in(text: str) -> str:
        """With which `carry` to partition the model that `to_json` wrote this for. Raises SelectionError."""
        return _checked(text).carry

    @classmethod
    def from_slices(cls, slices: dict[str, dict[int, list[int]]], groups: Groups) -> Selection:
        """The selection whose `slices()` these are. Raises SelectionError, naming what does not fit."""
        removed: set[int] = set()
        for name, dims in slices.items():
            if name not in groups.graph.names:
                raise SelectionError(f"the model has no parameter or buffer named {name}")
            lines = groups.dims[groups.graph.names[name]]
            for dim, positions in dims.items():
                if dim >= len(lines) or max(positions, default=0) >= lines[dim].size:
                    raise SelectionError(f"{name} has no such positions in dimension {dim}")
                numbers = lines[dim][positions]
                if (numbers == 0).any():
                    raise SelectionError(
                        f"{name} dimension {dim}: position {positions[int(numbers.argmin())]} is held back"
                    )
                removed.update(numbers.tolist())
        selection = groups.select(sorted(removed))
        if selection.slices() != slices:
            raise SelectionError("the slices are not whole groups of this model")
        return selection


class _Text(BaseModel):
    """What `to_json` writes."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["pruning-conformance/selection"]
    version: Literal[1]
    fingerprint: str
    carry: Literal["auto", "outer", "inner"] = "auto"
    slices: dict[str, dict[Position, list[Annotated[int, Strict(), Field(ge=0)]]]]


def _checked(text: str) -> _Text:
    try:
        return _Text.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SelectionError(f"not a selection: {place + ': ' if place else ''}{first['msg']}") from error
