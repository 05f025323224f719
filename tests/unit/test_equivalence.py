"""The three oracles as a caller sees them: verdicts, refusals, and that nothing is changed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.equivalence.bound import FLOOR
from conformance.equivalence.compare import ORACLES
from conformance.equivalence.verdict import Status, Verdict
from conformance.errors import UsageError

ALL = tuple(ORACLES)
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolution, norm, activation, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(torch.nn.functional.gelu(self.bn(self.conv(x))).mean((2, 3)))


class Wrapped(nn.Module):
    """A net and a function of its output."""

    def __init__(self, function, net=None):
        super().__init__()
        self.net = net or net_of()
        self.function = function

    def forward(self, x):
        return self.function(self.net(x))


def net_of(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return pc.randomised(Net().eval(), seed)


class TestVerdicts:
    @pytest.mark.parametrize("oracle", ALL)
    def test_a_copy_is_equal(self, oracle):
        verdict = pc.equivalent(net_of(), net_of(), (X,), oracle=oracle)
        assert verdict
        assert verdict.status is Status.EQUAL
        assert verdict.oracle == oracle
        assert verdict.compared == 8
        assert verdict.reason == ""

    @pytest.mark.parametrize("oracle", ALL)
    def test_other_weights_are_different(self, oracle):
        verdict = pc.equivalent(net_of(0), net_of(1), (X,), oracle=oracle)
        assert not verdict
        assert verdict.status is Status.DIFFERENT
        assert "output 0 of shape (2, 4) differs in 8 of 8 elements" in verdict.reason

    @pytest.mark.parametrize("oracle", ALL)
    def test_another_number_of_outputs_is_different(self, oracle):
        two = Wrapped(lambda y: (y, y))
        for full, subnet in ((net_of(), two), (two, net_of())):
            verdict = pc.equivalent(full, subnet, (X,), oracle=oracle)
            assert verdict.status is Status.DIFFERENT
            assert "outputs against" in verdict.reason

    @pytest.mark.parametrize("oracle", ALL)
    def test_another_shape_is_different(self, oracle):
        verdict = pc.equivalent(net_of(), Wrapped(lambda y: y[:, :3]), (X,), oracle=oracle)
        assert verdict.status is Status.DIFFERENT
        assert "has shape (2, 4) against (2, 3)" in verdict.reason

    @pytest.mark.parametrize("oracle", ALL)
    def test_a_subnet_that_does_not_run_is_different(self, oracle):
        def broken(y):
            raise ValueError("sizes do not fit\nsecond line")

        verdict = pc.equivalent(net_of(), Wrapped(broken), (X,), oracle=oracle)
        assert verdict.status is Status.DIFFERENT
        assert verdict.reason == "raised ValueError: sizes do not fit"

    def test_a_model_that_does_not_run_in_float64_is_no_difference(self):
        def single(y):
            if y.dtype == torch.float64:
                raise TypeError("single precision only")
            return y

        assert pc.equivalent(Wrapped(single), net_of(), (X,), oracle="float64").status is Status.DIFFERENT
        verdict = pc.equivalent(Wrapped(single), Wrapped(single), (X,), oracle="float64")
        assert verdict.status is Status.UNSUPPORTED
        assert verdict.reason == ("the model does not run in float64: it raised TypeError: single precision only")

    def test_the_least_float64_fills_a_tensor_of_no_given_type(self):
        masked = Wrapped(lambda y: torch.maximum(y, torch.full((), torch.finfo(y.dtype).min)))
        assert pc.equivalent(masked, masked, (X,), oracle="float64").equal

    @pytest.mark.parametrize("oracle", ALL)
    def test_outputs_without_elements_are_not_equal(self, oracle):
        empty = Wrapped(lambda y: y[:0])
        assert not pc.equivalent(empty, empty, (X,), oracle=oracle)
        words = Wrapped(lambda y: "a word")
        assert not pc.equivalent(words, words, (X,), oracle=oracle)

    def test_one_nan_is_different(self):
        for name in ("conv.weight", "bn.bias", "bn.running_mean", "fc.bias"):
            bad = net_of()
            bad.state_dict()[name].view(-1)[1] = math.nan
            for oracle in ALL:
                assert pc.equivalent(net_of(), bad, (X,), oracle=oracle).status is Status.DIFFERENT, (name, oracle)

    def test_one_ulp_is_different_by_the_field_only(self):
        bad = net_of()
        weight = bad.conv.weight.data
        weight[3, 1, 0, 0] = torch.nextafter(weight[3, 1, 0, 0], torch.tensor(math.inf))
        assert pc.equivalent(net_of(), bad, (X,)).status is Status.DIFFERENT
        assert pc.equivalent(net_of(), bad, (X,), oracle="native").equal

    def test_a_verdict_is_true_only_when_equal(self):
        assert bool(Verdict(Status.EQUAL, "field"))
        assert not Verdict(Status.DIFFERENT, "field")
        assert not Verdict(Status.UNSUPPORTED, "field")


class TestUsage:
    def test_unknown_oracle(self):
        with pytest.raises(UsageError, match="unknown oracle 'magic'; there are field, float64, native"):
            pc.equivalent(net_of(), net_of(), (X,), oracle="magic")

    def test_one_tensor_is_one_argument(self):
        assert pc.equivalent(net_of(), net_of(), X)

    def test_keyword_arguments(self):
        assert pc.equivalent(net_of(), net_of(), kwargs={"x": X})

    def test_assert_equivalent(self):
        pc.assert_equivalent(net_of(), net_of(), (X,))
        with pytest.raises(AssertionError, match="different by the field oracle: output 0"):
            pc.assert_equivalent(net_of(0), net_of(1), (X,))
        odd = Wrapped(lambda y: torch.cumprod(y, 0))
        with pytest.raises(AssertionError, match=r"unsupported by the field oracle: aten\.cumprod"):
            pc.assert_equivalent(odd, odd, (X,))


class TestRefusals:
    """What the exact oracle cannot decide is never `equal`."""

    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (lambda y: torch.cumprod(y, 1), "aten.cumprod"),
            (torch.lgamma, "aten.lgamma"),
            (lambda y: torch.fft.fft(y).exp().real, "aten.exp: no exact rule for complex numbers"),
            (lambda y: torch.view_as_complex(y.view(2, 2, 2)).angle(), "aten.angle"),
        ],
    )
    def test_unknown_operations(self, function, name):
        odd = Wrapped(function)
        verdict = pc.equivalent(odd, copy.deepcopy(odd), (X,))
        assert verdict.status is Status.UNSUPPORTED
        assert name in verdict.reason

    def test_also_when_the_model_catches_the_refusal(self):
        def sly(y):
            try:
                return torch.cumprod(y, 1)
            except Exception:  # noqa: BLE001 - what such a model does
                return y * 0

        odd = Wrapped(sly)
        verdict = pc.equivalent(odd, copy.deepcopy(odd), (X,))
        assert verdict.status is Status.UNSUPPORTED
        assert "aten.cumprod" in verdict.reason

    def test_a_model_without_contractions_exercises_nothing(self):
        flat = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.LayerNorm(108))
        verdict = pc.equivalent(flat, copy.deepcopy(flat), (X,))
        assert verdict.status is Status.UNSUPPORTED
        assert "nothing was exercised" in verdict.reason

    def test_under_inference_mode(self):
        with torch.inference_mode():
            verdict = pc.equivalent(net_of(), net_of(), (X,))
        assert verdict.status is Status.UNSUPPORTED

    def test_a_forward_under_inference_mode(self):
        class Inferring(Net):
            @torch.inference_mode()
            def forward(self, x):
                return super().forward(x)

        one = Inferring().eval()
        assert pc.equivalent(one, copy.deepcopy(one), (X,)).status is Status.UNSUPPORTED

    def test_linear_layers_under_inference_mode_are_seen_all_the_same(self):
        """A whole linear layer has a rule: the verdict is right in both directions."""
        x = torch.randn(2, 5)
        one = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        other = copy.deepcopy(one)
        other[0].bias.data[1] += 1e-6
        with torch.inference_mode():
            same, different = (pc.equivalent(one, net, (x,)) for net in (copy.deepcopy(one), other))
        assert same.equal
        assert same.contractions == 2
        assert different.status is Status.DIFFERENT

    def test_complex_parameters(self):
        class Spun(Net):
            def __init__(self):
                super().__init__()
                self.phase = nn.Parameter(torch.tensor([1 + 2j, 3j, 0.5, 7]))

            def forward(self, x):
                return torch.view_as_real(super().forward(x) * self.phase)

        one = Spun()
        other = copy.deepcopy(one)
        assert pc.equivalent(one, other, (X,)).equal
        with torch.no_grad():
            other.phase[1] += 1e-5j
        assert pc.equivalent(one, other, (X,)).status is Status.DIFFERENT
        with torch.no_grad():
            other.phase[1] = float("nan")
        assert pc.equivalent(one, other, (X,)).reason == "phase holds NaN or infinity, which has no residue"

    def test_integer_parameters_stay_indices(self):
        class Chosen(Net):
            def __init__(self, order):
                super().__init__()
                self.order = nn.Parameter(torch.tensor(order), requires_grad=False)
                self.load_state_dict(net_of().state_dict(), strict=False)

            def forward(self, x):
                return super().forward(x)[:, self.order]

        assert pc.equivalent(Chosen([3, 0, 1]), Chosen([3, 0, 1]), (X,)).equal
        assert pc.equivalent(Chosen([3, 0, 1]), Chosen([0, 3, 1]), (X,)).status is Status.DIFFERENT


class TestNothingRemembered:
    """A model changed between two calls is judged as it is now, whichever way it was changed."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda net: net.conv.weight.data.add_(1e-2),
            lambda net: net.fc.bias.detach().numpy().__setitem__(1, 7.0),
            lambda net: setattr(net.bn, "eps", 0.1),
            lambda net: setattr(net.conv, "padding", (1, 1)),
            lambda net: net.bn.running_var.mul_(2),
            lambda net: setattr(net.fc, "bias", None),
            lambda net: setattr(net, "forward", lambda x: net.fc(net.bn(net.conv(x)).mean((2, 3)))),
        ],
    )
    @pytest.mark.parametrize("oracle", ALL)
    def test_a_change_after_an_equal_verdict_is_seen(self, change, oracle):
        full, subnet = net_of(), net_of()
        assert pc.equivalent(full, subnet, (X,), oracle=oracle)
        with torch.no_grad():
            change(subnet)
        assert pc.equivalent(full, subnet, (X,), oracle=oracle).status is Status.DIFFERENT
        assert pc.equivalent(subnet, full, (X,), oracle=oracle).status is Status.DIFFERENT

    def test_a_model_that_writes_to_its_own_parameters(self):
        class Drifting(Net):
            def forward(self, x):
                y = super().forward(x)
                self.fc.bias.data.add_(1)
                return y

        net = Drifting().eval()
        net.load_state_dict(net_of().state_dict())
        assert all(pc.equivalent(net_of(), net, (X,)).equal for _ in range(3))


