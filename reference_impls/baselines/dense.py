"""The control that removes nothing: plain training of the dense model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conformance.method import DataNeed, Decision, Driver, Facts, Method, Run


@dataclass(frozen=True)
class Dense(Method):
    """Trains by the recipe and removes nothing: what every other method is compared with.

    No group has a score: shape (count + 1,) stays unused, every weight keeps its shape, such as (out, in, kh, kw), and
    the subnet is the model.

    Data: D3, training by the recipe. There are no options; the budget is groups=0, the only one it takes.

    The result depends on the recipe, the data and the seed. Raises UsageError for a budget that wants something
    removed.

    Source: a control, without a paper.
    """

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
