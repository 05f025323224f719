"""How a handmade net is declared: one class, or one function that returns a module, with `@net`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from backends.common import Draw

Maker = Callable[[], torch.nn.Module]
M = TypeVar("M", bound=Maker)


@dataclass(frozen=True)
class NetRecord:
    """One handmade net: how it is made, its inputs, and what it is an example of."""

    name: str
    make: Maker
    draws: tuple[Draw, ...]
    task: str
    tags: tuple[str, ...]


NETS: dict[str, NetRecord] = {}


def net(
    name: str, *shapes: tuple[int, ...], tokens: int = 0, tags: str = "", task: str = "classification"
) -> Callable[[M], M]:
    """Registers the decorated class or function as `handmade:name`.

    shapes: one shape (without the batch) for each positional argument. tokens: when set, every
    argument holds integers below it instead of floats. tags: words separated by blanks.
    Raises ValueError when the name is taken.
    """
    if name in NETS:
        raise ValueError(f"two handmade nets are named {name!r}")
    draws = tuple(Draw(shape, kind="token" if tokens else "normal", vocab=tokens) for shape in shapes)

    def register(make: M) -> M:
        NETS[name] = NetRecord(name, make, draws, task, tuple(tags.split()))
        return make

    return register
