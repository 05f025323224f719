"""The table of checks: one plain function each, found by a stable id.

A check receives the `Subject` and returns a `Finding`, or raises CheckFailed or CheckUnsupported. Its
docstring's first line is its title. Add a check by decorating one function and giving it an
anchor in docs/spec.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from conformance.checks.subject import Subject
    from conformance.diagnosis.locate import Comparison

SPEC = "docs/spec.md"


@dataclass(frozen=True)
class Finding:
    """What a passing check saw. exercised counts comparisons made; 0 turns the pass into a failure."""

    exercised: int
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)


class CheckFailed(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The model breaks the rule; details help to repeat it.

    comparison says which two models differ; failures of one kind are taken for the same by a diagnosis.
    """

    def __init__(self, message: str, *, comparison: Comparison | None = None, kind: str = "", **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.comparison = comparison
        self.details = details


class CheckUnsupported(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The rule could not be decided; never counted as a pass."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Check:
    """A registered check."""

    id: str
    title: str
    level: int
    severity: Literal["MUST", "SHOULD"]
    function: Callable[[Subject], Finding]

    @property
    def spec(self) -> str:
        """Where docs/spec.md states the rule."""
        return f"{SPEC}#{self.id.lower().replace('.', '')}"


_checks: dict[str, Check] = {}


def check(identifier: str, severity: Literal["MUST", "SHOULD"] = "MUST") -> Callable[..., Callable[..., Finding]]:
    """Register a check under an id such as `L2.identity`; the digit is its level."""

    def register(function: Callable[[Subject], Finding]) -> Callable[[Subject], Finding]:
        if identifier in _checks:
            raise ValueError(f"two checks are called {identifier}")
        title = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
        _checks[identifier] = Check(identifier, title, int(identifier[1]), severity, function)
        return function

    return register


def checks() -> tuple[Check, ...]:
    """All checks by level, in the order they were written."""
    from conformance.checks import level0, level1, level2, level3  # noqa: F401 - they register

    return tuple(sorted(_checks.values(), key=lambda item: item.level))


def __getattr__(name: str) -> Any:
    if name == "CHECKS":
        return checks()
    raise AttributeError(name)
