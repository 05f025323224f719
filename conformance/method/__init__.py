"""Pruning methods behind one interface: what a method declares, what it is given, and who runs it.

from conformance.method import Budget, method, run
result = run(method("l2"), model, args, budget=Budget.parse("macs=0.5"))
result.subnet
"""

from conformance.method.budget import Budget, Ceiling, Cost, parse_budget
from conformance.method.data import DataNeedError
from conformance.method.host import NotExactlyZero, Options, Plan, Result, plan, run
from conformance.method.ladder import Ladder, Limits, ladder
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed, Decision, Driver, Event, Facts, Method
from conformance.method.recipe import Recipe
from conformance.method.registry import method, method_class, methods
from conformance.method.run import Run
from conformance.method.task import Batch, Task, load_task
from conformance.method.train import TrainingError
from conformance.method.units import Slices, Units, units

__all__ = [
    "Batch",
    "Budget",
    "Ceiling",
    "Cost",
    "DataNeed",
    "DataNeedError",
    "Decision",
    "Driver",
    "Event",
    "Facts",
    "Ladder",
    "Limits",
    "Masks",
    "Method",
    "NotExactlyZero",
    "Options",
    "Plan",
    "Recipe",
    "Result",
    "Run",
    "Slices",
    "Task",
    "TrainingError",
    "Units",
    "ladder",
    "load_task",
    "method",
    "method_class",
    "methods",
    "parse_budget",
    "plan",
    "run",
    "units",
]
