"""What a diagnosis found, as data and as sentences for people."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Divergence:
    """The first module whose inputs agree and whose result does not.

    module is its dotted path ('' for the model itself), kind its class; call of calls says which call of it,
    from 1. what names the values that differ (`the output`, `aten.add.Tensor`...), source the line of code
    where known. differing of elements differ; differing is -1 where the values cannot be counted, and reason
    says why. state names parameters and buffers of the module that are not the full model's kept slices.
    """

    module: str
    kind: str
    call: int
    calls: int
    what: str
    source: str = ""
    differing: int = -1
    elements: int = 0
    reason: str = ""
    state: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = self.module or "the model itself"
        which = f", call {self.call} of {self.calls}" if self.calls > 1 else ""
        place = f" at {self.source}" if self.source else ""
        count = self.reason or f"differs in {self.differing} of {self.elements} elements"
        state = f"; its {', '.join(self.state)}" if self.state else ""
        return f"{name} ({self.kind}{which}): {self.what}{place} {count}{state}"


@dataclass(frozen=True)
class Smallest:
    """The fewest removed groups found that still fail in the same way.

    slices: name of a parameter or buffer -> dimension -> removed positions, in the full model's indices;
    words the same in short, one entry for each dimension that names every group once, as `--remove` takes
    them. minimal: every single group of it is needed; False where a limit ended the search.
    """

    groups: int
    of: int
    slices: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    minimal: bool = False
    trials: int = 0

    def __str__(self) -> str:
        which = f": {', '.join(self.words)}" if self.words else " (it fails with nothing removed)"
        if len(self.words) > _SHOWN:
            which = f": {', '.join(self.words[:_SHOWN])}, and {len(self.words) - _SHOWN} more"
        end = "" if self.minimal else "; the search was ended before it was the smallest"
        trials = f"{self.trials} trial{'s' if self.trials != 1 else ''}"
        return f"{self.groups} of {self.of} removed groups{which} ({trials}{end})"


_SHOWN = 8


CUT_OFF = "the diagnosis was cut off"
"""The problem of a diagnosis that is not finished."""


@dataclass(frozen=True)
class Diagnosis:
    """Where and why two models differ. What could not be found is None, and problem says why, in a sentence."""

    seed: int = 0
    divergence: Divergence | None = None
    smallest: Smallest | None = None
    problem: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Name and sentence of each finding, in the order a reader wants them."""
        found: list[tuple[str, str]] = []
        if self.divergence is not None:
            found.append(("first diverging module", str(self.divergence)))
        if self.smallest is not None:
            found.append(("smallest selection", str(self.smallest)))
        if self.problem:
            found.append(("diagnosis", self.problem))
        return found
