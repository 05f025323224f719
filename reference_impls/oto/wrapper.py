"""What all sparse optimizers share: a base optimizer that makes the steps, and groups that stay at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from conformance.errors import UsageError
from reference_impls.oto import gpu
from reference_impls.oto.copies import portable
from reference_impls.oto.motion import Memory
from reference_impls.oto.quota import Numbers, Quota
from reference_impls.oto.rows import Fills, Rows, fill_
from reference_impls.oto.stepping import Stepping

Loss = torch.Tensor | float


class SparseOptimizer(torch.optim.Optimizer):
    """Wraps any base optimizer of torch; the two share param_groups and state.

    Learning-rate schedulers, gradient clipping and GradScaler work on the wrapper as on the base. A subclass
    writes `update`, which calls `self.base.step()` once. Groups in `gone` are zero after every step: their
    parameters and buffers exactly, and what the base remembers of them from the step in which they left.

    Where several processes train together, each calls `step` with gradients that are the mean over all of them, as
    DistributedDataParallel leaves them, and with its own share's loss, which is averaged where it is looked at. What
    is decided, all take over from the first.

    rows are the group vectors of the model being trained; quota says what leaves. steps counts calls of
    `step` that were not skipped.
    """

    def __init__(self, base: torch.optim.Optimizer, rows: Rows, quota: Quota) -> None:
        """Raise UsageError where the base holds no parameter of any group, and for a budget out of reach."""
        super().__init__(base.param_groups, dict(base.defaults))
        self._of_torch = frozenset(vars(self))
        self.base, self.rows, self.quota = base, rows, quota
        self.steps = 0
        self.gone = np.zeros(rows.count + 1, dtype=bool)
        self._bind()
        held = self.stepping.group_of()
        if rows.members and not any(id(tensor) in held for tensor in rows.parameters):
            raise UsageError("the optimizer holds no parameter of the model that the groups are of")
        if not quota.empty:
            quota.check()

    def _bind(self) -> None:
        """What follows from base, rows, quota and the groups gone."""
        self._share()
        self.stepping = Stepping(self.base)
        self._memory = Memory()
        self._free = torch.from_numpy(self.quota.free).to(self.rows.device)
        self._gone_changed()

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    # -- stepping ------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Loss] | None = None, *, loss: Loss | None = None) -> Any:
        """One step. loss is this step's, for methods that look at it (a closure's result serves as well).

        Raises UsageError for a method that needs the loss and is not given one, and inside a CUDA graph's capture.
        """
        gpu.not_captured()
        value: Loss | None = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        with torch.no_grad():
            self.update(value if loss is None else loss)
            self._fills.run()
        self.steps += 1
        self.settled()
        return value

    def update(self, loss: Loss | None) -> None:
        """The method's own step, without gradients; groups gone are set to zero after it."""
        raise NotImplementedError

    def settled(self) -> None:
        """Called when a step is complete and its zeros are written."""

    # -- groups that leave ---------------------------------------------------------------------

    def prune(self, left: Numbers) -> None:
        """From now on these groups are zero, and the base forgets their momentum."""
        if not left.size:
            return
        self.gone[left] = True
        self._gone_changed()
        places = self.rows.places(left)
        fill_(places)
        for tensor, dim, positions in places:
            held = self.state.get(tensor, {})
            fill_(
                (value, dim, positions)
                for value in held.values()
                if isinstance(value, torch.Tensor) and value.shape == tensor.shape
            )

    def _gone_changed(self) -> None:
        self._fills = Fills(self.rows.places(np.flatnonzero(self.gone)))
        self._open = self._free & ~torch.from_numpy(self.gone).to(self.rows.device)

    @property
    def finished(self) -> bool:
        """Whether nothing more is meant to leave."""
        return True

    @property
    def sparsity(self) -> float:
        """The share of the budget's quantity that has left so far."""
        return self.quota.cost.removed(self.quota.budget.kind, self.rows.units.groups.select(self.zero_groups))

    @property
    def zero_groups(self) -> Numbers:
        """Numbers of the groups that have left."""
        return np.flatnonzero(self.gone)

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The base's state, and under `pruning` that of the groups: tensors, numbers and text."""
        found: dict[str, Any] = self.base.state_dict()
        found["pruning"] = {
            "groups": self.rows.units.groups.fingerprint,
            "steps": self.steps,
            "gone": torch.from_numpy(self.gone.copy()),
            **self.own_state(),
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state. Raises UsageError for one of another model or of a bare optimizer."""
        if "pruning" not in state_dict:
            raise UsageError("this state is of an optimizer that does not prune")
        saved = state_dict["pruning"]
        if saved["groups"] != self.rows.units.groups.fingerprint:
            raise UsageError("this state is of an optimizer over other groups")
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "pruning"})
        self._share()
        self.steps = saved["steps"]
        self.gone = saved["gone"].cpu().numpy().copy()
        self._gone_changed()
        self.load_own_state(saved)

    def own_state(self) -> dict[str, Any]:
        """What a subclass keeps beyond steps and groups gone."""
        return {}

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """Take over what `own_state` gave."""

    # -- copies --------------------------------------------------------------------------------

    derived: ClassVar[tuple[str, ...]] = ("stepping", "_memory", "_free", "_open", "_fills")
    """Attributes that a copy makes anew (`rebuilt`): a subclass adds its own."""

    def _own(self) -> dict[str, Any]:
        """All attributes but torch's own, a scheduler's patch of `step`, and what is derived."""
        derived = [name for kind in type(self).__mro__ for name in vars(kind).get("derived", ())]
        left = {*self._of_torch, "step", *derived}
        return {"defaults": self.defaults, **{name: kept for name, kept in vars(self).items() if name not in left}}

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and torch.save: parameters and their state, as torch's own, and everything of the groups.

        Hooks and what a learning-rate scheduler has put here are left out, as of torch's own. Raises UsageError where
        something cannot be pickled; `state_dict` always can be saved.
        """
        rows, quota = portable(self.rows, self.quota)
        return {**self._own(), "rows": rows, "quota": quota}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As `_own` gave."""
        super().__setstate__(state)
        self._bind()
        self.rebuilt()

    def rebuilt(self) -> None:
        """Make what a subclass derives, after everything else is there."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseOptimizer:
        """Of the parameters' copies: copied together with the model, it is the copied model's optimizer.

        The partition is shared: nothing changes it.
        """
        twin = type(self).__new__(type(self))
        shared = (self.quota, self.quota.groups, self.quota.cost, self.rows.units.groups)
        memo |= {id(one): one for one in shared} | {id(self): twin}
        twin.__setstate__(copy.deepcopy(self._own(), memo))
        return twin

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the base's."""
        if not hasattr(self, "base"):  # torch's own constructor
            super().add_param_group(param_group)
            return
        self.base.add_param_group(param_group)
