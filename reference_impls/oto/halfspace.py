"""What the half-space optimizers share: the trial step's place relative to the old one, and the projection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from conformance.errors import UsageError
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Member, Rows
from reference_impls.oto.wrapper import SparseOptimizer, decoupled


class HalfSpace(SparseOptimizer):
    """Projects groups whose step leaves the half-space {z : <z, x> >= epsilon ||x||^2} to zero, up to the budget.

    complete=(from, to): in these steps what the budget still lacks is projected as well, in equal parts, by the
    lowest <z, x> / ||x||^2 and, where no group is being pushed, the shortest first. This completion is no
    part of the published methods. seed draws which groups are projected when more leave the half-space than
    the budget has room for.

    Raises UsageError for an epsilon outside [0, 1) and for a window that cannot be.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        *,
        epsilon: float = 0.0,
        complete: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        """See the class."""
        super().__init__(base, rows, quota)
        if not 0 <= epsilon < 1:
            raise UsageError(f"epsilon is at least 0 and below 1, not {epsilon}")
        if complete is not None and not 0 <= complete[0] < complete[1]:
            raise UsageError(f"groups are completed from one step to a later one, not {complete[0]} to {complete[1]}")
        self.epsilon, self.complete, self.seed = epsilon, complete, seed
        self.met = quota.empty

    # -- the old point -------------------------------------------------------------------------

    def shifts(self, *, decay: bool) -> dict[int, tuple[torch.Tensor | None, float]]:
        """Before a step: for parameters whose step will be x - lr * b, what says so by id; others have to be copied.

        decay tells whether weight decay is left to the base. The tensor b is None as long as it is the base's
        momentum buffer, which may not exist yet.
        """
        found: dict[int, tuple[torch.Tensor | None, float]] = {}
        if type(self.base) is not torch.optim.SGD:
            return found
        for group in self.param_groups:
            if group["nesterov"]:
                continue
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                if group["momentum"]:
                    found[id(tensor)] = None, float(group["lr"])
                elif not group["maximize"] and not (decay and group["weight_decay"]):
                    found[id(tensor)] = tensor.grad, float(group["lr"])
        return found

    def old_points(self, members: list[Member], *, decay: bool) -> Old:
        """What is needed to know the old point of these members after the step."""
        shifts = self.shifts(decay=decay)
        copied = {
            id(member.tensor): member.tensor
            for member in members
            if not member.alone or id(member.tensor) not in shifts
        }
        for tensor in copied.values():
            held = self._buffers.get(id(tensor))
            if held is None or held.shape != tensor.shape or held.device != tensor.device:
                self._buffers[id(tensor)] = torch.empty_like(tensor, memory_format=torch.preserve_format)
            self._buffers[id(tensor)].copy_(tensor.detach())
        return Old(self, shifts, set(copied))

    # -- projecting ----------------------------------------------------------------------------

    def leaving(self, inner: torch.Tensor, squares: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
        """Flags of the groups whose trial point, with <z, x> = inner, is outside the half-space of x."""
        return self._free & ~self.gone_flags & (inner < epsilon * squares) & (squares > 0)

    def project(
        self, wanted: torch.Tensor, inner: torch.Tensor, squares: torch.Tensor, among: torch.Tensor
    ) -> None:
        """Set groups that are wanted to zero as far as the budget allows, and what is to be completed now, `among` some."""
        if self.met:
            return
        chosen = wanted.cpu().numpy()
        if chosen.any():
            draw = torch.rand(chosen.size, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps))
            self.prune(self.quota.within(draw.numpy(), chosen, self.gone))
            self.met = self.quota.met(self.gone)
        if self.complete is not None and not self.met and self.complete[0] <= self.steps < self.complete[1]:
            ratio = torch.where(squares > 0, inner / squares, -torch.ones_like(inner))
            # Most groups that are not pushed have a ratio near 1: the norm decides between them.
            length = squares.double() / squares.double().max().clamp(min=1e-30)
            order = torch.where(among, ratio.double().clamp(max=1 - 1e-3) + 1e-3 * length, torch.inf)
            self.prune(self.quota.rest(order, self.gone, self.complete[1] - self.steps))
            self.met = self.quota.met(self.gone)

    # -- penalties in the gradient -------------------------------------------------------------

    @contextlib.contextmanager
    def penalised(self, coefficient: torch.Tensor) -> Iterator[None]:
        """Around the base's step: gradients get coefficient[g] * x for the vector x of each group g.

        Where the base adds weight decay to the gradient itself both are added in one pass in its place.
        """
        folds = type(self.base) in (torch.optim.SGD, torch.optim.Adam)
        decays = [(group, group.get("weight_decay", 0)) for group in self.param_groups]
        spread: dict[int, list[torch.Tensor]] = {}
        for member in self.rows.members:
            spread.setdefault(id(member.tensor), []).append(member.spread(coefficient))
        for group, decay in decays:
            own = folds and not decoupled(group)
            sign = -1 if group.get("maximize", False) else 1
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                terms = spread.get(id(tensor), [])
                if own and decay:
                    if terms:
                        terms[0] = terms[0] + decay
                    else:
                        tensor.grad.add_(tensor, alpha=sign * decay)
                for term in terms:
                    tensor.grad.addcmul_(tensor, term, value=sign)
            if own:
                group["weight_decay"] = 0
        try:
            yield
        finally:
            for group, decay in decays:
                if "weight_decay" in group:
                    group["weight_decay"] = decay

    # -- state ---------------------------------------------------------------------------------

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """What follows from the groups gone."""
        del saved
        self.met = self.quota.met(self.gone)


class Old:
    """Parameters as they were before the base's step, after it: copied, or known from the step itself."""

    def __init__(
        self, optimizer: HalfSpace, shifts: dict[int, tuple[torch.Tensor | None, float]], copied: set[int]
    ) -> None:
        self.optimizer, self.shifts, self.copied = optimizer, shifts, copied

    def copy(self, member: Member) -> torch.Tensor | None:
        """The copy, None where there is none."""
        return self.optimizer._buffers[id(member.tensor)] if id(member.tensor) in self.copied else None

    def step_of(self, member: Member) -> tuple[torch.Tensor, float]:
        """(b, lr) with x_old = x_new + lr * b, for a parameter that was not copied."""
        known, rate = self.shifts[id(member.tensor)]
        found = self.optimizer.state[member.tensor]["momentum_buffer"] if known is None else known
        return found, rate

    def inner(self, member: Member) -> torch.Tensor:
        """The line <x_new, x_old>."""
        rows = self.optimizer.rows
        old = self.copy(member)
        if old is not None:
            return rows.dots(member, member.tensor, old)
        moved, rate = self.step_of(member)
        return rows.squares(member).add_(rows.dots(member, member.tensor, moved), alpha=rate)

