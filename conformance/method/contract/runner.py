"""Hold a method to its contract on one model, and assemble the report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch

from conformance.backend import Backend
from conformance.checks.door import as_backend
from conformance.checks.runner import GIVEN
from conformance.checks.settle import settle, skipped, worst
from conformance.checks.subject import prepare
from conformance.cost import parameter_count, predicted_flops
from conformance.errors import UsageError, sentence
from conformance.method.budget import Budget
from conformance.method.contract.registry import Check, checks
from conformance.method.contract.subject import RECIPE, Subject
from conformance.method.protocol import Facts, Method
from conformance.method.recipe import Recipe
from conformance.method.registry import method_of
from conformance.report.schema import CheckResult, MethodFacts, MethodReport, Outcome

Progress = Callable[[str, int, int], None]


def check_method(
    method: str | Method,
    backend: str | Backend | tuple[torch.nn.Module, Any],
    *,
    seed: int = 0,
    budget: Budget | None = None,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    only: tuple[str, ...] = ("*",),
) -> MethodReport:
    """The whole contract of one method on one model. A bad method gives a report, not an exception.

    method is a registered name, package.module:Class, path/file.py:Class, or an instance; backend a SPEC, a
    record, or (module, example inputs). budget is the base budget (None: 0.3 of the first kind the method takes),
    recipe how training methods train on the synthetic task. progress(title, done, total) is called before each
    check. only restricts the checks to ids that match one of these patterns; those the others stand on always run.

    Raises UsageError for an unknown method or model, and for patterns that match nothing.
    """
    for pattern in only:
        if not any(fnmatch(item.id, pattern) for item in checks()):
            raise UsageError(f"no check of the contract matches {pattern!r}")
    todo = [item for item in checks() if item.level == 0 or any(fnmatch(item.id, pattern) for pattern in only)]
    named = method if isinstance(method, str) else ""
    given = method_of(method) if isinstance(method, str) else method
    record = _record(backend)
    start = time.perf_counter()
    try:
        base = prepare(record, seed, "cpu", None)
        groups = base.groups
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the builder and the model are the user's code
        return _report(
            given, record, seed, budget, [], start, Outcome.ERROR, f"the model cannot be used: {sentence(error)}"
        )
    if not groups.count:
        return _report(
            given, record, seed, budget, [], start, Outcome.UNSUPPORTED, "nothing of the model can be pruned exactly"
        )
    subject = Subject(given, base, seed, named, budget, recipe or RECIPE)
    results: list[CheckResult] = []
    for number, item in enumerate(todo):
        if progress:
            progress(item.title, number, len(todo))
        results.append(_result(item, subject, results))
    outcome, reason = worst(results)
    facts = {"parameters": parameter_count(base.model), "flops": predicted_flops(groups)}
    return _report(given, record, seed, budget, results, start, outcome, reason, **facts)


def _record(backend: str | Backend | tuple[torch.nn.Module, Any]) -> Backend:
    if isinstance(backend, Backend):
        return backend
    if isinstance(backend, str):
        from conformance.spec_loader import load

        return load(backend)
    return as_backend(*backend)


def _result(item: Check[Subject], subject: Subject, results: list[CheckResult]) -> CheckResult:
    for result in results:
        if result.level < 1 and result.outcome is not Outcome.PASS:
            # Only the checks at the beginning have level 0: without them the others see nothing.
            if result.id == "M.runs" and result.outcome is Outcome.FAIL and item.id in _WITHOUT_A_RUN:
                continue
            return skipped(item, f"not run because {result.id} did not pass")
    return settle(item, subject, lambda: _repeat(subject, item), "the method raised ")


_WITHOUT_A_RUN = ("M.data", "M.untouched")
"""Checks that have something to say of a method that does not come to a decision."""


def _repeat(subject: Subject, item: Check[Subject]) -> str:
    """What a person types to see this outcome again."""
    backend, name = subject.base.backend, subject.named
    if not name or backend.source == GIVEN:
        where = "(model, args)" if backend.source == GIVEN else repr(backend.name)
        made = repr(name) if name else "method"
        return f"pc.check_method({made}, {where}, seed={subject.seed}, only={(item.id,)!r})"
    words = ["conformance", "method-check", name, "--backend", backend.name, "--seed", str(subject.seed)]
    budget = [] if subject.wanted is None else ["--budget", str(subject.wanted)]
    return shlex.join([*words, *budget, "--only", item.id])


def _report(
    method: Method,
    record: Backend,
    seed: int,
    budget: Budget | None,
    results: list[CheckResult],
    start: float,
    outcome: Outcome,
    reason: str,
    **facts: Any,
) -> MethodReport:
    return MethodReport(
        spec=record.name, outcome=outcome, reason=reason, level=0, seed=seed, seconds=time.perf_counter() - start,
        checks=results, method=described(method, "" if budget is None else str(budget)), **facts,
    )  # fmt: skip


def described(method: Method, budget: str = "") -> MethodFacts:
    """What a report says of a method; of one that declares no facts, its class."""
    facts = getattr(type(method), "facts", None)
    if not isinstance(facts, Facts):
        return MethodFacts(name=type(method).__name__, budget=budget)
    return MethodFacts(
        name=str(facts.name),
        summary=str(facts.summary),
        driver=str(facts.driver),
        data=str(facts.data),
        granularity=str(facts.granularity),
        exactness=str(facts.exactness),
        paper=str(facts.paper),
        requires=str(facts.requires),
        options={name: str(value) for name, value in method.options.items()},
        budget=budget,
    )
