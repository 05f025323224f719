"""The strategies offered to users: every draw is valid, extremes are found, failures shrink to the smallest one."""

from __future__ import annotations

import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import conformance as pc
from backends.handmade import collection
from conformance.strategies import ConvShape, attentions, convolutions, selections, widths

THOROUGH = hypothesis.settings(max_examples=2000, database=None, derandomize=True, deadline=None)


class Residual(nn.Module):
    """Three axes: the residual stream, the inside of the block, and the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 5)
        self.last, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.last(x + self.down(self.up(x).relu())).relu())


GROUPS = pc.partition(pc.trace(Residual(), torch.randn(2, 4)))
AXES = [np.flatnonzero(GROUPS.axis_of == axis) for axis in range(3)]
WIDE = pc.partition(pc.trace(nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2)), torch.randn(2, 3)))


def smallest(condition):
    """The group numbers Hypothesis ends at for selections that fulfil the condition."""
    return hypothesis.find(selections(GROUPS), condition, settings=THOROUGH).removed


def sizes(choice):
    return [int(choice.gone[axis].sum()) for axis in AXES]


def test_the_axes_are_what_these_tests_think():
    assert sorted(axis.size for axis in AXES) == [4, 5, 6]
    assert GROUPS.count == 15


def test_the_smallest_selection_is_empty():
    assert smallest(lambda choice: True) == ()


@pytest.mark.parametrize("number", range(1, 16))
def test_a_failure_of_one_group_shrinks_to_that_group(number):
    assert smallest(lambda choice: choice.gone[number]) == (number,)


def test_a_failure_of_two_groups_shrinks_to_them():
    first, second = AXES[0][1], AXES[2][2]
    assert smallest(lambda choice: choice.gone[first] and choice.gone[second]) == tuple(sorted((first, second)))


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_a_failure_of_many_shrinks_to_as_few(count):
    assert len(smallest(lambda choice: len(choice) >= count)) == count


@pytest.mark.parametrize(
    "condition",
    [
        lambda choice: len(choice) == GROUPS.count - 3,
        lambda choice: len(choice) == 1,
        lambda choice: min(sizes(choice)) == 0 and max(sizes(choice)) >= 3,
        lambda choice: 6 <= len(choice) <= 8,
    ],
    ids=["all that may go", "one group", "a whole axis beside an untouched one", "half"],
)
def test_extremes_come_within_a_few_examples(condition):
    soon = hypothesis.settings(max_examples=100, database=None, derandomize=True, deadline=None)
    hypothesis.find(selections(GROUPS), condition, settings=soon)


def test_any_subset_can_be_drawn():
    """Of four groups in one axis every proper subset comes."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = pc.partition(pc.trace(net, torch.randn(2, 3)))
    seen = set()

    @given(choice=selections(groups))
    @hypothesis.settings(max_examples=1000, database=None, derandomize=True, deadline=None)
    def collect(choice):
        seen.add(choice.removed)

    collect()
    assert len(seen) == 2**4 - 1


@given(choice=selections(WIDE))
def test_axes_wider_than_a_machine_word_are_drawn_whole(choice):
    assert len(choice) < 40
    assert choice.removed == tuple(sorted(set(choice.removed)))
    assert set(choice.removed) <= set(range(1, 41))


def test_late_groups_of_wide_axes_leave_as_early_ones_do():
    counts = np.zeros(41, dtype=int)

    @given(choice=selections(WIDE))
    @hypothesis.settings(THOROUGH, max_examples=400)
    def collect(choice):
        counts[list(choice.removed)] += 1

    collect()
    assert counts[1:].min() > 0.5 * counts[1:].max()


@cache
def groups_of(name):
    backend = collection.get(name)
    return pc.partition(pc.trace(backend.build(), *backend.inputs(2, torch.Generator().manual_seed(0))))


@pytest.mark.parametrize("name", collection.names())
@given(data=st.data())
def test_a_position_stays_in_every_dimension(name, data):
    groups = groups_of(name)
    choice = data.draw(selections(groups))
    for value, dims in groups.dims.items():
        for dim, labels in enumerate(dims):
            assert choice.kept(value, dim).size or not labels.size