class TestNothingChanged:
    @pytest.mark.parametrize("oracle", ALL)
    def test_neither_models_inputs_nor_random_state(self, oracle):
        full, subnet, x = net_of(), net_of(1).train(), X.clone()
        before = [{name: t.clone() for name, t in net.state_dict().items()} for net in (full, subnet)]
        random = torch.random.get_rng_state()
        pc.equivalent(full, subnet, (x,), oracle=oracle)
        assert torch.equal(random, torch.random.get_rng_state())
        assert torch.equal(x, X)
        for net, held in zip((full, subnet), before, strict=True):
            assert all(torch.equal(held[name], t) for name, t in net.state_dict().items())
            assert all(parameter.requires_grad and not hasattr(parameter, "_residue") for parameter in net.parameters())
        assert subnet.training
        assert not full.training

    def test_training_mode_does_not_matter(self):
        assert pc.equivalent(net_of().train(), net_of().eval(), (X,)).equal

    def test_an_input_the_model_writes_to(self):
        hungry = Wrapped(lambda y: y)
        hungry.forward = lambda x: hungry.net(x.mul_(2))
        assert pc.equivalent(hungry, hungry, (X,), oracle="native").equal


class TestRounds:
    def test_later_rounds_use_the_second_prime(self, monkeypatch):
        from conformance.equivalence import compare

        seen = []
        original = compare.ORACLES["field"]

        def spy(*given):
            seen.append(original(*given))
            return seen[-1]

        monkeypatch.setitem(compare.ORACLES, "field", spy)
        assert pc.equivalent(net_of(), net_of(), (X,), rounds=3)
        assert [verdict.details["prime"] for verdict in seen] == [2**19 - 1, 2**19 - 19, 2**19 - 1]

    def test_a_difference_one_prime_cannot_see_is_seen_by_the_other(self):
        """2**19 - 1 is zero modulo itself: the one blind spot of an embedding, and why there are two."""
        bad = net_of()
        bad.fc.bias.data[0] = bad.fc.bias.data[0].double() * 0 + 0.5
        good = copy.deepcopy(bad)
        bad.fc.bias.data[0] += float(2**19 - 1)
        assert pc.equivalent(good, bad, (X,), rounds=1).equal
        assert pc.equivalent(good, bad, (X,), rounds=2).status is Status.DIFFERENT

    def test_seeds_draw_other_inputs_and_functions(self):
        first, second = (pc.equivalent(net_of(0), net_of(1), (X,), seed=seed) for seed in (0, 1))
        assert first.status is second.status is Status.DIFFERENT


