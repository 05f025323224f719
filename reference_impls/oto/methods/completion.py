"""The steps in which half-space methods are completed, an addition to what is published."""

from __future__ import annotations

from conformance.errors import UsageError
from conformance.method import Run

COMPLETE = (0.75, 0.9)
"""Where in training a half-space method is completed: late, but with enough of a falling lr left to recover."""


def window(run: Run, complete: bool, after: int) -> tuple[int, int] | None:
    """The steps of completion."""
    if not complete:
        return None
    first = max(int(COMPLETE[0] * run.total), after)
    last = max(int(COMPLETE[1] * run.total), first + 1)
    if last > run.total:
        raise UsageError(f"{run.total} steps of training are too few: projection starts at step {after}")
    return first, last