def test_a_partition_without_groups_has_the_empty_selection():
    groups = pc.partition(pc.trace(nn.Softmax(1), torch.randn(2, 3)))
    assert groups.count == 0
    assert hypothesis.find(selections(groups), lambda choice: True, settings=THOROUGH).removed == ()


def test_a_failing_example_is_printed_as_the_groups_that_leave():
    @given(choice=selections(GROUPS))
    @THOROUGH
    def never_three(choice):
        assert not choice.gone[3]

    with pytest.raises(AssertionError) as failure:
        never_three()
    printed = "\n".join(failure.value.__notes__)
    assert "choice=Selection(removed=(3,))" in printed


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(data=st.data())
def test_convolutions_run_and_give_the_size_they_say(rank, data):
    inputs, size = data.draw(widths(1, 6)), data.draw(st.integers(1, 6))
    shape = data.draw(convolutions(rank, inputs, size))
    with torch.no_grad():
        made = shape.layer()(torch.randn(1, inputs, *[size] * rank))
    assert made.shape == (1, shape.outputs, *[shape.size(size)] * rank)
    assert shape.inputs == inputs


@pytest.mark.parametrize(
    "condition",
    [
        lambda conv: conv.groups == conv.inputs and conv.outputs > conv.inputs,
        lambda conv: 1 < conv.groups < conv.inputs,
        lambda conv: conv.stride == 2 and conv.dilation == 2 and conv.kernel == 3,
        lambda conv: conv.kernel == 2 and conv.padding == 1,
        lambda conv: not conv.bias,
    ],
    ids=["depthwise", "grouped", "strided and dilated", "even kernel", "no bias"],
)
def test_convolutions_of_every_sort_come(condition):
    hypothesis.find(convolutions(2, 6, 7), condition, settings=THOROUGH)


def test_the_smallest_convolution_is_pointwise():
    found = hypothesis.find(convolutions(2, 6, 7), lambda conv: True, settings=THOROUGH)
    assert found == ConvShape(2, 6, 2, 1, 1, 0, 1, 1, bias=False)


@given(shape=attentions(most_heads=3, largest=4))
def test_attentions_stay_within_their_bounds(shape):
    assert 2 <= shape.heads <= 3
    assert {shape.width, shape.value_width} <= {2, 3, 4}
    assert shape.shared in (1, 2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: widths(0, 3), "widths go from 1 on and upwards, not from 0 to 3"),
        (lambda: widths(4, 3), "widths go from 1 on and upwards, not from 4 to 3"),
        (lambda: convolutions(4, 2, 2).example(), "convolutions have 1 to 3 spatial dimensions, not 4"),
    ],
)
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_wrong_arguments_are_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


# -- profiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "examples", "derandomized"),
    [
        ({}, 5, False),
        ({"CI": "true"}, 20, True),
        ({"CI": "true", "HYPOTHESIS_PROFILE": "nightly"}, 400, False),
        ({"HYPOTHESIS_PROFILE": "ci"}, 20, True),
        ({"CI": "true", "HYPOTHESIS_PROFILE": "dev"}, 5, False),
    ],
)
def test_the_environment_chooses_the_profile(monkeypatch, environment, examples, derandomized):
    for name in ("CI", "HYPOTHESIS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = hypothesis.settings.get_current_profile_name()
    try:
        runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
        chosen = hypothesis.settings.default
    finally:
        hypothesis.settings.load_profile(before)
    assert (chosen.max_examples, chosen.derandomize, chosen.deadline) == (examples, derandomized, None)
    assert chosen.database is None


# -- without hypothesis ----------------------------------------------------------------------------


def interpreter(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_hypothesis_only_this_module_is_missing():
    ended = interpreter("import sys; sys.modules['hypothesis'] = None; import conformance, conformance.strategies")
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: conformance.strategies needs hypothesis, which is not installed: pip install hypothesis"
    )


def test_the_package_does_not_load_hypothesis():
    ended = interpreter("import sys, conformance; print('hypothesis' in sys.modules)")
    assert ended.stdout.strip() == "False"
