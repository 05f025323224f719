"""What the half-space optimizers share: the trial step's place relative to the old one, and the projection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from conformance.errors import UsageError
from reference_impls.oto.blocks import Blocks, Terms
from reference_impls.oto.motion import Bound, Memory, Motion
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Lines, Rows
from reference_impls.oto.wrapper import SparseOptimizer, adds_decay


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
        self._memory = Memory()
        self.blocks = Blocks(base)

    # -- the old point -------------------------------------------------------------------------

    def shifts(self) -> Bound:
        """Before a penalised step: for parameters whose step will be x - lr * b, what says b, and lr, by id."""
        found: Bound = {}
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
                elif not group["maximize"]:
                    found[id(tensor)] = tensor.grad, float(group["lr"])
        return found

    def moved(self, lines: Lines, coefficient: torch.Tensor | None = None) -> Motion:
        """The base's step, and what it has done to these members; gradients get coefficient[g] * x of each group g."""
        terms, fitting = self._terms(coefficient), self.blocks.fitting()
        motion = Motion.before(lines, self.shifts(), self._buffer, self._memory, fitting)
        with self.blocks.ahead(motion, fitting, terms), self._penalised(terms):
            self.base.step()
        return motion

    def _buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.state[tensor]["momentum_buffer"]
        return found

    @property
    def completing(self) -> bool:
        """Whether this step is one in which groups are completed."""
        return self.complete is not None and self.complete[0] <= self.steps < self.complete[1]

    # -- projecting ----------------------------------------------------------------------------

    def leaving(self, inner: torch.Tensor, squares: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
        """Flags of the groups whose trial point, with <z, x> = inner, is outside the half-space of x."""
        return self._open & (inner < epsilon * squares) & (squares > 0)

    def project(self, wanted: torch.Tensor, inner: torch.Tensor, squares: torch.Tensor, among: torch.Tensor) -> None:
        """Set groups that are wanted to zero as far as the budget allows, and what is completed now, `among` some."""
        if self.met:
            return
        chosen = wanted.cpu().numpy()
        if chosen.any():
            draw = torch.rand(chosen.size, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps))
            self.prune(self.quota.within(draw.numpy(), chosen, self.gone))
            self.met = self.quota.met(self.gone)
        if self.complete is not None and not self.met and self.completing:
            ratio = torch.where(squares > 0, inner / squares, -torch.ones_like(inner))
            # Most groups that are not pushed have a ratio near 1: the norm decides between them.
            length = squares.double() / squares.double().max().clamp(min=1e-30)
            order = torch.where(among, ratio.double().clamp(max=1 - 1e-3) + 1e-3 * length, torch.inf)
            self.prune(self.quota.rest(order, self.gone, self.complete[1] - self.steps))
            self.met = self.quota.met(self.gone)

    # -- penalties in the gradient -------------------------------------------------------------

    def _terms(self, coefficient: torch.Tensor | None) -> Terms:
        """What gradients get where they get more than decay."""
        terms: Terms = {}
        if coefficient is None:
            return terms
        decays = {
            id(tensor): group["weight_decay"]
            for group in self.param_groups
            if adds_decay(self.base, group)
            for tensor in group["params"]
        }
        for member, term in zip(self.rows.members, self.rows.spread(coefficient), strict=True):
            decay = decays.pop(id(member.tensor), 0)  # in the first term of each
            terms.setdefault(id(member.tensor), []).append(term + decay if decay else term)
        return terms

    @contextlib.contextmanager
    def _penalised(self, terms: Terms) -> Iterator[None]:
        """Around the base's step: gradients get their terms.

        Weight decay that the base would add to the gradient is added here, in place, in the same pass: what the
        base computes stays the same to the bit, and its temporaries are saved.
        """
        decays = [(group, group["weight_decay"]) for group in self.param_groups if adds_decay(self.base, group)]
        for group in self.param_groups:
            decay = group["weight_decay"] if adds_decay(self.base, group) else 0
            sign = -1 if group.get("maximize", False) else 1
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                if decay and id(tensor) not in terms:
                    tensor.grad.add_(tensor, alpha=sign * decay)
                for term in terms.get(id(tensor), ()):
                    tensor.grad.addcmul_(tensor, term, value=sign)
        try:
            for group, _ in decays:
                group["weight_decay"] = 0
            yield
        finally:
            for group, decay in decays:
                group["weight_decay"] = decay

    # -- state ---------------------------------------------------------------------------------

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """What follows from the groups gone."""
        del saved
        self.met = self.quota.met(self.gone)
