"""How much is to go, and the rung of a ladder at which it has gone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch.utils import _pytree as pytree

from conformance.cost import predicted_parameters, work
from conformance.errors import UsageError
from conformance.method.ladder import Ladder
from conformance.method.masks import Masks
from conformance.partition.groups import Groups
from conformance.partition.labels import Labels
from conformance.partition.selection import Selection

Kind = Literal["groups", "params", "macs", "latency", "weights"]
KINDS: tuple[Kind, ...] = ("groups", "params", "macs", "latency")
"""What removing groups is measured in; `weights` is for methods that mask single ones."""


@dataclass(frozen=True)
class Budget:
    """The share of the dense model that is to go: of its groups, parameters, multiply-adds, or measured time.

    weights: of the single weights that may be masked (`conformance.method.weights.maskable`, less what the run
    leaves alone). Only methods of granularity `weight` take it.
    """

    kind: Kind
    remove: float

    def __post_init__(self) -> None:
        """Raise UsageError for an unknown kind or a share outside [0, 1)."""
        if self.kind not in get_args(Kind):
            raise UsageError(f"budgets are in {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not 0 <= self.remove < 1:
            raise UsageError(f"a budget is the share to remove, at least 0 and below 1, not {self.remove}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`macs=0.5`: half of the multiply-adds are to go. Raises UsageError for anything else."""
        kind, equals, number = text.partition("=")
        try:
            remove = float(number)
        except ValueError:
            equals = ""
            remove = 0.0
        if not equals:
            known = ", ".join(get_args(Kind))
            raise UsageError(f"{text!r} is no budget: KIND=SHARE such as macs=0.5, KIND one of {known}")
        return cls(kind, remove)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.kind}={self.remove:g}"


@dataclass(frozen=True)
class Ceiling:
    """The most that may be left, as a number: of prunable groups, of parameters, or of multiply-adds of one sample.

    A run turns it into the share of its model that has to go for it; methods see that share.
    """

    kind: Kind
    left: int

    def __post_init__(self) -> None:
        """Raise UsageError for a kind that is a share only, and a number below one."""
        if self.kind not in ("groups", "params", "macs"):
            raise UsageError(f"what may be left is a number of groups, params or macs, not of {self.kind!r}")
        if self.left < 1:
            raise UsageError(f"at least one of the {self.kind} is left, not {self.left}")

    @classmethod
    def parse(cls, text: str) -> Ceiling:
        """`macs<=4e8`: four hundred million multiply-adds a sample may be left. Raises UsageError for anything else."""
        kind, _, number = text.partition("<=")
        try:
            value = float(number)
            left = int(value)
        except (ValueError, OverflowError):
            value, left = 0.0, -1
        if value != left:
            raise UsageError(f"{text!r} is no budget: KIND<=NUMBER such as macs<=4e8, KIND groups, params or macs")
        return cls(kind, left)  # type: ignore[arg-type]

    def share(self, cost: Cost) -> Budget:
        """The budget of this model: nothing has to go where it has no more."""
        return Budget(self.kind, max(0.0, 1 - self.left / max(cost.size(self.kind), 1)))

    def __str__(self) -> str:
        return f"{self.kind}<={self.left}"


def parse_budget(text: str) -> Budget | Ceiling:
    """A share to remove (`macs=0.5`) or what may be left (`macs<=4e8`). Raises UsageError for anything else."""
    return Ceiling.parse(text) if "<=" in text else Budget.parse(text)


