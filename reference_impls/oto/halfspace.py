"""What the half-space optimizers share: the trial step's place relative to the old one, and the projection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from conformance.errors import UsageError
from reference_impls.oto.everywhere import first_says, same_everywhere
from reference_impls.oto.motion import Motion
from reference_impls.oto.quota import Numbers, Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.stepping import adds_decay
from reference_impls.oto.wrapper import SparseOptimizer

Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating[Any]]
"""For groups, of shape (count + 1,)."""


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
        self._number_members()

    def _number_members(self) -> None:
        self._numbers: dict[int, list[int]] = {}
        for number, member in enumerate(self.rows.members):
            self._numbers.setdefault(id(member.tensor), []).append(number)

    derived: ClassVar[tuple[str, ...]] = ("_numbers",)

    def rebuilt(self) -> None:
        """Members by their parameters."""
        self._number_members()

    def moved(self, motion: Motion, coefficient: torch.Tensor | None = None, *, asked: bool = True) -> None:
        """The base's step; gradients get coefficient[g] * x of each group g. A motion that is asked later is told."""
        if asked:
            motion.before(self.stepping, penalised=coefficient is not None)
        with contextlib.nullcontext() if coefficient is None else self._penalised(motion, coefficient):
            self.stepping.step()

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
        if not self.met:
            self._let_go(self._agreed(np.flatnonzero(wanted.cpu().numpy())))
        if self.completing and not self.met:
            self._complete(inner, squares, among)

    def _let_go(self, chosen: Numbers) -> None:
        """What leaves the half-space; a random part of it where the budget has no room for all."""
        if not chosen.size:
            return
        flags = np.zeros(self.gone.size, dtype=bool)
        flags[chosen] = True
        draw = torch.rand(flags.size, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps))
        order = draw.numpy()
        self._leave(self.quota.within(order, self.allowed(order, flags), self.gone))

    def _complete(self, inner: torch.Tensor, squares: torch.Tensor, among: torch.Tensor) -> None:
        """This step's part of what the budget still lacks."""
        assert self.complete is not None
        ratio = torch.where(squares > 0, inner / squares, -torch.ones_like(inner))
        # Most groups that are not pushed have a ratio near 1: the norm decides between them.
        length = squares.double() / squares.double().max().clamp(min=1e-30)
        order = torch.where(among, ratio.double().clamp(max=1 - 1e-3) + 1e-3 * length, torch.inf)
        line = order.cpu().numpy()
        line = np.where(self.allowed(line, line < np.inf), line, np.inf)
        self._leave(self.quota.rest(line, self.gone, self.complete[1] - self.steps))

    def allowed(self, order: Scores, wanted: Flags) -> Flags:
        """Of the groups wanted those that may leave now, by the lowest `order`: all, unless a subclass says less."""
        del order
        return wanted

    def _leave(self, groups: Numbers) -> None:
        self.prune(self._agreed(groups))
        self.met = first_says(self.quota.met(self.gone), self.rows.device)

    def _agreed(self, groups: Numbers) -> Numbers:
        return same_everywhere(groups, self.rows.count, self.rows.device)

    # -- penalties in the gradient -------------------------------------------------------------

    @contextlib.contextmanager
    def _penalised(self, motion: Motion, coefficient: torch.Tensor) -> Iterator[None]:
        """Around the base's step: gradients get coefficient[g] * x, in place.

        Weight decay that the base would add to the gradient is added here in the same pass: what the base computes
        stays the same to the bit, and its temporaries are saved.
        """
        held = self.stepping.group_of()
        signs = {key: -1 if group.get("maximize", False) else 1 for key, group in held.items()}
        decays = {key: group["weight_decay"] for key, group in held.items() if adds_decay(self.base, group)}
        done = motion.press(coefficient, signs, decays)
        rest = [
            number
            for key, numbers in self._numbers.items()
            if key in held and key not in done and self.rows.members[numbers[0]].tensor.grad is not None
            for number in numbers
        ]
        terms = self._terms(coefficient, decays, rest) if rest else {}
        for group in self.param_groups:
            for tensor in group["params"]:
                key = id(tensor)
                if tensor.grad is None or key in done:
                    continue
                numbers = self._numbers.get(key, ())
                if key in decays and not numbers:
                    tensor.grad.add_(tensor, alpha=signs[key] * decays[key])
                for number in numbers:
                    tensor.grad.addcmul_(tensor, terms[number], value=signs[key])
        added = [(group, group["weight_decay"]) for group in self.param_groups if adds_decay(self.base, group)]
        try:
            for group, _ in added:
                group["weight_decay"] = 0
            yield
        finally:
            for group, decay in added:
                group["weight_decay"] = decay

    def _terms(self, coefficient: torch.Tensor, decays: dict[int, float], wanted: list[int]) -> dict[int, torch.Tensor]:
        """For some members what their gradients get of x: the first of a parameter with the decay, by its id."""
        firsts = {numbers[0] for numbers in self._numbers.values()}
        plus = [
            float(decays.get(id(member.tensor), 0)) if number in firsts else 0.0
            for number, member in enumerate(self.rows.members)
        ]
        line, decay = self.rows.line_of(coefficient), self.rows.shared(plus)
        return self.rows.shaped(line + decay if isinstance(decay, torch.Tensor) or decay else line, wanted)

    # -- state ---------------------------------------------------------------------------------

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """What follows from the groups gone."""
        del saved
        self.met = self.quota.met(self.gone)
