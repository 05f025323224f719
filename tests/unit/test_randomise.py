"""Redrawing degenerate state: what changes, what stays, and that faults become visible."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import conformance as pc


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten(), nn.Linear(8, 4), nn.LayerNorm(4)
    )


def test_constant_parameters_and_statistics_become_random():
    made = pc.randomised(model())
    for name, tensor in made.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            assert tensor.unique().numel() == tensor.numel(), name
    assert (made[1].running_var > 0.4).all()
    assert (made[1].weight.abs() > 0.5).all()
    assert (made[1].bias.abs() >= 0.05).all()
    assert (made[2].weight > 0).all()


def test_drawn_weights_are_kept_and_the_original_is_not_changed():
    given = model()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    random = torch.random.get_rng_state()
    made = pc.randomised(given, seed=5)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())
    assert torch.equal(made[0].weight, given[0].weight)
    assert torch.equal(made[0].bias, given[0].bias)
    assert torch.equal(made[1].num_batches_tracked, given[1].num_batches_tracked)


def test_the_seed_decides():
    first, again, other = (pc.randomised(model(), seed=seed)[1].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tied_parameters_stay_tied():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    nn.init.zeros_(net["a"].bias)
    net["b"].bias = net["a"].bias
    made = pc.randomised(net)
    assert made["a"].bias is made["b"].bias
    assert made["a"].bias.unique().numel() == 4


def test_masks_and_tables_are_kept():
    net = model()
    net.register_buffer("mask", torch.zeros(5))
    net.register_buffer("places", torch.zeros(5, dtype=torch.long))
    made = pc.randomised(net)
    assert not made.mask.any()
    assert not made.places.any()


def test_frozen_norms_are_redrawn():
    frozen = nn.Module()
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        frozen.register_buffer(name, torch.full((6,), value))
    made = pc.randomised(frozen)
    assert all(buffer.unique().numel() == 6 for buffer in made.buffers())
    assert (made.running_var > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_kept(dtype):
    made = pc.randomised(model().to(dtype))
    assert {tensor.dtype for tensor in made.parameters()} == {dtype}
    assert made[1].weight.unique().numel() > 1


def test_models_without_data_pass_through():
    with torch.device("meta"):
        net = model()
    assert all(parameter.is_meta for parameter in pc.randomised(net).parameters())


def test_nan_is_not_hidden():
    net = model()
    net[1].bias.data[3] = float("nan")
    assert pc.randomised(net)[1].bias.isnan().sum() == 1


def test_layer_scales_keep_their_size():
    net = nn.Module()
    net.gamma = nn.Parameter(torch.full((64,), 0.1))
    made = pc.randomised(net).gamma
    assert (made > 0.05).all()
    assert (made < 0.15).all()


def test_swapped_norm_channels_show_only_after_it():
    """Why it exists: with default state the channels of a norm are interchangeable."""
    x = torch.randn(2, 3, 8, 8)

    def swapped(net):
        import copy

        other = copy.deepcopy(net)
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(other[1], name)
            tensor.data[[0, 1]] = tensor.data[[1, 0]]
        return other

    plain = nn.Sequential(*list(model())[:3])
    assert pc.equivalent(plain, swapped(plain), (x,)).equal
    lively = pc.randomised(plain)
    assert not pc.equivalent(lively, swapped(lively), (x,))
