"""Delta debugging: the fewest of some items on which something still fails (Zeller and Hildebrandt's ddmin)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Items = tuple[int, ...]
Improved = Callable[[Items, int], None]


@dataclass(frozen=True)
class Limits:
    """Where a search ends: after this many trials, or when no trial may begin any more after so many seconds."""

    trials: int = 200
    seconds: float = 60.0


@dataclass(frozen=True)
class Shrunk:
    """What is left. minimal: without any single item of it nothing fails; trials counts what was tried."""

    items: Items
    minimal: bool
    trials: int


class _SpentError(Exception):
    """A limit is reached."""


def shrink(
    items: Sequence[int],
    fails: Callable[[Items], bool],
    limits: Limits | None = None,
    improved: Improved | None = None,
) -> Shrunk:
    """The smallest part of `items`, which fails, that still fails; the order of items is kept.

    The same items and answers give the same result, unless time runs out. improved(rest, trials) is called
    at each step down. Nothing at all is tried first, since much that fails does not need any item.
    """
    search = _Search(fails, limits or Limits(), improved or _silent)
    left = tuple(items)
    minimal = True
    try:
        if left and search.fails(()):
            return Shrunk((), True, search.trials)
        for rest in search.steps(left):
            left = rest
            search.improved(left, search.trials)
    except _SpentError:
        minimal = False
    return Shrunk(left, minimal, search.trials)


def _silent(_rest: Items, _trials: int) -> None:
    """Nobody watches."""


class _Search:
    def __init__(self, fails: Callable[[Items], bool], limits: Limits, improved: Improved) -> None:
        self._fails, self.limits, self.improved = fails, limits, improved
        self.trials = 0
        self.end = time.monotonic() + limits.seconds
        self._known: dict[Items, bool] = {}

    def fails(self, items: Items) -> bool:
        if items not in self._known:
            if self.trials >= self.limits.trials or time.monotonic() >= self.end:
                raise _SpentError
            self.trials += 1
            self._known[items] = self._fails(items)
        return self._known[items]

    def steps(self, left: Items) -> Iterator[Items]:
        """Ever smaller parts that fail, until no piece can be left out."""
        parts = 2
        while len(left) > 1:
            pieces = [left[len(left) * at // parts : len(left) * (at + 1) // parts] for at in range(parts)]
            piece = next((piece for piece in pieces if self.fails(piece)), None)
            if piece is not None:
                left, parts = piece, 2
                yield left
                continue
            rests = (tuple(item for item in left if item not in set(piece)) for piece in pieces)
            rest = next((rest for rest in rests if parts > 2 and self.fails(rest)), None)
            if rest is not None:
                left, parts = rest, max(parts - 1, 2)
                yield left
            elif parts < len(left):
                parts = min(2 * parts, len(left))
            else:
                return
