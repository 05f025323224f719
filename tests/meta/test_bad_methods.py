"""The contract tells good methods from bad ones: every planted fault is named by its check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bad_methods import BAD, CopiesLabels, HoldsTheCallers
from good_methods import GOOD

from conformance.checks.subject import prepare
from conformance.method.contract import check_method
from conformance.method.contract.registry import CheckFailed, checks
from conformance.method.contract.subject import Subject
from conformance.report.schema import Outcome
from conformance.spec_loader import load
from reference_impls.baselines.dense import Dense
from reference_impls.baselines.l1 import L1
from reference_impls.baselines.l2 import L2
from reference_impls.baselines.random import Random

SPEC, SMALLER = "handmade:conv-bn-relu", "handmade:mlp"
APPLIES_TO = {
    "M.masks": ("test-weight-magnitude", "test-parametrised", "test-ticket"),
    "M.base-optimizer": ("dense", "test-shrink", "test-projected"),
    "M.resume": (
        "dense",
        "test-shrink",
        "test-projected",
        "test-penalty",
        "test-ticket",
        "test-group-ticket",
        "test-tries",
    ),
}


@pytest.fixture
def process():
    """Puts back what bad methods change about the process."""
    forward, dtype, state = torch.nn.Linear.forward, torch.get_default_dtype(), np.random.get_state()  # noqa: NPY002
    yield
    torch.nn.Linear.forward = forward
    if hasattr(torch.nn.Linear, "_before"):
        del torch.nn.Linear._before
    torch.set_default_dtype(dtype)
    np.random.set_state(state)  # noqa: NPY002


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(("made", "identifier"), BAD, ids=[f"{made.__name__}-{name}" for made, name in BAD])
def test_a_bad_method_is_named(made, identifier):
    report = check_method(made(), SMALLER, only=(identifier,))
    found = next(result for result in report.checks if result.id == identifier)
    assert found.outcome is Outcome.FAIL, found
    assert found.message
    assert "the method raised" not in found.message, found.message
    assert report.outcome is (Outcome.FAIL if found.severity == "MUST" else Outcome.PASS)


def test_labels_read_where_nobody_sees_it_show_in_what_comes_of_it():
    report = check_method(CopiesLabels(), SMALLER, only=("M.data",))
    assert report.reason.endswith("with other labels it comes to other (scores): it reads them")


def test_a_method_that_holds_the_callers_model_is_named():
    base = prepare(load(SMALLER), 0, "cpu", None)
    subject = Subject(HoldsTheCallers(base.model), base, 0)
    (check,) = (item for item in checks() if item.id == "M.untouched")
    with pytest.raises(CheckFailed, match=r"change 0\.weight"):
        check.function(subject)


@pytest.mark.parametrize("made", [Dense, Random, L1, L2, *GOOD], ids=lambda made: made.__name__)
def test_a_good_method_passes(made):
    report = check_method(made(), SPEC)
    assert report.outcome is Outcome.PASS, report.reason
    outcomes = {result.id: result for result in report.checks}
    assert list(outcomes) == [item.id for item in checks()]
    for identifier, result in outcomes.items():
        assert result.outcome in (Outcome.PASS, Outcome.SKIPPED), result
        assert (result.exercised > 0) == (result.outcome is Outcome.PASS)
        assert result.message or result.outcome is Outcome.PASS  # what is skipped says why
        if identifier in APPLIES_TO:
            assert (result.outcome is Outcome.PASS) == (report.method.name in APPLIES_TO[identifier])


def test_every_check_has_a_method_that_it_fails():
    assert {identifier for _, identifier in BAD} == {item.id for item in checks()}
