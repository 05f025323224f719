"""What a model under test is: one record, and how collections of records are found.

A collection is an object with `prefix`, `names()` and `get(name)`; it is registered under the
entry-point group `pruning_conformance.backends`. Third parties add theirs the same way.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import torch

from conformance.errors import UsageError

ENTRY_POINT_GROUP = "pruning_conformance.backends"

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one forward call."""


@dataclass(frozen=True)
class Backend:
    """One model under test.

    name is the SPEC a user types (`timm:resnet18`). build returns a fresh module in float32 on
    the CPU with random weights (the caller seeds torch, it must not read a seed of its own) or with pretrained
    ones that an installed package holds.
    inputs(batch, generator) draws one set of example inputs of that batch size, on the CPU.
    size is `tiny` (seconds to check) or `full`. tags are free words such as `cnn`, `attention`.
    input_shape (without the batch) is set when the user asked for another one than the record's.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int, torch.Generator], Inputs]
    source: str = ""
    task: str = "classification"
    size: str = "full"
    tags: frozenset[str] = frozenset()
    input_shape: tuple[int, ...] | None = None


@runtime_checkable
class Collection(Protocol):
    """A source of backends, addressed as `prefix:name`."""

    prefix: str

    def names(self) -> list[str]:
        """Every name the collection knows, sorted, without the prefix. Builds nothing."""
        ...

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The record for `name`; input_shape (without the batch) overrides its default inputs.

        Raises UsageError with near matches for an unknown name.
        """
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A collection whose models can be built for the inputs and the number of classes of a task."""

    def adapted(self, name: str, shape: tuple[int, ...], classes: int) -> Backend:
        """The record for `name` with inputs of `shape` (without the batch) and `classes` outputs a sample.

        Raises UsageError for an unknown name, and for a shape or a number of classes the model cannot have.
        """
        ...


def collections() -> dict[str, Collection]:
    """All registered collections by prefix. One that cannot be imported is reported on use."""
    found: dict[str, Collection] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            found[entry.name] = entry.load()
        except Exception as error:  # noqa: BLE001 - one broken third-party collection must not break the others
            found[entry.name] = _Broken(entry.name, f"{type(error).__name__}: {error}")
    return found


@dataclass
class _Broken:
    """Stands for a collection whose import failed, so that only its own use fails."""

    prefix: str
    reason: str

    def names(self) -> list[str]:
        return []

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:  # noqa: ARG002
        raise UsageError(f"{self.prefix}:{name} cannot be used: {self.reason}")


def unknown_name(prefix: str, name: str, names: Iterable[str]) -> UsageError:
    """The error for a name a collection does not have, with up to three near matches."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(f'{prefix}:{match}' for match in near)}?" if near else ""
    return UsageError(f"{prefix} has no model named {name!r}{hint}")
