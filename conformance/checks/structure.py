"""Models too large to be compared: their groups are found on the meta device, without a single weight."""

from __future__ import annotations

import time

import torch

from conformance.backend import Backend
from conformance.checks.registry import checks
from conformance.checks.runner import group_facts, run_check
from conformance.checks.subject import Subject
from conformance.cost import parameter_count
from conformance.report.schema import ModelReport, Outcome

CHECKS = ("L1.groups", "L1.disjoint", "L1.accounted")
"""What needs no values."""


def structure_only(backend: Backend, limit: float, *, seed: int = 0) -> ModelReport | None:
    """The report of a model of more than `limit` million parameters; None for a smaller one.

    Exactness is not decided, so the outcome is `unsupported`, or worse where the structure itself is wrong.
    A model that cannot be built without weights is left to the ordinary checks, whatever its size: None.
    """
    start = time.perf_counter()
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = backend.build().eval()
    except (Exception, SystemExit):  # noqa: BLE001 - the builder computes with values; it may well run with them
        return None
    if parameter_count(model) <= limit * 1e6:
        return None
    subject = Subject(backend, model, seed, "meta")
    results = [run_check(item, subject) for item in checks() if item.id in CHECKS]
    bad = next((result for result in results if result.outcome is not Outcome.PASS), None)
    if bad is None:
        outcome, reason = Outcome.UNSUPPORTED, f"structure only: exactness is compared up to {limit:g} M parameters"
    else:
        outcome, reason = bad.outcome, f"{bad.id}: {bad.message}"
    found = group_facts(subject.groups) if results[0].outcome is Outcome.PASS else {}
    return ModelReport(
        spec=backend.name, outcome=outcome, reason=reason, level=1, seed=seed, checks=results,
        seconds=time.perf_counter() - start, parameters=parameter_count(model), **found,
    )  # fmt: skip