class TestFloat64:
    def test_another_order_of_sums_is_within_the_bound(self):
        torch.manual_seed(0)
        full = nn.Sequential(nn.Linear(2000, 300), nn.GELU(), nn.Linear(300, 300), nn.GELU(), nn.Linear(300, 5))
        order = torch.randperm(300)
        other = copy.deepcopy(full)
        for layer, values in ((other[0], full[0]), (other[2], full[2])):
            layer.weight.data[:] = values.weight.data
        other[0].weight.data, other[0].bias.data = full[0].weight.data[order], full[0].bias.data[order]
        other[2].weight.data = full[2].weight.data[:, order]
        verdict = pc.equivalent(full, other, (torch.randn(3, 2000),), oracle="float64")
        assert verdict.equal
        assert verdict.max_abs is not None
        assert FLOOR <= verdict.details["relative_bound"] < 1e-8

    @pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9])
    def test_small_differences_are_seen(self, step):
        full = net_of().double()
        other = copy.deepcopy(full)
        other.conv.weight.data[2, 1, 1, 1] += step
        assert pc.equivalent(full, other, (X,), oracle="float64").status is Status.DIFFERENT

    def test_infinities_must_stand_in_the_same_places(self):
        plus = Wrapped(lambda y: torch.cat([y, torch.full_like(y, math.inf)]))
        minus = Wrapped(lambda y: torch.cat([y, torch.full_like(y, -math.inf)]))
        assert pc.equivalent(plus, copy.deepcopy(plus), (X,), oracle="float64")
        assert not pc.equivalent(plus, minus, (X,), oracle="float64")

    def test_code_that_casts_down_is_kept_wide(self):
        narrow = Wrapped(lambda y: (y.float() + torch.ones(4, dtype=torch.float32)).to(torch.float32))
        assert pc.equivalent(narrow, copy.deepcopy(narrow), (X,), oracle="float64").equal

    def test_integer_outputs_are_compared_exactly(self):
        ranks = Wrapped(lambda y: y.argmax(1))
        other = Wrapped(lambda y: 3 - y.argmax(1))
        for oracle in ALL:
            assert pc.equivalent(ranks, copy.deepcopy(ranks), (X,), oracle=oracle).equal
            assert not pc.equivalent(ranks, other, (X,), oracle=oracle)


