"""Choosing groups: what a selection says, how it is drawn, joined and written down, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import conformance as pc
from conformance.errors import SelectionError
from conformance.partition.selection import FORMAT, VERSION

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def net_of(width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 6), nn.Sigmoid(), nn.Linear(6, 2))


def groups_of(net: nn.Module) -> pc.Groups:
    return pc.partition(pc.trace(net, X))


NET = net_of()
GROUPS = groups_of(NET)
"""1 to 4: neurons of the first layer, by producers. 5 to 10: of the second, by consumers."""


def refused(call, *arguments, **named) -> str:
    """The sentence of the SelectionError that the call raises."""
    with pytest.raises(SelectionError) as failure:
        call(*arguments, **named)
    sentence = str(failure.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


# -- what it says ----------------------------------------------------------------------------------


def test_slices_kept_and_shape_agree():
    choice = GROUPS.select([2, 4, 7])
    assert choice.slices() == {
        "0.weight": {0: [1, 3]}, "0.bias": {0: [1, 3]}, "2.weight": {0: [2], 1: [1, 3]}, "2.bias": {0: [2]}, "4.weight": {1: [2]},
    }  # fmt: skip
    names = GROUPS.graph.names
    assert choice.kept(names["0.weight"], 0).tolist() == [0, 2]
    assert choice.kept(names["0.weight"], 1).tolist() == [0, 1, 2]
    assert choice.shape(names["2.weight"]) == (5, 2)
    assert choice.shape(GROUPS.graph.outputs[0]) == (2, 2)
    assert np.flatnonzero(choice.gone).tolist() == [2, 4, 7]
    assert len(choice) == 3
    assert repr(choice) == "Selection(removed=(2, 4, 7))"


def test_numbers_may_come_in_any_order_and_twice():
    assert GROUPS.select([7, 2, 2, 4]).removed == (2, 4, 7)
    assert GROUPS.select(np.array([4, 2])).removed == (2, 4)
    assert GROUPS.select([]).removed == ()
    assert GROUPS.select([]).slices() == {}


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "given"), [([0], "0 to 0"), ([11], "11 to 11"), ([-1, 3], "-1 to 3"), ([2, 99], "2 to 99")]
)
def test_a_group_that_is_not_there(numbers, given):
    assert refused(GROUPS.select, numbers) == f"group numbers go from 1 to 10, got {given}"


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], range(5, 11), range(1, 11)])
def test_emptying_a_dimension(numbers):
    assert refused(GROUPS.select, list(numbers)) == "the selection would remove every position of a dimension"
    assert GROUPS.select(list(numbers)[1:] if len(numbers) < 10 else [1]).removed


def test_emptying_a_part_that_is_cut_out():
    """Half of the first layer's neurons are an operand of their own: one of them must stay as well."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(3, 2)

        def forward(self, x):
            left, right = self.a(x).split([2, 4], 1)
            return self.b.weight.sum() * torch.cat([right.relu(), left.tanh()], 1).sum(1)

    groups = groups_of(Halves())
    assert groups.count == 6
    assert refused(groups.select, [1, 2]) == "the selection would remove every position of a dimension"
    assert groups.select([1, 3, 4, 5]).removed == (1, 3, 4, 5)


def test_joining_selections_of_different_models():
    other = groups_of(net_of(5)).select([1])
    assert refused(GROUPS.select([1]).union, other) == "selections of different models cannot be joined"
    assert refused(GROUPS.select([1]).union_numbers, other) == "selections of different models cannot be joined"
    again = groups_of(net_of()).select([3])
    assert GROUPS.select([1]).union(again).removed == (1, 3)


def test_a_union_that_would_empty_a_dimension():
    first, second = GROUPS.select([1, 2]), GROUPS.select([3, 4])
    assert first.union_numbers(second) == [1, 2, 3, 4]
    assert refused(first.union, second) == "the selection would remove every position of a dimension"


