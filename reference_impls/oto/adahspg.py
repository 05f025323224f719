"""AdaHSPG+ (reconstructed): proximal steps of low variance find which groups leave, half-space steps let them go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, Literal

import torch

from conformance.errors import UsageError
from reference_impls.oto.everywhere import first_says, mean_everywhere
from reference_impls.oto.hspg import HSPG, MOST, RISE
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.wrapper import Loss, SparseOptimizer

Phase = Literal["proximal", "half-space"]
Closure = Callable[[], Any]
"""Leaves gradients of a loss in `.grad` of the parameters, which it finds empty."""

STABLE = 0.01
"""The share of groups by which two predictions of what is zero may differ and still count as the same."""


class AdaHSPG(HSPG):
    """An adaptive half-space projection method, reconstructed: the paper's own code was not at hand.

    Two kinds of phases of phase_steps steps take turns:

    - proximal: where the phase begins is its anchor, whose gradient over all data, mu, is computed once by `full`.
      A step of the base goes along g(x) - g(anchor) + mu, both g of the same batch, and every group that may leave
      is then shortened by lr * penalty, to zero if it is no longer than that. Zero groups may come back.
    - half-space: HSPG's penalised step and projection, of groups no longer than `radius` times their axis' mean.
      What is projected, and what is zero already, has left for good, up to the budget.

    With x_g all entries of group g, the base's step taking them to z_g,

        proximal:    x_g = max(0, 1 - lr penalty / ||z_g||) z_g
        half-space:  x_g = 0 if <z_g, x_g> < epsilon ||x_g||^2

    Figures of groups are tensors of shape (count + 1,), entry 0 unused, in float32 (float64 where a parameter is).
    penalty is in units of the loss for one of x.

    Proximal phases follow one another until two of them end with the same groups at zero (all but a hundredth);
    half-space phases as long as they let groups go without a rise of the objective, the phase's mean loss + penalty *
    sum of norms. epsilon rises by 0.1 (to at most 0.999) after a half-space phase that has let nothing go and falls
    by as much after one in which the objective has risen. Once the budget is met, steps are the base's.

    `step(closure)` evaluates the closure twice in a proximal phase. A loop that has computed the batch's gradient
    itself calls `correct(closure)` before `step(loss=loss)`.

    Data need: D3, a training run with its losses, and passes over all training data in `full`.

    Options:
        full: leaves the mean gradient over all training data in `.grad`; in several processes the same in each.
        phase_steps: steps of a phase, an epoch in the paper.
        penalty: weight of the norms, 1e-3.
        epsilon: where it begins, in [0, 1), 0.0.
        radius: how long a group may be to be projected, in mean norms of its axis, 1.0.
        buffers: restored after evaluations at the anchor (running statistics of batch norms); none.
        complete, seed: see `HalfSpace`; None and 0.

    Raises UsageError for a radius that is not above 0 and phases without a step, a step that lacks its closure or
    loss, and as HSPG.

    Source: Dai et al., An Adaptive Half-Space Projection Method for Stochastic Optimization Problems with Group
    Sparse Regularization, TMLR 2023.

    Deviations: that steps of low variance and half-space steps take turns and adapt is the paper's; the rules by
    which phases and epsilon change, and the radius, are ours. The budget is a cap, which the paper has not; complete
    is an addition.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        *,
        full: Closure,
        phase_steps: int,
        penalty: float = 1e-3,
        epsilon: float = 0.0,
        radius: float = 1.0,
        buffers: Iterable[torch.Tensor] = (),
        complete: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        """See the class."""
        super().__init__(
            base, rows, quota, start_step=0, penalty=penalty, epsilon=epsilon, complete=complete, seed=seed
        )
        if phase_steps < 1 or not radius > 0:
            raise UsageError(f"a phase has at least a step and radius is above 0, not {phase_steps} and {radius}")
        self.full, self.phase_steps, self.radius, self.buffers = full, phase_steps, radius, list(buffers)
        self.phase: Phase = "proximal"
        self.place, self.left_before = 0, 0
        self.losses, self.objective = 0.0, float("inf")
        self.support: torch.Tensor | None = None
        self._anchor: list[torch.Tensor] = []
        self._mu: list[torch.Tensor | None] = []
        self._corrected = False
        axes = torch.from_numpy(rows.units.groups.axis_of.copy()).to(rows.device)
        self._axis = axes - axes.min()

    def __getstate__(self) -> dict[str, Any]:
        """As of every sparse optimizer. Raises UsageError where `full` is a function that pickle cannot name."""
        if isinstance(self.full, FunctionType) and "<" in self.full.__qualname__:
            raise UsageError(
                f"AdaHSPG+ cannot be pickled with full={self.full.__qualname__}, a lambda or a function inside "
                "another: save its state_dict()"
            )
        return super().__getstate__()

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseOptimizer:
        """As of every sparse optimizer. A function `full` is of the model it was written for: a copy wants its own."""
        twin = super().__deepcopy__(memo)
        assert isinstance(twin, AdaHSPG)
        if isinstance(self.full, FunctionType):
            twin.full = _of_another_model
        return twin

    # -- gradients of low variance -------------------------------------------------------------

    @property
    def reducing(self) -> bool:
        """Whether the next step wants the anchor's gradient too."""
        return not (self.quota.empty or self.met) and self._present() == "proximal"

    def step(self, closure: Closure | None = None, *, loss: Loss | None = None) -> Any:
        """One step. Raises UsageError for a proximal one without a closure, and without the loss."""
        value: Loss | None = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
            self.correct(closure)
        if self.reducing and not self._corrected:
            raise UsageError("proximal steps evaluate the loss at the anchor too: call step(closure)")
        super().step(loss=value if loss is None else loss)
        self._corrected = False
        return value

    def correct(self, closure: Closure) -> None:
        """Make the gradients, which are g(x) of a batch, g(x) - g(anchor) + mu; closure computes the same batch's g."""
        self._corrected = True
        if not self.reducing:
            return
        parameters = self._trained()
        if not self.place:  # at the anchor itself the batch's two gradients are the same
            self._anchor = [tensor.detach().clone() for tensor in parameters]
            self._mu = self._gradients(parameters, self.full)
            for tensor, mu in zip(parameters, self._mu, strict=True):
                tensor.grad = None if mu is None else mu.clone()
            return
        here = [tensor.detach().clone() for tensor in parameters]
        _put(parameters, self._anchor)
        try:
            anchored = self._gradients(parameters, closure)
        finally:
            _put(parameters, here)
        whole: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for tensor, other, mu in zip(parameters, anchored, self._mu, strict=True):
            if tensor.grad is not None and other is not None and mu is not None:
                whole.append((tensor.grad, other, mu))
                continue
            known = [term for term in (tensor.grad, None if other is None else other.neg_(), mu) if term is not None]
            tensor.grad = sum(known[1:], known[0]) if known else None
        if whole:
            gradients, others, means = map(list, zip(*whole, strict=True))
            torch._foreach_sub_(gradients, others)
            torch._foreach_add_(gradients, means)

    def _trained(self) -> list[torch.Tensor]:
        return [tensor for group in self.param_groups for tensor in group["params"] if tensor.requires_grad]

    def _gradients(self, parameters: list[torch.Tensor], closure: Closure) -> list[torch.Tensor | None]:
        """What the closure computes; gradients, buffers and random state are afterwards as they were."""
        held = [tensor.grad for tensor in parameters]
        kept = [buffer.clone() for buffer in self.buffers]
        devices = {tensor.device for tensor in parameters if tensor.device.type == "cuda"}
        for tensor in parameters:
            tensor.grad = None
        try:
            with torch.random.fork_rng(devices=sorted(devices, key=str)), torch.enable_grad():
                closure()
            return [tensor.grad for tensor in parameters]
        finally:
            for tensor, gradient in zip(parameters, held, strict=True):
                tensor.grad = gradient
            _put(self.buffers, kept)

    # -- steps ---------------------------------------------------------------------------------

    def update(self, loss: Loss | None) -> None:
        """A step of the phase."""
        if self.quota.empty or self.met:
            self.base.step()
            return
        if loss is None:
            raise UsageError("AdaHSPG+ looks at the loss: call step(loss=loss), or step(closure)")
        if self._present() == "proximal":
            self._proximal()
        else:
            super().update(loss)
        self.losses += mean_everywhere(loss, self.rows.device)
        self.place += 1
        if self.place == self.phase_steps:
            self._turn()

    def _present(self) -> Phase:
        """Completion is made of half-space steps."""
        return "half-space" if self.complete is not None and self.steps >= self.complete[0] else self.phase

    def _proximal(self) -> None:
        """A step of the base, then every group shortened by lr * penalty."""
        self._after = None  # norms carried from a half-space step are of other values
        self.stepping.step()
        motion = self._motion
        norms = motion.squares().sqrt()
        rates = self.stepping.rates(motion.lines.members)[0]
        rate = motion.lines.shared(rates)
        if isinstance(rate, torch.Tensor):  # of the members that are moved the mean
            rate = motion.lines.total(rate) / motion.lines.total((rate > 0).to(rate)).clamp(min=1)
        lost = (self.penalty * rate / norms.clamp(min=1e-30)).clamp(max=1)
        # What `squares` has taken for the old values are the new ones.
        motion.pull(torch.where(self._open, lost, 0), motion.lines.shared([float(one > 0) for one in rates]))
        motion.forget()

    def leaving(self, inner: torch.Tensor, squares: torch.Tensor, epsilon: torch.Tensor | float) -> torch.Tensor:
        """As in HSPG, of groups that are not longer than others of their axis: one noisy step cuts no long group."""
        norms = torch.where(self._open, squares, 0).sqrt()
        sums = torch.zeros(int(self._axis.max()) + 1, dtype=norms.dtype, device=norms.device)
        counts = sums.index_add(0, self._axis, self._open.to(norms))
        mean = sums.index_add(0, self._axis, norms) / counts.clamp(min=1)
        return super().leaving(inner, squares, epsilon) & (norms <= self.radius * mean[self._axis])

    # -- phases --------------------------------------------------------------------------------

    def _turn(self) -> None:
        """The end of a phase: which kind comes next, and with what epsilon."""
        norms = torch.where(self._open, self.rows.norms(), 0)
        objective = self.losses / self.place + self.penalty * float(norms.double().sum())
        rose, self.objective = first_says(objective > self.objective, self.rows.device), objective
        self.place, self.losses = 0, 0.0
        left = int(self.gone.sum())
        added, self.left_before = left > self.left_before, left
        if self.phase == "proximal":
            support = (norms == 0) & self._open
            before, self.support = self.support, support
            most = STABLE * float(self._free.sum())
            stable = before is not None and float((before ^ support).logical_and(self._open).sum()) <= most
            self.phase = "half-space" if first_says(stable, self.rows.device) else "proximal"
            return
        epsilon = float(self.epsilons[0])
        if rose:
            epsilon = max(0.0, epsilon - RISE)
        elif not added:
            epsilon = min(MOST, epsilon + RISE)
        self.epsilons.fill_(epsilon)
        self.phase = "half-space" if added and not rose else "proximal"

    # -- state ---------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """HSPG's, the phase with what it has seen, and the anchor with its gradient."""
        return {
            **super().own_state(),
            **{name: getattr(self, name) for name in _PLAIN},
            "support": None if self.support is None else self.support.clone(),
            "anchor": [tensor.clone() for tensor in self._anchor],
            "mu": [None if tensor is None else tensor.clone() for tensor in self._mu],
        }

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """As saved."""
        super().load_own_state(saved)
        for name in _PLAIN:
            setattr(self, name, saved[name])
        self.support = None if saved["support"] is None else saved["support"].to(self.rows.device, copy=True)
        devices = [tensor.device for tensor in self._trained()]
        for name in ("anchor", "mu"):
            pairs = zip(saved[name], devices, strict=True) if saved[name] else ()
            moved = [None if value is None else value.to(device, copy=True) for value, device in pairs]
            setattr(self, f"_{name}", moved)


_PLAIN = ("phase", "place", "left_before", "losses", "objective")


def _of_another_model() -> None:
    raise UsageError("this AdaHSPG+ is a copy: set its `full` to a function over the copied model")


def _put(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