@dataclass(frozen=True)
class Cost:
    """What selections save. latency measures the time of the subnet a selection leaves, as a share of the dense
    model's beside it; None where not offered.
    """

    groups: Groups
    latency: Callable[[Selection], float] | None = None
    _measured: dict[tuple[int, ...], float] = field(default_factory=dict, repr=False)

    @cached_property
    def _work(self) -> list[tuple[int, list[Labels]]]:
        """For each contraction the product of its fixed sizes, and the label arrays of the others."""
        found = []
        for item in work(self.groups):
            fixed = int(np.prod([labels.size for labels in item.dims if not labels.any()]))
            found.append((fixed, [labels for labels in item.dims if labels.any()]))
        return found

    def macs(self, choice: Selection | None = None) -> int:
        """Multiply-adds of matrix products and convolutions, for the traced inputs."""
        total = 0
        for fixed, lines in self._work:
            product = fixed
            for labels in lines:
                product *= labels.size - (0 if choice is None else int(choice.gone[labels].sum()))
            total += product
        return total

    def params(self, choice: Selection | None = None) -> int:
        """Elements of all parameters, tied ones once."""
        return predicted_parameters(self.groups, choice)

    def most(self, kind: Kind, kept: Callable[[Labels], int]) -> float:
        """The share of `params` or `macs` that leaves when of each dimension only `kept(labels)` positions stay."""
        sizes: dict[int, int] = {}

        def left(labels: Labels) -> int:
            if not labels.any():
                return labels.size
            if id(labels) not in sizes:
                sizes[id(labels)] = kept(labels)
            return sizes[id(labels)]

        if kind == "macs":
            rest = sum(fixed * math.prod(map(left, lines)) for fixed, lines in self._work)
            return 1 - rest / max(self._dense_macs, 1)
        graph = self.groups.graph
        parameters = [
            self.groups.dims[index]
            for index in dict.fromkeys(graph.names.values())
            if graph.values[index].kind == "parameter"
        ]
        return 1 - sum(math.prod(map(left, dims)) for dims in parameters) / max(self._dense_params, 1)

    def removed(self, kind: Kind, choice: Selection | Masks) -> float:
        """The share of the dense model that `choice` removes, in [0, 1] (latency: may be negative, it is measured).

        Raises UsageError for a kind that this sort of choice is not measured in.
        """
        if isinstance(choice, Masks) != (kind == "weights"):
            sort = "masks are measured in weights" if isinstance(choice, Masks) else "groups are not"
            raise UsageError(f"{sort}, so this choice has no share of {kind}")
        if isinstance(choice, Masks):
            return 1 - choice.density
        if kind == "groups":
            return len(choice) / max(self.groups.count, 1)
        if kind == "params":
            return 1 - self.params(choice) / max(self._dense_params, 1)
        if kind == "macs":
            return 1 - self.macs(choice) / max(self._dense_macs, 1)
        return 1 - self.time(choice)

    @cached_property
    def _dense_params(self) -> int:
        return self.params()

    @cached_property
    def _dense_macs(self) -> int:
        return self.macs()

    def size(self, kind: Kind, choice: Selection | None = None) -> float:
        """How much there is of a kind that can be counted, or is left: groups, params, or macs of one sample."""
        if kind == "groups":
            return self.groups.count - (0 if choice is None else len(choice))
        return self.params(choice) if kind == "params" else self.macs(choice) / self.samples

    @cached_property
    def samples(self) -> int:
        """Samples of the traced inputs: the first dimension of the first tensor, 1 where that has none."""
        graph = self.groups.graph
        leaves = pytree.tree_leaves((graph.args, graph.kwargs))
        shapes = [leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return max(int(shapes[0][0]), 1) if shapes and shapes[0] else 1

    def time(self, choice: Selection) -> float:
        """Measured time of a forward pass over the dense model's; each selection is measured once.

        Raises UsageError where it cannot be.
        """
        if self.latency is None:
            raise UsageError("a latency budget needs a model that can be timed; this run has none")
        key = tuple(choice.removed)
        if key not in self._measured:
            self._measured[key] = self.latency(choice)
        return self._measured[key]


def unreachable(budget: Budget, most: float) -> UsageError:
    """The error for a budget above `most`, the share that can be reached."""
    return UsageError(f"the budget {budget} cannot be reached: this model and these limits allow 0 to {most:.4f}")


def solve(ladder: Ladder, budget: Budget, cost: Cost) -> int:
    """The lowest rung at which the budget is met.

    Bisection over whole rungs: each look halves what is left, and it ends. The rung below misses the
    budget, so it is met within one rung's granularity (where cost is measured, within its noise).
    Raises UsageError, with the shares that can be reached, when even the last rung misses it.
    """
    if budget.remove == 0:
        return 0
    low, high = 0, ladder.steps
    most = cost.removed(budget.kind, ladder.selection(high)) if high else 0.0
    if most < budget.remove - 1e-12:
        raise unreachable(budget, most)
    while high - low > 1:
        middle = (low + high) // 2
        if cost.removed(budget.kind, ladder.selection(middle)) >= budget.remove - 1e-12:
            high = middle
        else:
            low = middle
    return high
