"""The table of checks: one plain function each, found by a stable id.

A check receives the `Subject` and returns a `Finding`, or raises CheckFailed or CheckUnsupported. Its
docstring's first line is its title. Add a check by decorating one function and giving it an
anchor in docs/spec.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from conformance.checks.subject import Subject
    from conformance.diagnosis.locate import Comparison

SPEC = "docs/spec.md"

S = TypeVar("S")
"""What a check is given: a model's `Subject`, or that of a method."""


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


class CheckSkipped(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The rule does not apply to this subject, for the reason given; never counted as a pass."""


@dataclass(frozen=True)
class Check(Generic[S]):
    """A registered check."""

    id: str
    title: str
    level: int
    severity: Literal["MUST", "SHOULD"]
    function: Callable[[S], Finding]

    @property
    def spec(self) -> str:
        """Where docs/spec.md states the rule."""
        return f"{SPEC}#{self.id.lower().replace('.', '')}"


class Registry(Generic[S]):
    """Checks of one kind of subject by id."""

    def __init__(self) -> None:
        self._checks: dict[str, Check[S]] = {}

    def add(self, identifier: str, level: int, severity: Literal["MUST", "SHOULD"]) -> Callable[..., Any]:
        """A decorator that registers a check. Raises ValueError for an id that is taken."""

        def register(function: Callable[[S], Finding]) -> Callable[[S], Finding]:
            if identifier in self._checks:
                raise ValueError(f"two checks are called {identifier}")
            title = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
            self._checks[identifier] = Check(identifier, title, level, severity, function)
            return function

        return register

    def all(self) -> tuple[Check[S], ...]:
        """By level, in the order they were written."""
        return tuple(sorted(self._checks.values(), key=lambda item: item.level))


_registry: Registry[Subject] = Registry()


def check(identifier: str, severity: Literal["MUST", "SHOULD"] = "MUST") -> Callable[..., Callable[..., Finding]]:
    """Register a check under an id such as `L2.identity`; the digit is its level."""
    return _registry.add(identifier, int(identifier[1]), severity)


def checks() -> tuple[Check[Subject], ...]:
    """All checks by level, in the order they were written."""
    from conformance.checks import level0, level1, level2, level3  # noqa: F401 - they register

    return _registry.all()


def __getattr__(name: str) -> Any:
    if name == "CHECKS":
        return checks()
    raise AttributeError(name)
