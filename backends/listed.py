"""A collection that is a table: what the small collections of other libraries share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from backends.common import Draw, Drawn, reshaped, tagged
from conformance.backend import Backend, unknown_name


@dataclass(frozen=True)
class Listed:
    """One architecture: how it is built, its inputs (the batch left out), and what it is for."""

    build: Callable[[], torch.nn.Module]
    draws: tuple[Draw, ...]
    source: str
    task: str = "classification"
    tags: tuple[str, ...] = ()


class ListedCollection:
    """The records of a table under a prefix."""

    def __init__(self, prefix: str, records: Mapping[str, Listed]) -> None:
        self.prefix = prefix
        self.records = records

    def names(self) -> list[str]:
        """Every record, sorted."""
        return sorted(self.records)

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The backend of a record; input_shape replaces the shape of its first argument.

        Raises UsageError for an unknown name or a shape of another number of dimensions.
        """
        record = self.records.get(name)
        if record is None:
            raise unknown_name(self.prefix, name, self.names())
        spec = f"{self.prefix}:{name}"
        return Backend(
            name=spec,
            build=record.build,
            inputs=Drawn(reshaped(spec, record.draws, input_shape)),
            source=record.source,
            task=record.task,
            size="tiny",
            tags=tagged((self.prefix,), record.tags),
        )
