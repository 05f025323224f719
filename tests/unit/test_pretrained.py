"""Subnets built anew from a config: found where there is one, refused with what the config cannot say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.deploy.fingerprint import named_state
from conformance.deploy.pretrained import _smaller, alike, as_pretrained, uncounted
from conformance.deploy.store import same_bits
from conformance.errors import ConfigError
from conformance.graph.tape import tensors_in


@dataclass
class Sizes:
    """Two hidden layers of one width; how many heads, and how wide; numbers that only look like a width."""

    hidden: int = 12
    layers: int = 2
    heads: int = 4
    head_dim: int | None = 3
    classes: int = 5
    steps: int = 12
    widths: list[int] = field(default_factory=lambda: [12, 7])
    note: str = "12"


class Model(nn.Module):
    """Attention with an explicit head width, then linear layers of the config's sizes."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        if config.hidden < 2:
            raise ValueError("too small")
        self.config = config
        self.heads = config.heads
        width = config.heads * (config.head_dim or 12 // config.heads)
        self.qkv, self.out = nn.Linear(6, 3 * width), nn.Linear(width, 6)
        self.up = nn.ModuleList(nn.Linear(6, config.hidden) for _ in range(config.layers))
        self.down = nn.ModuleList(nn.Linear(config.hidden, 6) for _ in range(config.layers))
        self.first, self.last = nn.Linear(6, config.widths[0]), nn.Linear(config.widths[0], config.widths[1])
        self.head = nn.Linear(config.widths[1], config.classes)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(nn.functional.gelu(up(x)))
        return self.head(self.last(self.first(x).relu()).relu())


X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def made(make=lambda: Model(Sizes())):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pc.randomised(make().eval())


def without(model, *names: tuple[str, int, tuple[int, ...]]):
    """The selection of the groups at these positions of these parameters' dimensions."""
    groups = pc.partition(pc.trace(model, X))
    chosen = [int(groups.dims[groups.graph.names[name]][dim][at]) for name, dim, positions in names for at in positions]
    return groups.select(sorted(set(chosen)))


UP = [(f"up.{n}.weight", 0, (1, 4, 5)) for n in range(2)]
FIRST = ("first.weight", 0, (0, 3))
LAST = ("last.weight", 0, (0, 6))


class TestFound:
    @pytest.mark.parametrize(
        ("gone", "changed"),
        [
            (UP, {"config.hidden": (12, 9)}),
            ([FIRST], {"config.widths[0]": (12, 10)}),
            ([LAST], {"config.widths[1]": (7, 5)}),
            ([*UP, FIRST, LAST], {"config.hidden": (12, 9), "config.widths[0]": (12, 10), "config.widths[1]": (7, 5)}),
        ],
    )
    def test_the_numbers_that_changed_and_no_others(self, gone, changed):
        model = made()
        subnet = pc.extract(model, without(model, *gone))
        found = as_pretrained(model, subnet, X)
        assert found.changed == changed
        assert type(found.module) is Model
        assert found.module.config.steps == 12
        assert model.config == Sizes()
        mine, theirs = named_state(subnet), named_state(found.module)
        assert list(mine) == list(theirs)
        assert all(same_bits(mine[name], theirs[name]) for name in mine)
        assert same_bits(subnet(X), found.module(X))
        assert not found.module.training

    def test_heads_with_an_explicit_width(self):
        """Two heads of three, not four of one and a half, nor three of two: which is told by what is computed."""
        model = made()
        groups = pc.partition(pc.trace(model, X))
        choice = groups.sample(0.5, 0, kinds=("head",))
        assert choice.removed
        subnet = pc.extract(model, choice)
        assert pc.kind_of(subnet) == "same class"
        assert as_pretrained(model, subnet, X).changed == {"config.heads": (4, 2)}

    def test_nothing_is_shared_with_the_subnet(self):
        model = made()
        subnet = pc.extract(model, without(model, FIRST))
        found = as_pretrained(model, subnet, X).module
        with torch.no_grad():
            for tensor in found.parameters():
                tensor.zero_()
        assert all(tensor.any() for tensor in subnet.parameters())

    def test_dtypes_come_along(self):
        model = made()
        subnet = pc.extract(model, without(model, FIRST)).double()
        found = as_pretrained(model, subnet, X.double()).module
        assert {tensor.dtype for tensor in found.parameters()} == {torch.float64}
        assert same_bits(subnet(X.double()), found(X.double()))


class TestWhatANumberMayHaveBecome:
    @pytest.mark.parametrize(
        ("number", "sizes", "found"),
        [
            (12, {12: [9]}, [9]),
            (4, {48: [24]}, [2]),
            (48, {48: [24, 36]}, [24, 36]),
            (4, {48: [30]}, []),
            (5, {48: [24]}, []),
            (1, {48: [24]}, []),
            (0, {48: [24]}, []),
            (-1, {48: [24]}, []),
            (4, {48: [24], 8: [6]}, [2, 3]),
        ],
    )
    def test_is_the_size_or_its_number_of_equal_parts(self, number, sizes, found):
        assert _smaller(number, sizes) == found

    def test_heads_that_show_in_no_shape(self):
        """The width follows the config, the number of heads is the class's own business."""

        class Hidden(Model):
            def __init__(self, config):
                super().__init__(config)
                self.qkv, self.out = nn.Linear(6, 3 * config.steps), nn.Linear(config.steps, 6)

        model = made(lambda: Hidden(Sizes()))
        subnet = pc.extract(model, pc.partition(pc.trace(model, X)).sample(0.5, 0, kinds=("head",)))
        assert as_pretrained(model, subnet, X).changed == {"config.steps": (12, 6), "config.heads": (4, 2)}


class TestUncounted:
    def test_leaves_axes_that_a_norm_counts(self):
        net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
        groups = pc.partition(pc.trace(net, X))
        half = groups.sample(0.5, 0)
        rest = uncounted(half)
        assert set(half.slices()) >= {"0.weight", "2.weight", "4.weight"}
        assert set(rest.slices()) == {"2.weight", "2.bias", "4.weight"}
        assert rest.slices()["2.bias"] == half.slices()["2.bias"]


class TestAlike:
    def test_parts_are_disjoint_and_the_whole(self):
        model = made()
        half = pc.partition(pc.trace(model, X)).sample(0.5, 0)
        parts = alike(half)
        assert {kind for kind, _ in parts} == {"neuron", "head"}
        assert {size for kind, size in parts if kind == "neuron"} == {12, 7}
        assert sorted(number for part in parts.values() for number in part.removed) == list(half.removed)


class TestRefused:
    def refused(self, model, subnet, words):
        with pytest.raises(ConfigError, match=words) as caught:
            as_pretrained(model, subnet, X)
        assert len(str(caught.value).splitlines()) == 1

    def test_layers_of_different_width(self):
        model = made()
        subnet = pc.extract(model, without(model, ("up.0.weight", 0, (1,)), ("up.1.weight", 0, (1, 2))))
        self.refused(model, subnet, r"config.hidden is one number, but up\.\d.weight and up\.\d.weight went from 12 to")

    def test_one_layer_of_two(self):
        model = made()
        subnet = pc.extract(model, without(model, ("up.0.weight", 0, (1, 2, 3))))
        self.refused(model, subnet, "no values tried for config.hidden, .* make (up|down)")

    def test_a_width_the_class_computes(self):
        model = made(lambda: Model(Sizes(head_dim=None)))
        choice = pc.partition(pc.trace(model, X)).sample(0.5, 0, kinds=("head",))
        self.refused(model, pc.extract(model, choice), "no values tried for|traced graph")

    def test_sizes_that_are_no_numbers_of_the_config(self):
        class Fixed(Model):
            def __init__(self, config):
                super().__init__(config)
                self.first, self.last = nn.Linear(6, 11), nn.Linear(11, 7)

        model = made(lambda: Fixed(Sizes()))
        self.refused(
            model,
            pc.extract(model, without(model, FIRST)),
            "no number of the config is a size that changed, or divides one",
        )

    def test_norms_at_the_original_width(self):
        class Normed(Model):
            def __init__(self, config):
                super().__init__(config)
                self.last = nn.Sequential(nn.LayerNorm(config.widths[0]), nn.Linear(*config.widths))

        model = made(lambda: Normed(Sizes()))
        subnet = pc.extract(model, without(model, FIRST))
        self.refused(model, subnet, "no config says that last.0 counts the width before pruning; save_subnet keeps it")

    def test_a_traced_graph(self):
        class Literal(Model):
            def forward(self, x):
                y = self.first(super().forward(x)[..., :1].expand(2, 4, 6)).reshape(8, 12).reshape(2, 4, 12)
                return self.head(self.last(y))

        model = made(lambda: Literal(Sizes()))
        choice = without(model, FIRST)
        subnet = pc.extract(model, choice)
        assert pc.kind_of(subnet) == "graph"
        self.refused(model, subnet, "the subnet is a traced graph, which no config describes")

    def test_another_module(self):
        self.refused(made(), nn.Linear(2, 2), "the subnet has other parameters than the model")

    def test_a_model_without_a_config(self):
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        groups = pc.partition(pc.trace(model, X))
        self.refused(model, pc.extract(model, groups.select([1])), "the model has no config that its class is built")


@pytest.mark.zoo
class TestTransformers:
    def prepared(self, name):
        from conformance.spec_loader import load

        backend = load(f"transformers:{name}")
        args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
        model = made(backend.build)
        return model, pc.partition(pc.trace(model, args, kwargs)), args, kwargs

    @pytest.mark.parametrize(
        ("name", "part", "number"),
        [
            ("bert", ("neuron", 72), "config.intermediate_size"),
            ("llama", ("neuron", 72), "config.intermediate_size"),
            ("llama", ("head", 2), "config.num_key_value_heads"),
        ],
    )
    def test_there_and_back(self, name, part, number, tmp_path: Path):
        model, groups, args, kwargs = self.prepared(name)
        choice = alike(groups.sample(0.5, 0))[part]
        subnet = pc.extract(model, choice)
        found = as_pretrained(model, subnet, args, kwargs)
        assert number in found.changed
        found.module.save_pretrained(tmp_path)
        assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
        again = type(model).from_pretrained(tmp_path, local_files_only=True).eval()
        pc.assert_equivalent(pc.zero(model, choice), again, args, kwargs)
        mine, theirs = (tensors_in(module(*args, **kwargs)) for module in (found.module, again))
        assert all(same_bits(a, b) for a, b in zip(mine, theirs, strict=True))

    def test_bert_has_no_number_for_the_width_of_its_heads(self):
        model, groups, args, kwargs = self.prepared("bert")
        subnet = pc.extract(model, groups.sample(0.5, 0, kinds=("head",)))
        with pytest.raises(ConfigError, match="query"):
            as_pretrained(model, subnet, args, kwargs)

    def test_nor_for_a_norm_at_the_original_width(self):
        model, groups, args, kwargs = self.prepared("llama")
        subnet = pc.extract(model, groups.sample(0.5, 0))
        with pytest.raises(ConfigError, match="counts the width before pruning"):
            as_pretrained(model, subnet, args, kwargs)