@pytest.mark.parametrize("use", [pc.zero, pc.extract])
def test_using_it_on_another_model(use):
    wide = net_of(5)
    assert refused(use, wide, GROUPS.select([1])) == "0.weight has shape (5, 3), the selection was made for (4, 3)"
    assert refused(use, nn.Sequential(*list(NET)[:3]), GROUPS.select([1])).startswith("4.weight has shape ")


@pytest.mark.parametrize("fraction", [-0.1, 1.01, float("nan")])
def test_a_fraction_outside_its_range(fraction):
    assert refused(GROUPS.sample, fraction) == f"fraction must lie in [0, 1], got {fraction}"


# -- drawing at random -----------------------------------------------------------------------------


def parts(choice: pc.Selection) -> tuple[int, int]:
    return sum(number <= 4 for number in choice.removed), sum(number > 4 for number in choice.removed)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, (0, 0)), (0.5, (2, 3)), (1.0, (3, 5))])
def test_a_fraction_of_every_axis(fraction, expected):
    for seed in range(20):
        assert parts(GROUPS.sample(fraction, seed)) == expected


def test_fractions_of_a_group_are_rounded_at_random_to_either_side():
    counts = [parts(GROUPS.sample(0.375, seed)) for seed in range(300)]
    first, second = np.array(counts).T
    assert set(first) == {1, 2}
    assert set(second) == {2, 3}
    assert abs(first.mean() - 1.5) < 0.15
    assert abs(second.mean() - 2.25) < 0.15


def test_a_sample_depends_on_its_arguments_only():
    np.random.seed(1)  # noqa: NPY002 - what must not matter
    first = GROUPS.sample(0.5, seed=3)
    np.random.seed(2)  # noqa: NPY002
    assert GROUPS.sample(0.5, seed=3).removed == first.removed
    assert groups_of(net_of()).sample(0.5, seed=3).removed == first.removed
    assert len({GROUPS.sample(0.5, seed).removed for seed in range(30)}) > 10


def test_every_group_is_drawn_alike():
    counts = np.zeros(11, dtype=int)
    for seed in range(400):
        counts[list(GROUPS.sample(0.5, seed).removed)] += 1
    assert counts[1:].min() > 150
    assert counts[1:].max() < 250


def test_modes_and_kinds_narrow_the_choice():
    assert parts(GROUPS.sample(1.0, modes=("producers",))) == (3, 0)
    assert parts(GROUPS.sample(1.0, modes=("consumers",))) == (0, 5)
    assert parts(GROUPS.sample(1.0, kinds=("neuron",))) == (3, 5)
    assert parts(GROUPS.sample(1.0, kinds=("head", "channel"))) == (0, 0)


def test_leave_one_gives_back_as_few_as_need_be():
    kept = set()
    for seed in range(30):
        left = GROUPS.leave_one(np.array([1, 2, 3, 4, 6]), np.random.default_rng(seed))
        assert len(left) == 4
        assert 6 in left
        kept |= {1, 2, 3, 4} - set(left.tolist())
    assert kept == {1, 2, 3, 4}
    valid = np.array([1, 2, 6])
    assert GROUPS.leave_one(valid, np.random.default_rng(0)).tolist() == valid.tolist()


# -- as text ---------------------------------------------------------------------------------------


def text_with(**changes) -> str:
    return json.dumps({**json.loads(GROUPS.select([1, 2]).to_json()), **changes})


def test_the_text_holds_names_and_positions_of_the_full_model():
    data = json.loads(GROUPS.select([1, 7]).to_json())
    assert data == {
        "format": FORMAT, "version": VERSION, "fingerprint": GROUPS.fingerprint, "carry": "auto",
        "slices": {"0.weight": {"0": [0]}, "0.bias": {"0": [0]}, "2.weight": {"0": [2], "1": [0]}, "2.bias": {"0": [2]},
                   "4.weight": {"1": [2]}},
    }  # fmt: skip


def test_text_is_read_for_any_model_with_the_same_groups():
    text = GROUPS.select([1, 7]).to_json()
    assert pc.Selection.from_json(text, groups_of(net_of())).removed == (1, 7)