class TestNative:
    def test_reports_the_distance(self):
        bad = net_of()
        bad.fc.bias.data[0] += 1e-7
        verdict = pc.equivalent(net_of(), bad, (X,), oracle="native")
        assert verdict.equal
        assert 0 < verdict.max_abs < 1e-6
        assert verdict.details["bitwise"] is False
        assert verdict.details["ulp"] >= 1
        assert pc.equivalent(net_of(), net_of(), (X,), oracle="native").details == {"bitwise": True, "ulp": 0.0}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_in_other_types(self, dtype):
        full = net_of().to(dtype)
        for oracle in ("native", "field"):
            assert pc.equivalent(full, copy.deepcopy(full), (X.to(dtype),), oracle=oracle).equal
        other = copy.deepcopy(full)
        other.fc.weight.data[0, 0] += 0.5
        for oracle in ("native", "field"):
            assert not pc.equivalent(full, other, (X.to(dtype),), oracle=oracle)


class TestSubnets:
    @pytest.mark.parametrize("oracle", ALL)
    def test_a_subnet_equals_the_zeroed_model_and_not_the_full_one(self, oracle):
        net = net_of()
        choice = pc.partition(pc.trace(net, (X,))).sample(0.5, seed=1)
        full, subnet = pc.zero(net, choice), pc.extract(net, choice)
        assert choice.removed
        assert pc.equivalent(full, subnet, (X,), oracle=oracle).equal
        assert not pc.equivalent(net, subnet, (X,), oracle=oracle)


