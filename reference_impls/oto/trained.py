"""What the optimizers have in common as methods: one around the recipe's own decides while it trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conformance.errors import UsageError
from conformance.method import Decision, Event, Method, Run
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.wrapper import SparseOptimizer


@dataclass(frozen=True)
class Trained(Method):
    """A method whose optimizer decides; what has left is kept in the run's state when training ends."""

    def optimizer(self, run: Run, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> SparseOptimizer:
        """The method's own around `base`."""
        raise NotImplementedError

    def rows(self, run: Run) -> Rows:
        """The group vectors."""
        return Rows(run.units)

    def quota(self, run: Run) -> Quota:
        """How much leaves."""
        return Quota(run.groups, run.budget, run.limits, run.cost)

    def prepare(self, run: Run) -> None:
        """Raise UsageError for a budget out of reach, before anything is trained."""
        quota = self.quota(run)
        if not quota.empty:
            quota.check()

    def wrap_optimizer(self, run: Run, optimizer: torch.optim.Optimizer) -> SparseOptimizer:
        """See `optimizer`."""
        return self.optimizer(run, optimizer, self.rows(run), self.quota(run))

    def on_event(self, event: Event, run: Run) -> None:
        """After the last step: remember which groups are zero."""
        if event == "after_step" and run.step + 1 >= run.total:
            assert isinstance(run.optimizer, SparseOptimizer)
            run.state["gone"] = torch.from_numpy(run.optimizer.zero_groups)

    def decide(self, run: Run) -> Decision:
        """The groups that training has set to zero."""
        gone = run.state.get("gone")
        return run.groups.select([] if gone is None else gone.tolist())


def share(name: str, value: float) -> None:
    """Raise UsageError for an option that is no share of training."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is a share of training, between 0 and 1, not {value}")