SLICES = GROUPS.select([1, 2]).slices()
WRONG_TEXT = {
    "no JSON": ("{", "not a selection: Invalid JSON"),
    "no object": ("[]", "not a selection: Input should be an object"),
    "another format": (text_with(format="x"), f"not a selection: format: Input should be '{FORMAT}'"),
    "another version": (text_with(version=2), "not a selection: version: Input should be 1"),
    "no slices": ('{"format": "x"}', "not a selection: format: Input should be"),
    "a list of slices": (text_with(slices=[]), "not a selection: slices: Input should be an object"),
    "a dimension in words": (text_with(slices={"0.weight": {"x": [1]}}), "not a selection: slices.0.weight.x"),
    "half a position": (text_with(slices={"0.weight": {"0": [0.5]}}), "not a selection: slices.0.weight.0.0: Input"),
    "a negative position": (text_with(slices={"0.weight": {"0": [-1]}}), "not a selection: slices.0.weight.0.0: Input"),
    "an unknown name": (text_with(slices={"head.weight": {"0": [1]}}), "the model has no parameter or buffer named head.weight"),
    "an unknown dimension": (text_with(slices={"0.weight": {"2": [1]}}), "0.weight has no such positions in dimension 2"),
    "an unknown position": (text_with(slices={"0.weight": {"0": [4]}}), "0.weight has no such positions in dimension 0"),
    "what is held back": (text_with(slices={"0.weight": {"1": [2]}}), "0.weight dimension 1: position 2 is held back"),
    "a part of a group": (text_with(slices={"0.weight": {"0": [1]}}), "the slices are not whole groups of this model"),
    "a slice too many": (
        text_with(slices={**SLICES, "0.bias": {0: [0, 1, 2]}}), "the slices are not whole groups of this model",
    ),
    "everything": (
        text_with(slices={"0.weight": {0: [0, 1, 2, 3]}}), "the selection would remove every position of a dimension",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TEXT)
def test_text_that_does_not_fit(case):
    text, sentence = WRONG_TEXT[case]
    assert refused(pc.Selection.from_json, text, GROUPS).startswith(sentence)


def test_text_of_another_model():
    text = groups_of(net_of(6)).select([6]).to_json()
    assert refused(pc.Selection.from_json, text, GROUPS) == "0.weight has no such positions in dimension 0"


# -- as a choice on a subnet -----------------------------------------------------------------------


def test_within_a_subnet_what_is_gone_drops_out_and_the_rest_is_renumbered():
    first, both = GROUPS.select([2, 5]), GROUPS.select([2, 3, 5, 10])
    inner = pc.partition(pc.trace(pc.extract(NET, first), X), pruned=first)
    rest = both.within(inner, first)
    assert rest.removed == (2, 8)
    assert rest.slices()["0.weight"] == {0: [1]}
    assert first.within(inner, first).removed == ()


def test_within_a_subnet_that_is_not_the_one():
    first = GROUPS.select([2])
    subnet = pc.partition(pc.trace(pc.extract(NET, GROUPS.select([1, 2])), X))
    assert refused(GROUPS.select([3]).within, subnet, first) == "0.weight has 2 positions in dimension 0, not 3"
    stranger = pc.partition(pc.trace(nn.Linear(3, 2), X))
    assert refused(GROUPS.select([3]).within, stranger, first) == "the subnet has no 0.weight"
    untouched = GROUPS.select([])
    fixed = pc.partition(pc.trace(nn.Sequential(NET[0], nn.Softmax(1), *NET[2:]), X))
    assert (
        refused(GROUPS.select([3]).within, fixed, untouched)
        == "the groups of 0.weight differ between the model and its subnet"
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: GROUPS.select([1.5]), "group numbers are whole numbers, not float64"),
        (
            lambda: GROUPS.sample(kinds=("nonsense",)),
            "there are head, head dim, channel, neuron, embedding, parameter, but no 'nonsense'",
        ),
        (lambda: GROUPS.sample(modes=("never",)), "there are producers, consumers, but no 'never'"),
        (lambda: groups_of(torch.nn.Linear(3, 2)).select([1]), "the model has no groups to select"),
    ],
)
def test_choices_that_mean_nothing(call, sentence):
    assert refused(call) == sentence