class TestWhatDoesNotRun:
    """Vectors of one entry for many, and sizes left as they were: equal values hide what a kernel refuses."""

    NETS = {
        "conv": lambda: nn.Conv2d(3, 8, 3),
        "transposed-conv": lambda: nn.ConvTranspose2d(3, 8, 3, groups=1),
        "batch-norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
        "group-norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)),
        "instance-norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)),
        "layer-norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm((4, 4))),
        "rms-norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.RMSNorm(4)),
    }

    @pytest.mark.parametrize("oracle", ALL)
    @pytest.mark.parametrize("name", NETS)
    def test_one_entry_in_place_of_many_equal_ones(self, name, oracle):
        net = self.NETS[name]().eval()
        *_, (path, last) = [part for part in net.named_modules() if not list(part[1].children())]
        vectors = [leaf for leaf in ("weight", "bias") if getattr(last, leaf, None) is not None]
        for leaf in vectors[-1:] if "conv" in name else vectors:
            getattr(last, leaf).data.fill_(0.5)
            short = copy.deepcopy(net)
            setattr(short.get_submodule(path), leaf, nn.Parameter(torch.full((1,), 0.5)))
            assert not pc.equivalent(net, short, (X,), oracle=oracle), leaf

    @pytest.mark.parametrize("oracle", ALL)
    @pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
    def test_a_norm_that_still_has_the_old_size(self, norm, oracle):
        net = nn.Sequential(nn.Conv2d(3, 8, 3), norm(4, elementwise_affine=False)).eval()
        stale = copy.deepcopy(net)
        stale[1].normalized_shape = (6,)
        verdict = pc.equivalent(net, stale, (X,), oracle=oracle)
        assert verdict.status is Status.DIFFERENT
        assert "raised" in verdict.reason
