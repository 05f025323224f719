"""Models too large to be compared: the structure alone, without weights, and never a pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.backend import Backend
from conformance.checks import structure
from conformance.checks.structure import structure_only
from conformance.report.schema import Outcome


def images(batch, generator):
    return (torch.randn(batch, 3, 8, 8, generator=generator),), {}


def net():
    return nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 5, 1))


def found(build, limit):
    return structure_only(Backend("test:net", build, images), limit)


def test_a_large_model_has_its_groups_found_and_is_not_a_pass():
    report = found(net, 0.001)
    assert report.outcome is Outcome.UNSUPPORTED
    assert report.reason == "structure only: exactness is compared up to 0.001 M parameters"
    assert report.trace_device == "meta"
    assert report.level == 1
    assert report.kinds == {"channel": 40}
    assert report.parameters == sum(p.numel() for p in net().parameters())
    whole = pc.check_model(net(), torch.randn(2, 3, 8, 8), level=1)
    assert report.removable_parameters == whole.removable_parameters
    assert report.flops == whole.flops
    assert report.groups == whole.groups


def test_a_smaller_one_is_left_to_the_checks():
    assert found(net, 1) is None


def test_one_that_needs_its_values_to_be_built_is_left_to_the_checks():
    def build():
        made = net()
        made.scale = float(made[0].weight.sum())
        return made

    assert found(build, 0.001) is None


def test_nothing_of_the_random_state_is_used():
    before = torch.random.get_rng_state()
    found(net, 0.001)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("build", "outcome", "words"),
    [
        (lambda: nn.Conv2d(3, 400, 3), Outcome.UNSUPPORTED, "L1.groups: no group was found"),
        (lambda: nn.Sequential(nn.Conv2d(4, 400, 3)), Outcome.FAIL, "L1.groups: "),
    ],
)
def test_a_structure_that_is_wrong_says_so(build, outcome, words):
    report = found(build, 0.001)
    assert report.outcome is outcome
    assert report.reason.startswith(words)


def test_its_checks_are_registered():
    assert set(structure.CHECKS) <= {item.id for item in structure.checks()}
