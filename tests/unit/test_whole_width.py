"""Norms and averages of a subnet count the positions of the full model."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import conformance as pc
from conformance.subnet import whole_width
from conformance.subnet.norm_module import WholeWidth

aten = torch.ops.aten


@st.composite
def widths(draw):
    """(kept positions, original width)."""
    whole = draw(st.integers(2, 40))
    kept = draw(st.sets(st.integers(0, whole - 1), min_size=1, max_size=whole))
    return sorted(kept), whole


def spread(x: torch.Tensor, kept: list[int], whole: int) -> torch.Tensor:
    """x at the kept positions of the last dimension, zero at the others."""
    full = x.new_zeros(*x.shape[:-1], whole)
    full[..., kept] = x
    return full


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@given(size=widths(), seed=st.integers(0, 99), affine=st.sampled_from(("", "w", "wb")))
def test_norms_are_those_of_the_full_width(size, seed, affine):
    kept, whole = size
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, len(kept), generator=generator, dtype=torch.float64) + 2
    weight, bias = (
        torch.randn(len(kept), generator=generator, dtype=torch.float64) if part in affine else None for part in "wb"
    )
    wide_weight, wide_bias = (None if t is None else spread(t, kept, whole) for t in (weight, bias))
    full = spread(x, kept, whole)
    expected = aten.native_layer_norm.default(full, [whole], wide_weight, wide_bias, 1e-5)
    made = whole_width.layer_norm(x, [whole], weight, bias, 1e-5)
    close(made[0], expected[0][..., kept])
    close(made[1:], expected[1:])
    expected = aten.rms_norm.default(full, [whole], wide_weight, 1e-6)
    close(whole_width.rms_norm(x, [whole], weight, 1e-6), expected[..., kept])
    close(whole_width.mean(x, [1], False, None, whole), full.mean(1))
    given_ = aten.var_mean.correction, x, [1], [whole], {"correction": 1, "keepdim": True}
    close(whole_width.moments(*given_), torch.var_mean(full, 1, keepdim=True))
    maps, wide = x[None].mT.contiguous(), full[None].mT.contiguous()  # (1, channels, 3)
    expected = aten.native_group_norm.default(wide, wide_weight, wide_bias, 1, whole, 3, 1, 1e-5)
    close(whole_width.group_norm(maps, weight, bias, 1, whole, 1e-5)[0], expected[0][:, kept])
    maps, wide = maps.repeat(1, 2, 1), wide.repeat(1, 2, 1)  # two norm groups, each of them cut alike
    maps[:, len(kept) :] += 1
    wide[:, [whole + position for position in kept]] += 1
    made = whole_width.group_norm(maps, None, None, 2, whole, 1e-5)
    expected = aten.native_group_norm.default(wide, None, None, 1, 2 * whole, 3, 2, 1e-5)
    close(made[0], expected[0][:, [*kept, *(whole + position for position in kept)]])
    close(made[1:], expected[1:])


def test_a_short_dtype_is_summed_in_a_long_one():
    x = torch.full((1, 4000), 60.0, dtype=torch.float16)  # their sum is no float16
    assert whole_width.mean(x, [1], False, None, 8000).item() == 30
    assert whole_width.mean(x, [1], False, None, 8000).dtype == torch.float16


class Rms(nn.Module):
    """Written in Python, as most are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden):
        return self.weight * (hidden * torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + 1e-6))


