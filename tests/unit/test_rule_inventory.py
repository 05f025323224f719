"""No rule without a brute-force case, and no case without a rule."""

from __future__ import annotations

import pytest
import test_rules_elementwise
import test_rules_more
import test_rules_shape
import test_rules_sums
import torch
from brute_force import Board

from conformance.partition.rules import RULES, base_name, rule

kernels_of_other_devices = test_rules_more.kernels_of_other_devices
FILES = (test_rules_elementwise, test_rules_shape, test_rules_sums, test_rules_more)


def cases() -> dict[str, list]:
    """Every case of every file by the name it is listed under."""
    found: dict[str, list] = {}
    for file in FILES:
        for name, listed in file.CASES.items():
            found.setdefault(name, []).extend(listed)
    return found


def uncovered() -> list[str]:
    """ATen operations with a rule that no case is about."""
    tried = cases()
    return sorted(name for name in RULES if "::" not in name and not tried.get(name))


def test_every_rule_has_a_case():
    assert uncovered() == []


def test_every_case_is_about_an_operation_with_a_rule():
    assert sorted(set(cases()) - set(RULES)) == []


def test_every_rule_is_about_an_operation_that_exists():
    namespace = torch.ops.aten
    missing = [
        name for name in RULES if "::" not in name and not (hasattr(namespace, name) or hasattr(namespace, f"{name}_"))
    ]
    assert missing == []


def test_a_rule_without_a_case_is_found(monkeypatch):
    monkeypatch.setitem(RULES, "erf_of_a_future_release", RULES["erf"])
    assert uncovered() == ["erf_of_a_future_release"]


def test_a_name_with_an_empty_list_counts_as_without(monkeypatch):
    monkeypatch.setitem(test_rules_elementwise.CASES, "erf", [])
    assert uncovered() == ["erf"]


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.usefixtures("kernels_of_other_devices")
@pytest.mark.parametrize("name", sorted(cases()))
def test_a_case_runs_the_operation_it_is_listed_under(name):
    for case in cases()[name]:
        board = Board()
        case(board)
        assert name in {base_name(node.op) for node in board.nodes}


def test_two_rules_for_one_operation_are_refused():
    with pytest.raises(ValueError, match="two rules for erf"):
        rule("erf")(RULES["erf"])
