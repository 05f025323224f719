"""What a comparison of two modules came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """`equal` only when shown; `unsupported` is never a pass."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Verdict:
    """The result of `equivalent`.

    reason is empty for `equal`. compared counts output elements; contractions counts the matrix
    products and convolutions that ran in exact arithmetic (field oracle only). max_abs is the
    largest difference where the oracle has distances. details are JSON values.
    """

    status: Status
    oracle: str
    reason: str = ""
    compared: int = 0
    contractions: int = 0
    max_abs: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return self.status is Status.EQUAL

    @property
    def kind(self) -> str:
        """What two verdicts have in common that say the same: the status, or which exception was raised."""
        return self.reason.partition(":")[0] if self.reason.startswith("raised ") else self.status.value

    def __bool__(self) -> bool:
        return self.equal
