"""The contract's checks, found by a stable id such as `M.budget`.

A check receives the `Subject` and returns a `Finding`, or raises CheckFailed, CheckUnsupported or, where the
rule does not apply to such a method, CheckSkipped. Add one by decorating a function and giving it an anchor in
docs/spec.md. Level 0 are those without which the others have nothing to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from conformance.checks.registry import Check, CheckFailed, CheckSkipped, CheckUnsupported, Finding, Registry

if TYPE_CHECKING:
    from conformance.method.contract.subject import Subject

__all__ = ["Check", "CheckFailed", "CheckSkipped", "CheckUnsupported", "Finding", "check", "checks"]

_registry: Registry[Subject] = Registry()


def check(
    identifier: str, severity: Literal["MUST", "SHOULD"] = "MUST", *, first: bool = False
) -> Callable[..., Callable[..., Finding]]:
    """Register a check of the contract; `first` for those that the others stand on."""
    return _registry.add(identifier, 0 if first else 1, severity)


def checks() -> tuple[Check[Subject], ...]:
    """All checks of the contract, in the order they run."""
    # Imported in this order: they register.
    from conformance.method.contract import declared, decisions, symmetry, budgets, results, training, conduct  # noqa: F401, I001

    return _registry.all()
