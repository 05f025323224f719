"""Candidates one after the other, each measured; the best one wins, and what was measured is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from conformance.errors import UsageError
from conformance.method.interrupt import held
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed, Decision
from conformance.method.run import Run
from conformance.method.train import Keeper, Progress, restore, state_of
from conformance.partition.selection import Selection

PHASE = "search"


@dataclass(frozen=True)
class _Best:
    """The best candidate so far and its figure; number is how many have been measured."""

    number: int = 0
    figure: float = 0.0
    decision: Decision | None = None

    def after(self, figure: float, candidate: Decision) -> _Best:
        if self.decision is None or figure > self.figure:
            return _Best(self.number + 1, figure, candidate)
        return _Best(self.number + 1, self.figure, self.decision)


def search(run: Run, keeper: Keeper, progress: Progress) -> Decision:
    """The candidate with the highest figure, the first of equals.

    A candidate that a checkpoint has measured is not measured again; after Ctrl-C those measured so far are kept.
    Raises UsageError for a method that proposes nothing.
    """
    best = _loaded(run, keeper)
    last_save = time.monotonic()
    with held(hold=keeper.folder is not None) as interrupted:
        while (candidate := run.method.propose(run, best.number)) is not None:
            progress(PHASE, best.number, int(getattr(run.method, "candidates", 0)))
            trial = run.pruned(candidate)
            run.calibrate(trial)
            figure = run.data.evaluate(trial)
            run.log({"phase": PHASE, "step": best.number, "metric": figure})
            best = best.after(figure, candidate)
            if interrupted() or time.monotonic() - last_save >= keeper.every:
                _save(run, keeper, best)
                last_save = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
        if best.decision is None:
            raise UsageError(f"{run.method.name} proposed nothing")
        _save(run, keeper, best)
    return best.decision


def _save(run: Run, keeper: Keeper, best: _Best) -> None:
    decision: Any = None
    if isinstance(best.decision, Selection):
        decision = list(best.decision.removed)
    elif isinstance(best.decision, Masks):
        decision = dict(best.decision.kept)
    used = [level.value for level in run.data.used]
    found = {"number": best.number, "figure": best.figure, "decision": decision, "used": used}
    keeper.save(PHASE, {**found, **state_of(run)})


def _loaded(run: Run, keeper: Keeper) -> _Best:
    """What has been measured before; the run's state is as it was then."""
    saved = keeper.load(PHASE)
    if saved is None:
        return _Best()
    restore(run, saved)
    run.data.used.update(DataNeed(level) for level in saved["used"])
    decision = saved["decision"]
    return _Best(
        saved["number"],
        saved["figure"],
        run.groups.select(decision) if isinstance(decision, list) else Masks(decision).to(run.device),
    )
