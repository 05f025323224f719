"""Code that reads computed values, in the field: the full model's float64 numbers for equal residues."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.equivalence.compare import one_round
from conformance.equivalence.verdict import Status
from conformance.graph.trace import trace

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


class Reading(nn.Module):
    """Two layers, a function that reads values, a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(4, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.second(torch.relu(self.first(x)))))


def each_row(y):
    return torch.stack([row * (2 + abs(int(9 * row.sum()))) for row in y[(y[:, 0] > y[:, 1]) | (torch.arange(6) < 2)]])


def written(y):
    places = torch.zeros(6, dtype=torch.long)
    places.copy_(y[:, 0] * 7)
    return y[places % 6]


READS = {
    "number": lambda y: y * (1 + abs(float(y.sum()))),
    "size": lambda y: y[: 2 + int(y.abs().sum()) % 4],
    "whole tensor": lambda y: y[:, y.sum(0).long() % 4],
    "branch": lambda y: y * 2 if bool(y[0, 0]) else y,
    "list of rows": each_row,
    "rows by their order": lambda y: y[y[y[:, 0] > 0].long()[:, 1] % 6],
    "written into integers": written,
    "bounded, then another": lambda y: y[torch.clamp(torch.floor(y[:, 0]), 0, 5).long()] * (1 + abs(int(y.sum()))),
    "resized": lambda y: y.new_zeros(2 + abs(int(y[0, 0])) % 2, 4) + y[:1],
}


def pruned(function):
    torch.manual_seed(3)
    net = pc.randomised(Reading(function).eval())
    choice = pc.partition(pc.trace(net, X)).sample(0.5, seed=0)
    assert choice.removed
    return pc.zero(net, choice), pc.extract(net, choice)


def faulty(subnet, name):
    wrong = copy.deepcopy(subnet)
    with torch.no_grad():
        wrong.get_parameter(name).view(-1)[0] += 0.5
    return wrong


@pytest.mark.parametrize("name", sorted(READS))
def test_a_pruned_model_that_reads_values_is_proved_in_its_own_class(name):
    full, subnet = pruned(READS[name])
    assert pc.kind_of(subnet) == "same class"
    verdict = pc.equivalent(full, subnet, X, rounds=3)
    assert verdict.status is Status.EQUAL, verdict.reason


@pytest.mark.parametrize("name", sorted(READS))
@pytest.mark.parametrize("where", ["first.weight", "first.bias", "second.weight", "second.bias"])
def test_a_fault_before_the_read_is_not_equal(name, where):
    full, subnet = pruned(READS[name])
    for number in range(2):
        verdict = one_round(full, faulty(subnet, where), ((X,), {}), "field", 0, number)
        assert not verdict.equal
        assert verdict.status is Status.DIFFERENT or "the full model's is" in verdict.reason


@pytest.mark.parametrize("name", sorted(READS))
@pytest.mark.parametrize("where", ["last.weight", "last.bias"])
def test_a_fault_after_the_read_is_different(name, where):
    full, subnet = pruned(READS[name])
    verdict = pc.equivalent(full, faulty(subnet, where), X)
    assert verdict.status is Status.DIFFERENT
    assert verdict.reason.startswith("output 0")


def pair(right, wrong):
    torch.manual_seed(3)
    full = Reading(right).eval()
    other = copy.deepcopy(full)
    other.function = wrong
    return full, other


@pytest.mark.parametrize(
    ("right", "wrong", "reason"),
    [
        (
            lambda y: y * int(8 * y.sum()),
            lambda y: y * int(8 * y.sum() + 1e-9),
            "read 1 of a computed value, aten._local_scalar_dense of shape (), differs in 1 of 1 elements",
        ),
        (
            lambda y: y * int(y[0].sum()) * int(y[1].sum()),
            lambda y: y * int(y[1].sum()) * int(y[0].sum()),
            "read 1 of a computed value, aten._local_scalar_dense of shape (), differs in 1 of 1 elements",
        ),
        (
            lambda y: y * (int(y[0].sum()) > -99) * (int(y[1].sum()) > -99),
            lambda y: y * (int(y[0].sum()) > -99),
            "code reads 1 computed values, the full model's 2",
        ),
        (
            lambda y: y * (int(y[0].sum()) > -99),
            lambda y: y * (int(y[0].sum()) > -99) * (int(y[1].sum()) > -99),
            "code reads a computed value more often than the full model's: aten._local_scalar_dense of shape ()",
        ),
        (
            lambda y: y[y[:, 0].long() % 6],
            lambda y: y[y[:, 0].int() % 6],
            "read 1 of a computed value is aten._to_copy to torch.int32 of shape (6,), the full model's is aten._to_copy to torch.int64 of shape (6,)",
        ),
        (
            lambda y: y[y[:, 0].long() % 6],
            lambda y: y[y[:, 1].long() % 6],
            "read 1 of a computed value, aten._to_copy to torch.int64 of shape (6,), differs in 6 of 6 elements",
        ),
    ],
)
def test_another_read_is_different(right, wrong, reason):
    verdict = pc.equivalent(*pair(right, wrong), X)
    assert verdict.status is Status.DIFFERENT
    assert verdict.reason == reason