class Channels(nn.LayerNorm):
    """Over the channels of an image."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stream(nn.Module):
    """A residual stream; `norm` is called twice in a row, `last` once."""

    def __init__(self, norm=nn.LayerNorm, width: int = 9) -> None:
        super().__init__()
        self.into, self.norm, self.last = nn.Linear(4, width), norm(width), norm(width)
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        a, b = self.into(x), self.left(self.into(x))
        a, b = self.norm(a), self.norm(b)
        return self.head(self.last(a + self.right(torch.relu(b))))


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))


def halved(net: nn.Module, x: torch.Tensor = X):
    """(model, groups, half of it, the subnet)."""
    net = pc.randomised(net.eval())
    groups = pc.partition(pc.trace(net, x))
    choice = groups.sample(0.5, seed=0)
    return net, groups, choice, pc.extract(net, choice)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, Rms])
def test_the_width_of_a_residual_stream_is_removable(norm):
    net, groups, choice, subnet = halved(Stream(norm))
    assert groups.count == 9
    assert pc.kind_of(subnet) == "same class"
    assert isinstance(subnet.norm, WholeWidth)
    assert f"in place of {norm.__name__}" in repr(subnet)
    assert set(subnet.state_dict()) == set(net.state_dict())
    assert subnet.head.in_features == 9 - len(choice)
    for oracle in ("field", "float64"):
        pc.assert_equivalent(pc.zero(net, choice), subnet, X, oracle=oracle)
        other = torch.randn(7, 3, 4)  # neither the traced batch nor the traced length
        pc.assert_equivalent(pc.zero(net, choice), subnet, other, oracle=oracle)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, Rms])
def test_a_subnet_is_pruned_again(norm):
    net, groups, choice, subnet = halved(Stream(norm, width=20))
    inner = pc.partition(pc.trace(subnet, X), pruned=choice)
    assert inner.count == 20 - len(choice)
    both = groups.select(sorted({*choice.removed, *[n for n in range(1, 21) if n not in choice.removed][:4]}))
    again = pc.extract(subnet, both.within(inner, choice))
    pc.assert_equivalent(pc.zero(net, both), again, X)
    pc.assert_equivalent(pc.zero(net, both), again, X, oracle="float64")


@pytest.mark.parametrize("oracle", ["float64", "gradient"])
def test_a_subnet_is_compared_with_itself(oracle):
    _, groups, _, subnet = halved(Stream(nn.LayerNorm))
    nothing = groups.select([]) if oracle == "float64" else pc.partition(pc.trace(subnet, X)).select([])
    verdict = pc.equivalent(subnet, copy.deepcopy(subnet), X, oracle=oracle, choice=nothing)
    assert verdict.equal, verdict.reason
    with torch.no_grad():
        other = copy.deepcopy(subnet)
        other.norm.weight[0] += 1
    assert not pc.equivalent(subnet, other, X, oracle=oracle, choice=nothing).equal


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.ConvTranspose2d])
def test_channels_leave_the_groups_of_a_group_norm(conv):
    """The same channels of each group, or whole groups: the subnet is as exact, and keeps its class."""
    net = pc.randomised(nn.Sequential(conv(3, 15, 3), nn.GroupNorm(3, 15), nn.GELU(), nn.Conv2d(15, 2, 1)).eval())
    image = torch.randn(2, 3, 6, 6)
    graph = pc.trace(net, image)
    assert pc.partition(graph).fingerprint == pc.partition(graph, carry="outer").fingerprint
    inner = pc.partition(graph, carry="inner")
    assert inner.count == 5
    choice = inner.sample(0.5, seed=0)
    subnet = pc.extract(net, choice)
    assert pc.kind_of(subnet) == "same class"
    assert subnet[0].out_channels == 3 * (5 - len(choice))
    for oracle in ("field", "float64"):
        pc.assert_equivalent(pc.zero(net, choice), subnet, image, oracle=oracle)
        pc.assert_equivalent(pc.zero(net, choice), subnet, torch.randn(3, 3, 7, 5), oracle=oracle)
    again = pc.partition(pc.trace(subnet, image), pruned=choice)
    assert again.count == 5 - len(choice)
    more = again.select([1])
    pc.assert_equivalent(pc.zero(subnet, more), pc.extract(subnet, more), image)


def test_a_group_norm_of_one_group_is_pruned_again():
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(1, 12), nn.Conv2d(12, 2, 1))
    x = torch.randn(2, 3, 6, 6)
    net, groups, choice, subnet = halved(net, x)
    inner = pc.partition(pc.trace(subnet, x), pruned=choice)
    assert inner.count == 12 - len(choice)
    others = [number for number in range(1, 13) if number not in choice.removed]
    both = groups.select([*choice.removed, *others[1:]])
    again = pc.extract(subnet, both.within(inner, choice))
    pc.assert_equivalent(pc.zero(net, both), again, x)


def test_a_norm_over_channels_of_images():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Channels(8), nn.Conv2d(8, 2, 1))
    x = torch.randn(2, 3, 6, 6)
    net, groups, choice, subnet = halved(net, x)
    assert (groups.count, pc.kind_of(subnet)) == (8, "same class")
    pc.assert_equivalent(pc.zero(net, choice), subnet, torch.randn(3, 3, 9, 7))


def test_a_module_that_counts_in_its_own_code_leaves_the_graph():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            y = self.a(x)
            return self.b(y - y.mean(-1, keepdim=True))

    net, groups, choice, subnet = halved(Counting())
    assert (groups.count, pc.kind_of(subnet)) == (6, "graph")
    pc.assert_equivalent(pc.zero(net, choice), subnet, X)


class TestAModuleOfItsOwn:
    @pytest.fixture
    def made(self):
        return halved(Stream(Rms, width=12))

    def test_trains(self, made):
        net, _, choice, subnet = made
        subnet = copy.deepcopy(subnet).train()
        full = pc.zero(net, choice)
        for module in (subnet, full):
            module(X).square().sum().backward()
        kept = choice.kept(choice.groups.graph.names["norm.weight"], 0)
        torch.testing.assert_close(subnet.norm.weight.grad, full.norm.weight.grad[kept])

    def test_saves_and_loads(self, made):
        net, _, choice, subnet = made
        changed = copy.deepcopy(subnet)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(1.5)
        file = io.BytesIO()
        torch.save(changed.state_dict(), file)
        file.seek(0)
        fresh = pc.extract(net, choice)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        pc.assert_equivalent(changed, fresh, X)

    def test_exports(self, made):
        subnet = made[3]
        exported = torch.export.export(subnet, (X,)).module()
        torch.testing.assert_close(exported(X), subnet(X))

    def test_other_widths_are_told_apart(self, made):
        """A norm that counts what is kept is another function."""
        net, _, choice, subnet = made
        wrong = copy.deepcopy(subnet)
        wrong.norm = Rms(12 - len(choice))
        wrong.norm.weight.data = subnet.norm.weight.data.clone()
        assert not pc.equivalent(pc.zero(net, choice), wrong, X)
        assert not pc.equivalent(pc.zero(net, choice), wrong, X, oracle="float64")
