"""HESSO-CRIC: before groups fade, their redundancy is looked at along trajectories on which they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from conformance.errors import UsageError
from reference_impls.oto.everywhere import mean_everywhere, same_everywhere
from reference_impls.oto.fading import Fading
from reference_impls.oto.motion import Motion
from reference_impls.oto.quota import Numbers, Quota
from reference_impls.oto.rows import Rows, Scales, fill_
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.wrapper import Loss

Phase = Literal["before", "probe", "cycle", "fade", "after"]
RATIOS = (0.25, 0.5, 0.75)
"""Shares of a layer that a probe takes away."""


@dataclass(frozen=True)
class Cycles:
    """How HESSO-CRIC samples.

    Every cycle has `steps` steps; they end after `most` cycles, or when no more than `tolerance` groups are newly in
    doubt. loss_weight is that of the layer probes, 0 for none.
    """

    steps: int
    most: int = 10
    tolerance: int = 0
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be."""
        if self.steps < 1 or self.most < 1 or self.tolerance < 0 or self.loss_weight < 0:
            raise UsageError("cycles: steps and most are at least 1, tolerance and loss_weight at least 0")


class HESSOCRIC(Fading):
    """HESSO with corrective redundancy identification.

    Scores are a tensor of shape (count + 1,), entry 0 unused, without a unit, in float32 (float64 where a parameter
    is): low leaves; they are averaged over all steps of the search. With x_g all entries of group g, n_g how many,
    and d_g the direction of the base's step,

        s_g = magnitude M(||x_g||) + average M(||x_g|| / n_g) + cosine M(cosine_sign cos(x_g, d_g) + 1)
              + taylor M(|<x_g, d_g>|) + taylor2 M(<x_g, d_g>^2 / 2)

    where M divides by the Euclidean norm over all groups that may leave. d is (x before - x after) / lr without
    decoupled weight decay, so any base will do.

    At start_step the model is remembered: parameters and what the base optimizer keeps of them. Then:

    - probes, two steps for each layer l of n_l groups and each of RATIOS: the layer's lowest groups are zero for one
      step, whose loss relative to that of start_step is recorded, on average r_l;
    - cycles: the groups in doubt (first the lowest scores, then those that came among the lowest during the
      cycle before) fade to zero while training goes on, all groups are scored in every step, and the
      remembered model is put back;
    - the lowest of mean s_g + cycles.loss_weight r_l / n_l leave: they fade within fade_steps, for good.

    A layer is an axis of the partition.

    Data need: D3, a training run; `step` needs the loss in the steps of start and probes. The remembered model is as
    much memory as the parameters and what the base keeps of them.

    Options:
        start_step: steps of the base alone before the search.
        fade_steps: steps of the final fade.
        cycles: how the search samples (see `Cycles`).
        criteria: the weights (see `Criteria`); None for 0.2 each but taylor2, which is 0.

    Raises UsageError for a schedule that cannot be, a step that lacks its loss, and as `SparseOptimizer`.

    Source: Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning,
    2024.

    Deviations: a trajectory that is undone leaves no trace in what the base keeps; in the papers' code its momentum
    runs on. Batch norms' running statistics are not put back. Others are HESSO's.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rows: Rows,
        quota: Quota,
        *,
        start_step: int,
        fade_steps: int,
        cycles: Cycles,
        criteria: Criteria | None = None,
    ) -> None:
        """Raise UsageError for a schedule that cannot be."""
        super().__init__(base, rows, quota, criteria)
        if start_step < 0 or fade_steps < 1:
            raise UsageError(f"groups fade in at least a step, not {fade_steps}, from step 0 on, not {start_step}")
        self.start_step, self.fade_steps, self.cycles = start_step, fade_steps, cycles
        self.phase: Phase = "before"
        self.place = self.cycle = 0
        self.reference = 0.0
        self.logged, self.log_count = rows.zeros(), 0
        self.layers = probed_layers(quota)
        self.ratios = np.zeros(len(self.layers))
        self.doubted, self.trial, self.history = (np.zeros(rows.count + 1, dtype=bool) for _ in range(3))
        self._doubted = Scales(())
        self._kept: dict[str, Any] = {}
        self._motion: Motion | None = None

    derived: ClassVar[tuple[str, ...]] = ("_doubted", "_motion")

    def rebuilt(self) -> None:
        """Places of what is in doubt."""
        super().rebuilt()
        self._motion = None
        self._doubted = Scales(self.rows.places(np.flatnonzero(self.doubted)))

    @staticmethod
    def steps_needed(quota: Quota, cycles: Cycles, fade_steps: int) -> int:
        """Steps from start_step to the last group's zero, if all cycles are taken."""
        probes = 2 * len(RATIOS) * len(probed_layers(quota)) if cycles.loss_weight else 0
        return probes + cycles.most * cycles.steps + fade_steps

    @property
    def finished(self) -> bool:
        """Whether the groups found redundant are zero."""
        return self.quota.empty or self.phase == "after"

    def update(self, loss: Loss | None) -> None:
        """One step of the phase."""
        if self.quota.empty or self.steps < self.start_step:
            self.base.step()
            return
        if self.phase == "after":
            self.stepping.step()
            return
        if self.phase == "before":
            if self.cycles.loss_weight:
                self.reference = self._number(loss)
            self._kept = self._memorise()
            self.phase = "probe" if self.cycles.loss_weight and self.layers else "cycle"
        if self.phase == "probe":
            self._probe(loss)
        elif self.phase == "cycle":
            self._cycle()
        else:
            self.stepping.step()
            self.place += 1
            self.faded(self.place, self.fade_steps)
            if self.place == self.fade_steps:
                self.phase = "after"

    # -- phases --------------------------------------------------------------------------------

    def _probe(self, loss: Loss | None) -> None:
        number, odd = divmod(self.place, 2)
        layer, ratio = divmod(number, len(RATIOS))
        inside = self.layers[layer]
        if not odd:
            scores = self._scored().double().cpu().numpy()
            self._put_back()
            lowest = inside[np.argsort(scores[inside], kind="stable")][: max(1, int(RATIOS[ratio] * inside.size))]
            fill_(self.rows.places(self._agreed(lowest)))
        else:
            self.ratios[layer] += self._number(loss) / self.reference / len(RATIOS)
            self._put_back()
        self.place += 1
        if self.place == 2 * len(RATIOS) * len(self.layers):
            self.phase, self.place = "cycle", 0

    def _cycle(self) -> None:
        scores = self._scored()
        lowest = np.zeros_like(self.trial)
        if self.place == 0 and self.cycle == 0:
            self._doubt(self._lowest(self.logged / self.log_count))
        lowest[self._lowest(scores)] = True
        self.trial |= lowest & ~self.doubted & ~self.history
        self.place += 1
        length = self.cycles.steps
        self._doubted.run((length - self.place) / (length - self.place + 1))
        if self.place < length:
            return
        self._put_back()
        self.place = 0
        found = np.flatnonzero(self.trial & ~self.history)
        if self.cycle >= self.cycles.most or found.size <= self.cycles.tolerance:
            self._decide()
        else:
            self._doubt(found)

    def _doubt(self, groups: Numbers) -> None:
        """The next cycle's groups."""
        self.cycle += 1
        self.doubted[:] = False
        self.doubted[groups] = True
        self.history |= self.doubted
        self._doubted = Scales(self.rows.places(groups))

    def _decide(self) -> None:
        final = (self.logged / self.log_count).double().cpu().numpy()
        for layer, inside in enumerate(self.layers):
            final[inside] += self.cycles.loss_weight * self.ratios[layer] / inside.size
        self.fade(self._lowest(torch.from_numpy(final)))
        self.phase, self._kept, self._doubted, self._motion = "fade", {}, Scales(()), None

    def _lowest(self, scores: torch.Tensor) -> Numbers:
        return self._agreed(self.quota.reaching(scores, self.gone, self.quota.budget))

    def _agreed(self, groups: Numbers) -> Numbers:
        return same_everywhere(groups, self.rows.count, self.rows.device)

    def _number(self, loss: Loss | None) -> float:
        if loss is None:
            raise UsageError("HESSO-CRIC looks at the loss: call step(loss=loss), or step(closure)")
        return mean_everywhere(loss, self.rows.device)

    def _scored(self) -> torch.Tensor:
        """A step of the base, and the scores of it."""
        if self._motion is None:
            self._motion = self.whole()
        scores = self.scored(self._motion)
        self.logged += scores
        self.log_count += 1
        return scores

    # -- the remembered model ------------------------------------------------------------------

    def _parameters(self) -> list[torch.Tensor]:
        return [tensor for group in self.param_groups for tensor in group["params"]]

    def _memorise(self) -> dict[str, Any]:
        parameters = self._parameters()
        return {
            "parameters": [tensor.detach().clone() for tensor in parameters],
            "base": [_copied(self.state[tensor]) if tensor in self.state else None for tensor in parameters],
            "rest": [(tensor.clone()) for tensor in self._others()],
        }

    def _others(self) -> list[torch.Tensor]:
        """What fades although the base does not train it: buffers and frozen parameters of group vectors."""
        held = {id(tensor) for tensor in self._parameters()}
        units = self.rows.units
        names = dict.fromkeys(item.name for item in units.slices if item.zeroed.any())
        return [units.tensors[name].detach() for name in names if id(units.tensors[name]) not in held]

    def _put_back(self) -> None:
        memory = self._kept
        for tensor, value, kept in zip(self._parameters(), memory["parameters"], memory["base"], strict=True):
            tensor.copy_(value)
            if kept is None:
                self.state.pop(tensor, None)
            else:
                self.state[tensor] = _copied(kept)
        for tensor, value in zip(self._others(), memory["rest"], strict=True):
            tensor.copy_(value)

    # -- state ---------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Where the search is, what it has seen, and the remembered model while there is one."""
        return {
            **super().own_state(),
            "phase": self.phase,
            "place": self.place,
            "cycle": self.cycle,
            "reference": self.reference,
            "logged": self.logged.clone(),
            "log_count": self.log_count,
            "ratios": torch.from_numpy(self.ratios.copy()),
            **{name: torch.from_numpy(getattr(self, name).copy()) for name in _FLAGS},
            "memory": self._kept,
        }

    def load_own_state(self, saved: dict[str, Any]) -> None:
        """As saved."""
        super().load_own_state(saved)
        self.phase, self.place, self.cycle = saved["phase"], saved["place"], saved["cycle"]
        self.reference, self.log_count = saved["reference"], saved["log_count"]
        self.logged = saved["logged"].to(self.rows.zeros())
        self.ratios = saved["ratios"].cpu().numpy().copy()
        for name in _FLAGS:
            setattr(self, name, saved[name].cpu().numpy().copy())
        self.rebuilt()
        memory = dict(saved["memory"])
        if memory:
            moved = zip(memory["base"], self._parameters(), strict=True)
            memory["base"] = [None if kept is None else _copied(kept, tensor.device) for kept, tensor in moved]
        self._kept = memory


_FLAGS = ("doubted", "trial", "history")


def probed_layers(quota: Quota) -> list[Numbers]:
    """The free groups of each axis that has some."""
    axis = np.where(quota.free, quota.groups.axis_of, -1)
    return [np.flatnonzero(axis == number) for number in np.unique(axis[axis >= 0])]


def _copied(state: dict[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """An optimizer's state of one parameter, tensors copied; Adam keeps its step count on the CPU."""

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.clone() if device is None or value.ndim == 0 else value.to(device, copy=True)

    return {key: copy(value) for key, value in state.items()}
