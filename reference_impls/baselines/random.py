"""Groups in random order, the control for every criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from conformance.errors import UsageError
from conformance.method import DataNeed, Driver, Facts, Method, Run
from conformance.method.ladder import SCOPES, Scope


@dataclass(frozen=True)
class Random(Method):
    """Groups leave in an order drawn from the seed: what any criterion has to beat.

    Score: one draw from the uniform distribution on [0, 1) a group, without a unit; shape (count + 1,), float64. Low
    leaves first; among all groups, or among those that `ranking` compares.

    Data: D0, none. Weights are not looked at either.

    Options:
        ranking=global: compares all groups; local: axes lose equal shares; isomorphic: classes of axes built alike do.

    The result depends on the seed and on the order of the model's groups, not on their meaning: renumbering channels
    gives another draw. Report the mean of several seeds. Raises UsageError for an option that does not exist and a
    budget out of reach.

    Source: a control, without a paper.
    """

    facts: ClassVar[Facts] = Facts(
        name="random",
        summary="groups leave in random order",
        driver=Driver.POST,
        data=DataNeed.NONE,
        paper="a control, without a paper",
        equivariant=False,
        random=True,
    )
    ranking: Scope = "global"

    def __post_init__(self) -> None:
        """Raise UsageError for a scope that does not exist."""
        if self.ranking not in SCOPES:
            raise UsageError(f"{self.name}: there are {', '.join(SCOPES)}, but no {self.ranking!r}")

    @property
    def scope(self) -> Scope:
        """As the option says."""
        return self.ranking

    def score(self, run: Run) -> torch.Tensor:
        """Uniform draws."""
        return torch.rand(run.groups.count + 1, generator=run.rng("scores"), dtype=torch.float64)
