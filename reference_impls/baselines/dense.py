"""The control that removes nothing: plain training of the dense model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Decision, Driver, Facts, Method, Run


@dataclass(frozen=True)
class Dense(Method):
    """Trains by the recipe and keeps every group; takes a budget of 0 only."""

    facts: ClassVar[Facts] = Facts(
        name="dense",
        summary="nothing leaves: what every other method is compared with",
        driver=Driver.TRAIN,
        data=DataNeed.TRAINING,
        paper="a control, without a paper",
        budgets=("groups",),
        zeroes=True,
        removes=False,
    )

    def decide(self, run: Run) -> Decision:
        """The empty selection. Raises UsageError for a budget that wants something removed."""
        if run.budget.remove:
            from conformance.errors import UsageError

            raise UsageError(f"dense removes nothing and cannot meet the budget {run.budget}")
        return run.groups.select([])
