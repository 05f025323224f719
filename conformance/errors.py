"""Every error the package raises on purpose, as one small tree.

ConformanceError
 |- UsageError            the caller asked for something that cannot be (exit code 2)
 |   |- PlanError         a saved subnet is damaged, or does not belong to the model
 |   |- TooFewStepsError       a method's schedule does not fit into the training it is given
 |   |- UnsuitedError          a model lacks what a method declares to require
 |- TraceError            the model could not be run once on its example inputs
 |- SelectionError        a selection does not fit the groups it is used with
 |- ExtractionError       no subnet could be built for a selection
 |- ConfigError           no config of the model's class describes a subnet
 |- UnsupportedOperation  an oracle has no exact rule for an operation
"""


class ConformanceError(Exception):
    """Base class; the message is one sentence a user can act on."""


class UsageError(ConformanceError):
    """Wrong name, missing file, impossible option: the command exits with 2."""


class PlanError(UsageError):
    """A saved subnet cannot be used: it is damaged, incomplete, or was made from another model."""


class TooFewStepsError(UsageError):
    """A method's schedule takes `needed` optimizer steps, and a training run has fewer."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class UnsuitedError(UsageError):
    """A model has nothing of what a method's facts say it `requires`, such as batch norms to rank by."""


class TraceError(ConformanceError):
    """The model did not run on its example inputs."""


class SelectionError(ConformanceError):
    """A selection names slices that the model or its groups do not have."""


class ExtractionError(ConformanceError):
    """No subnet could be built for a selection."""


class ConfigError(ConformanceError):
    """No config of the model's class describes the subnet."""


class UnsupportedOperation(ConformanceError):  # noqa: N818 - reads as the reason it is
    """An oracle met an operation it has no exact rule for."""

    def __init__(self, operation: str, reason: str = "no exact rule") -> None:
        super().__init__(f"{operation}: {reason}")
        self.operation = operation
        self.reason = reason


def sentence(error: BaseException) -> str:
    """Class and first line of any exception, for messages."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"
