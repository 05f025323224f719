"""What the collections share: how example inputs are described and drawn, and lookup by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

import torch

from conformance.backend import Inputs
from conformance.errors import UsageError

Kind = Literal["normal", "token", "mask"]


@dataclass(frozen=True)
class Draw:
    """How one tensor argument is drawn.

    shape leaves the batch out. name is the keyword to pass it by, empty for a positional argument.
    kind: `normal` draws from N(0, 1), `token` integers in [0, vocab), `mask` 0/1 integers of which
    the first of each row is 1 and about one in four is 0.
    """

    shape: tuple[int, ...]
    name: str = ""
    kind: Kind = "normal"
    vocab: int = 0

    def tensor(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """A tensor of shape (batch, *shape), on the CPU, drawn from the generator only."""
        shape = (batch, *self.shape)
        # A device context around the caller (meta, for instance) must not take the inputs along.
        cpu = torch.device("cpu")
        if self.kind == "normal":
            return torch.randn(shape, generator=generator, device=cpu)
        if self.kind == "token":
            return torch.randint(self.vocab, shape, generator=generator, device=cpu)
        mask = (torch.rand(shape, generator=generator, device=cpu) > 0.25).long()
        mask[..., 0] = 1
        return mask


@dataclass(frozen=True)
class Drawn:
    """The inputs of a model as its draws; an instance is a `Backend.inputs`."""

    draws: tuple[Draw, ...]

    def __call__(self, batch: int, generator: torch.Generator) -> Inputs:
        args: list[torch.Tensor] = []
        kwargs: dict[str, torch.Tensor] = {}
        for draw in self.draws:
            value = draw.tensor(batch, generator)
            if draw.name:
                kwargs[draw.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs


def reshaped(spec: str, draws: tuple[Draw, ...], shape: tuple[int, ...] | None) -> tuple[Draw, ...]:
    """The draws with the main (first) argument in another shape; arguments that had its shape follow it.

    Raises UsageError when the number of dimensions differs or a size is not positive.
    """
    if shape is None:
        return draws
    old = draws[0].shape
    if len(shape) != len(old) or min(shape, default=1) < 1:
        raise UsageError(f"{spec} takes an input shape of {len(old)} positive sizes such as {old}, not {shape}")
    return tuple(replace(draw, shape=tuple(shape)) if draw.shape == old else draw for draw in draws)


def require(library: str, extra: str) -> None:
    """Raises ImportError, without importing the library, when it is not installed."""
    if find_spec(library) is None:
        raise ImportError(f"{library} is not installed (pip install pruning-conformance[{extra}])")


def tagged(*groups: Iterable[str]) -> frozenset[str]:
    """One set out of several groups of words."""
    return frozenset(word for group in groups for word in group)
