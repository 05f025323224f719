"""Units against plain loops over groups: every figure, every layout, and what is set to zero."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from method_nets import NETS, X, built

import conformance as pc
from conformance.errors import SelectionError
from conformance.method import Slices, Units, units
from conformance.partition.groups import CONSUMERS
from conformance.subnet.zero import zero

PARTS = ("zeroed", "producers", "consumers", "all")


@pytest.fixture(scope="module", params=[*NETS, "sigmoid"])
def model(request) -> torch.nn.Module:
    """`sigmoid` has groups that only their readers can make exact."""
    if request.param == "sigmoid":
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 5, 3), torch.nn.Sigmoid(), torch.nn.Conv2d(5, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
        )  # fmt: skip
    return built(request.param)


@pytest.fixture(scope="module")
def bound(model) -> Units:
    return units(model, pc.partition(pc.trace(model, X)))


def test_the_nets_have_groups_of_both_modes(model, bound):
    assert (CONSUMERS in bound.groups.modes) == isinstance(model, torch.nn.Sequential)


def pieces(bound: Units, group: int, part: str) -> list[tuple[Slices, torch.Tensor]]:
    """The slices of one group in the parameters, member by member, taken from the labels alone."""
    found = []
    by_reader = bound.groups.modes[group] == CONSUMERS
    for item in bound.slices:
        if not item.trained:
            continue
        wanted = {
            "zeroed": item.producer or by_reader,
            "producers": item.producer,
            "consumers": not item.producer,
            "all": True,
        }[part]
        positions = np.flatnonzero(item.groups == group)
        if wanted and positions.size:
            tensor = bound.tensors[item.name].detach()
            found.append((item, tensor.index_select(item.dim, torch.from_numpy(positions))))
    return found


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["sum", "mean", "max", "prod", "first"])
def test_reduce_is_what_a_loop_over_groups_gives(bound, part, how):
    found = bound.reduce(lambda _, tensor: tensor.square(), part, how)
    folded = {"sum": sum, "mean": lambda x: sum(x) / len(x), "max": max, "prod": np.prod, "first": lambda x: x[0]}[how]
    assert found.shape == (bound.count + 1,)
    assert found[0] == 0
    for group in range(1, bound.count + 1):
        each = [float(piece.square().sum()) for _, piece in pieces(bound, group, part)]
        assert float(found[group]) == pytest.approx(folded(each) if each else 0, rel=1e-5)


def test_each_is_applied_to_the_sum_of_every_member(bound):
    found = bound.reduce(lambda _, tensor: tensor, "all", "sum", each=torch.abs)
    for group in range(1, bound.count + 1):
        each = [abs(float(piece.sum())) for _, piece in pieces(bound, group, "all")]
        assert float(found[group]) == pytest.approx(sum(each), rel=1e-4, abs=1e-5)


def test_only_leaves_members_out(bound):
    found = bound.reduce(
        lambda _, tensor: tensor.abs(), "all", "mean", only=lambda item: not item.name.endswith("bias")
    )
    for group in range(1, bound.count + 1):
        each = [
            float(piece.abs().sum()) for item, piece in pieces(bound, group, "all") if not item.name.endswith("bias")
        ]
        assert float(found[group]) == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_norms_and_sizes_are_those_of_all_that_is_zeroed(bound):
    norms, sizes = bound.norms(), bound.sizes
    for group in range(1, bound.count + 1):
        vector = torch.cat([piece.flatten() for _, piece in pieces(bound, group, "zeroed")])
        assert float(norms[group]) == pytest.approx(float(vector.norm()), rel=1e-5)
        assert int(sizes[group]) == vector.numel()


@pytest.mark.parametrize("part", PARTS)
def test_spread_lays_a_figure_over_every_position_of_its_group(bound, part):
    figures = torch.arange(1.0, bound.count + 2)
    laid = {name: torch.zeros_like(tensor) for name, tensor in bound.tensors.items()}
    for name, factor in bound.spread(figures, part):
        laid[name] += factor.expand_as(laid[name]) - figures[0]
    expected = {name: torch.zeros_like(tensor) for name, tensor in bound.tensors.items()}
    for group in range(1, bound.count + 1):
        for item, _ in pieces(bound, group, part):
            positions = torch.from_numpy(np.flatnonzero(item.groups == group))
            expected[item.name].index_add_(
                item.dim,
                positions,
                torch.full_like(
                    expected[item.name].index_select(item.dim, positions), float(figures[group] - figures[0])
                ),
            )
    for name, tensor in laid.items():
        assert torch.equal(tensor, expected[name]), name


def test_figures_a_position_are_reduced_over_members(bound):
    chosen = [item for item in bound.slices if item.trained and not item.producer]
    lines = {(item.name, item.dim): torch.randn(item.groups.size) for item in chosen}
    found = bound.from_lines(lines, "mean")
    for group in range(1, bound.count + 1):
        each = [
            float(lines[item.name, item.dim][torch.from_numpy(item.groups == group)].sum())
            for item in chosen
            if (item.groups == group).any()
        ]
        assert float(found[group]) == pytest.approx(sum(each) / len(each) if each else 0, abs=1e-5)


def test_fill_sets_to_zero_what_zero_does(model, bound):
    choice = bound.groups.sample(0.5, seed=1)
    twin = copy.deepcopy(model)
    own = bound.of(twin)
    rows = own.rows_of(choice.removed)
    assert all(positions.numel() for _, _, positions in rows)
    own.fill_(choice.removed)
    expected = zero(model, choice).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in twin.state_dict().items())
    assert not own.norms()[list(choice.removed)].any()
    for name, dim, positions in rows:
        assert not own.tensors[name].index_select(dim, positions).any()


def test_units_are_refused_for_another_state(model, bound):
    twin = copy.deepcopy(model)
    first = next(name for name, module in twin.named_modules() if isinstance(module, torch.nn.Conv2d))
    module = twin.get_submodule(first)
    module.weight = torch.nn.Parameter(module.weight[1:].detach())
    with pytest.raises(SelectionError, match="the selection was made for"):
        units(twin, bound.groups)
