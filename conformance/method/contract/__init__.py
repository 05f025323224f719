"""The method contract: what every pruning method must hold, checked on any model with a synthetic task."""

from conformance.method.contract.runner import check_method
from conformance.report.schema import MethodReport

__all__ = ["MethodReport", "check_method"]
