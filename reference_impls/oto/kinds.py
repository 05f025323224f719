"""Options that differ by kind of layer: one number for all groups, or one for each kind that is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from conformance.errors import UsageError
from conformance.partition.groups import KINDS

ByKind = float | Mapping[str, float]
"""By names of kinds of groups (`channel`, `neuron`, `head`...), or of layers: `conv` and `linear`."""

_LAYERS = {"conv": ("channel",), "linear": ("neuron", "head", "head dim")}


def kinds_of(names: Iterable[str]) -> list[int]:
    """Numbers, as in KINDS, of what is named. Raises UsageError, with near matches, for a name that is none."""
    found: list[int] = []
    for name in names:
        if name not in _LAYERS and name not in KINDS:
            known = [*_LAYERS, *KINDS]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"there is no kind of layer or group named {name!r}; {hint}")
        found.extend(KINDS.index(kind) for kind in _LAYERS.get(name, (name,)))
    return found


def by_kind(given: ByKind, other: float) -> npt.NDArray[np.float64]:
    """A number for each of KINDS, float64 of shape (6,): `other` for kinds that are not named.

    A kind of group counts more than the layers it is of. Raises UsageError for an unknown name.
    """
    if not isinstance(given, Mapping):
        return np.full(len(KINDS), float(given))
    figures = np.full(len(KINDS), float(other))
    for name, value in sorted(given.items(), key=lambda item: item[0] not in _LAYERS):
        figures[kinds_of([name])] = value
    return figures


def read_by_kind(option: str, text: float | str) -> ByKind:
    """A number, or `conv=0,linear=0.9`. Raises UsageError, naming the option, for text that is neither."""
    try:
        if not isinstance(text, str) or "=" not in text:
            return float(text)
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError as error:
        raise UsageError(f"{option} is a number, or numbers by kind such as conv=0,linear=0.9; not {text!r}") from error


def read_shares(option: str, text: str) -> list[Fraction]:
    """Shares of training such as `0.25,1/3`. Raises UsageError, naming the option, for text that is none."""
    try:
        found = [Fraction(part.strip()) for part in text.split(",") if part.strip()]
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{option} are shares of training such as 0.25,1/3; not {text!r}") from error
    if any(not 0 <= one <= 1 for one in found):
        raise UsageError(f"{option} are shares of training, between 0 and 1; not {text!r}")
    return found
