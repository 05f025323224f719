"""The report as data: what `report.json` holds. Every other rendering is made from it.

`SCHEMA_VERSION` changes its first number when a field is removed or changes meaning, its second when one is added:
1.1 adds `diagnosis` to a check, 1.2 `method` to a model.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from conformance.diagnosis.finding import Diagnosis

SCHEMA_VERSION = "1.2"


class Outcome(StrEnum):
    """What a check, or a model, came to. Only `pass` counts as a pass."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"
    ERROR = "error"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckResult(_Frozen):
    """One check on one model. exercised counts the comparisons made; 0 is never a pass.

    diagnosis says where and why models differ, for a failing check of level 2; it never changes the outcome.
    """

    id: str
    title: str
    level: int
    severity: Literal["MUST", "SHOULD"]
    spec: str
    outcome: Outcome
    message: str = ""
    exercised: int = 0
    seconds: float = 0.0
    details: dict[str, Any] = Field(default_factory=dict)
    diagnosis: Diagnosis | None = None


class GroupRow(_Frozen):
    """One row of the group table: all groups that share an axis (the channels of one convolution...).

    kind: channel, head, neuron, embedding or parameter. size: how many groups. mode: how they become
    zero (producers or consumers). parameters and flops: what removing all of them would save.
    """

    axis: str
    kind: str
    size: int
    mode: str
    parameters: int
    flops: int


class HeldBack(_Frozen):
    """Slices that cannot be removed, and the operation that holds them."""

    reason: str
    slices: int
    parameters: int
    examples: list[str]


class MethodFacts(_Frozen):
    """The method whose contract was checked: what it declares, its options as text, the base budget asked for."""

    name: str
    summary: str = ""
    driver: str = ""
    data: str = ""
    granularity: str = ""
    exactness: str = ""
    paper: str = ""
    requires: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    budget: str = ""


class ModelReport(_Frozen):
    """Everything found about one model; with `method`, about that method on this model."""

    spec: str
    outcome: Outcome
    reason: str = ""
    level: int
    seed: int
    seconds: float
    parameters: int = 0
    flops: int = 0
    trace_device: str = ""
    kinds: dict[str, int] = Field(default_factory=dict)
    removable_parameters: float = 0.0
    removable_flops: float = 0.0
    subnets: dict[str, int] = Field(default_factory=dict)
    unverified: list[str] = Field(default_factory=list)
    groups: list[GroupRow] = Field(default_factory=list)
    held_back: list[HeldBack] = Field(default_factory=list)
    checks: list[CheckResult] = Field(default_factory=list)
    method: MethodFacts | None = None

    @property
    def title(self) -> str:
        """What the report is about, in a few words; no two subjects of one run share it."""
        return self.spec if self.method is None else f"{self.method.name} on {self.spec}"

    def counts(self) -> dict[str, int]:
        """How many checks came to each outcome."""
        found: dict[str, int] = {}
        for check in self.checks:
            found[check.outcome.value] = found.get(check.outcome.value, 0) + 1
        return found


class MethodReport(ModelReport):
    """Everything found about one method on one model."""

    method: MethodFacts


class Report(_Frozen):
    """One run of the command over one or more models."""

    schema_version: str = SCHEMA_VERSION
    tool: str = "pruning-conformance"
    tool_version: str
    created: str
    command: list[str]
    environment: dict[str, str]
    models: list[ModelReport]

    @property
    def exit_code(self) -> int:
        """0 every model conforms, 1 one does not (unsupported included), 3 an internal error."""
        outcomes = {model.outcome for model in self.models}
        if Outcome.ERROR in outcomes:
            return 3
        return 0 if outcomes <= {Outcome.PASS} and outcomes else 1