def test_also_when_the_model_catches_the_difference():
    def sly(y):
        try:
            return y * (int(y.sum() + 1) > -99)
        except Exception:  # noqa: BLE001 - what such a model does
            return y

    verdict = pc.equivalent(*pair(lambda y: y * (int(y.sum()) > -99), sly), X)
    assert verdict.status is Status.DIFFERENT
    assert verdict.reason.startswith("read 1")


def test_whole_tensors_of_other_shapes_cannot_be_decided():
    verdict = pc.equivalent(*pair(lambda y: y * y.long().sum(), lambda y: y * y[:5].long().sum()), X)
    assert verdict.status is Status.UNSUPPORTED
    assert "of shape (5, 4), the full model's is" in verdict.reason


def test_code_that_does_not_run_on_an_order_and_numbers_of_two_kinds_is_unsupported():
    """Residues order the rows as floats do not, so that a number fits no more."""

    def crashing(y):
        above = y[y[:, 0] > y[:, 1]]
        if len(above) == LENGTH[0]:  # as in float64
            return above * int(y.sum())
        raise IndexError("another row" + str(int(y.sum())))

    full = Reading(crashing).eval()
    inner = full.second(torch.relu(full.first(X)))
    LENGTH[0] = int((inner[:, 0] > inner[:, 1]).sum())
    statuses = set()
    for number in range(8):
        verdict = one_round(full, copy.deepcopy(full), ((X,), {}), "field", 0, number)
        statuses.add(verdict.status)
        if verdict.status is not Status.EQUAL:
            assert verdict.status is Status.UNSUPPORTED
            assert "in float64" in verdict.reason
    assert Status.UNSUPPORTED in statuses


LENGTH = [0]


def test_a_read_that_float64_does_not_reach_is_unsupported():
    """It branches by the size of a number, and the size is not what residues have."""

    def shy(y):
        return y if y.sum() < 1e6 and y.sum() > -1e6 and y.abs().max() < 1e4 else y * int(y.sum())

    full = Reading(shy).eval()
    verdict = pc.equivalent(full, copy.deepcopy(full), X)
    assert verdict.status is Status.UNSUPPORTED
    assert "which it does not in float64" in verdict.reason
    assert "test_field_reads.py" in verdict.reason


def test_a_model_that_float64_stops_is_unsupported():
    def narrow(y):
        if y.dtype == torch.float64:
            raise TypeError("no double")
        return y * int(y.sum())

    full = Reading(narrow).eval()
    verdict = pc.equivalent(full, copy.deepcopy(full), X)
    assert verdict.status is Status.UNSUPPORTED
    assert verdict.reason == "the model: code reads computed values, and in float64 it raised TypeError: no double"


def test_models_that_read_nothing_run_no_float64(monkeypatch):
    monkeypatch.setattr("conformance.equivalence.compare.evaluate_wide", None)
    full = Reading(lambda y: y).eval()
    assert pc.equivalent(full, copy.deepcopy(full), X).equal


# -- what the tape knows of reads -------------------------------------------------------------------------


@pytest.mark.parametrize("function", [lambda y: y * float(y.sum()), lambda y: y * y.sum(1).long().tolist()[0]])
def test_a_tape_knows_from_where_on_numbers_follow_from_weights(function):
    graph = trace(Reading(function).eval(), X)
    before = graph.nodes[graph.first_by_values - 1]
    assert before.name.split(".")[1] in ("sum", "_to_copy")
    assert graph.first_by_values < len(graph.nodes)


def test_reading_an_input_says_nothing_about_weights():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids):
            return self.table(ids)[:, : int(ids.max())]

    graph = trace(Counting().eval(), torch.tensor([[1, 2, 3], [3, 2, 1]]))
    assert graph.reads
    assert graph.first_by_values == len(graph.nodes)
