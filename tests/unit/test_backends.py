"""The collections: names, near matches, inputs from the generator only, forwards of the small models."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch.utils import _pytree as pytree

from backends import sets
from backends.common import Draw, Drawn
from backends.handmade import collection as handmade
from backends.nets.registry import NETS, net
from backends.transformers_records import ALL
from conformance.backend import Backend, Collection
from conformance.errors import UsageError

LIBRARIES = {
    "handmade": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
}
TINY = sorted(record.name for record in ALL.values() if record.size == "tiny")

torch.set_num_threads(1)


def needs(library: str):
    return [pytest.mark.zoo, pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is missing")]


def load(prefix: str) -> Collection:
    if find_spec(LIBRARIES[prefix]) is None:
        pytest.skip(f"{LIBRARIES[prefix]} is missing")
    if prefix == "handmade":
        return handmade
    return __import__(f"backends.{prefix}_zoo", fromlist=["collection"]).collection


def made(backend: Backend, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return backend.build().eval()


def drawn(backend: Backend, batch: int = 2, seed: int = 0):
    return backend.inputs(batch, torch.Generator().manual_seed(seed))


def tensors(value) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def run(model: torch.nn.Module, inputs) -> list[torch.Tensor]:
    args, kwargs = inputs
    with torch.no_grad():
        return tensors(model(*args, **kwargs))


def check_small(backend: Backend) -> None:
    """Runs at two batch sizes, on inputs and weights that depend on nothing but their seeds."""
    model = made(backend)
    for batch in (2, 3):
        inputs = drawn(backend, batch)
        assert all(tensor.shape[0] == batch for tensor in tensors(inputs))
        outputs = run(model, inputs)
        assert outputs
        assert all(output.isfinite().all() for output in outputs)
    again = made(backend).state_dict()
    state = model.state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert all(value.dtype == torch.float32 for value in state.values() if value.is_floating_point())
    torch.manual_seed(7)
    first = tensors(drawn(backend))
    torch.manual_seed(8)
    assert all(torch.equal(a, b) for a, b in zip(first, tensors(drawn(backend)), strict=True))


def marked(prefix: str):
    return pytest.param(prefix, marks=[] if prefix == "handmade" else pytest.mark.zoo)


@pytest.mark.parametrize("prefix", [marked(prefix) for prefix in LIBRARIES])
def test_collection_keeps_the_protocol(prefix):
    collection = load(prefix)
    names = collection.names()
    assert isinstance(collection, Collection)
    assert collection.prefix == prefix
    assert names == sorted(set(names))
    assert len(names) > 90
    backend = collection.get(names[0])
    assert backend.name == f"{prefix}:{names[0]}"
    assert prefix in backend.tags
    assert backend.source


@pytest.mark.parametrize(
    ("prefix", "wrong", "right"),
    [
        ("handmade", "residul", "handmade:residual"),
        pytest.param("torchvision", "resnet19", "torchvision:resnet18", marks=pytest.mark.zoo),
        pytest.param("timm", "rsnet18", "timm:resnet18", marks=pytest.mark.zoo),
        pytest.param("transformers", "berts", "transformers:bert", marks=pytest.mark.zoo),
    ],
)
def test_unknown_name_offers_near_matches(prefix, wrong, right):
    with pytest.raises(UsageError, match="did you mean") as caught:
        load(prefix).get(wrong)
    assert right in str(caught.value)


@pytest.mark.parametrize("prefix", [marked(prefix) for prefix in LIBRARIES])
def test_import_brings_in_no_other_library(prefix):
    """Names are listed in a process of its own, where the libraries of the others must stay out."""
    load(prefix)
    module = "backends.handmade" if prefix == "handmade" else f"backends.{prefix}_zoo"
    code = (
        f"import sys, json, {module} as m; "
        "imported = [x for x in ('timm', 'torchvision', 'transformers') if x in sys.modules]; "
        "m.collection.names(); "
        "listed = [x for x in ('timm', 'torchvision', 'transformers') if x in sys.modules]; "
        "print(json.dumps([imported, listed]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported, listed = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    # timm itself imports torchvision.
    allowed = {prefix, "torchvision"} if prefix == "timm" else {prefix}
    assert set(listed) <= allowed


@pytest.mark.parametrize("name", handmade.names())
def test_handmade_net_runs(name):
    backend = handmade.get(name)
    check_small(backend)
    assert sum(parameter.numel() for parameter in backend.build().parameters()) < 6000


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("residual", (3, 13, 17)),
        ("conv-1d", (4, 31)),
        ("embedding-pool", (5,)),
        ("shared-module", (3, 9, 21)),
    ],
)
def test_handmade_net_takes_odd_shapes(name, shape):
    backend = handmade.get(name, shape)
    args, _ = drawn(backend, 3)
    assert args[0].shape == (3, *shape)
    assert run(made(backend), drawn(backend))


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 8, 8), (3, 0, 8)])
def test_handmade_net_refuses_other_ranks(shape):
    with pytest.raises(UsageError, match="3 positive sizes"):
        handmade.get("residual", shape)


def test_two_nets_cannot_share_a_name():
    with pytest.raises(ValueError, match="two handmade nets"):
        net("residual", (3, 8, 8))
    assert "residual" in NETS


def test_draws_ignore_the_ambient_device():
    inputs = Drawn((Draw((4,)), Draw((4,), "ids", "token", 7), Draw((4,), "mask", "mask")))
    with torch.device("meta"):
        args, kwargs = inputs(3, torch.Generator(device="cpu").manual_seed(1))
    assert args[0].device.type == "cpu"
    assert set(kwargs["mask"].unique().tolist()) <= {0, 1}
    assert kwargs["mask"][:, 0].eq(1).all()
    assert kwargs["ids"].max() < 7


class TestTransformers:
    pytestmark = needs("transformers")

    @pytest.mark.parametrize("name", TINY)
    def test_record_runs(self, name):
        backend = load("transformers").get(name)
        check_small(backend)
        assert backend.size == "tiny"

    def test_no_cache_among_the_outputs(self):
        backend = load("transformers").get("llama")
        _, kwargs = drawn(backend)
        assert "past_key_values" not in made(backend)(**kwargs)

    def test_underscores_are_hyphens(self):
        assert load("transformers").get("gpt_neox").name == "transformers:gpt-neox"

    def test_image_size_follows_the_input(self):
        backend = load("transformers").get("vit", (3, 40, 40))
        assert made(backend).config.image_size == 40
        assert run(made(backend), drawn(backend))
        both = load("transformers").get("clip", (3, 48, 48))
        assert run(made(both), drawn(both))

    def test_text_length_follows_the_input(self):
        backend = load("transformers").get("bert-masked", (90,))
        _, kwargs = drawn(backend)
        assert {tuple(value.shape) for value in kwargs.values()} == {(2, 90)}
        assert run(made(backend), drawn(backend))

    def test_square_models_refuse_oblong_images(self):
        with pytest.raises(UsageError, match="square"):
            load("transformers").get("vit", (3, 32, 40))

    @pytest.mark.parametrize("name", ["ernie", "nystromformer", "persimmon", "xglm"])
    def test_model_type_without_record_is_shrunk(self, name):
        backend = load("transformers").get(name)
        model = made(backend)
        assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
        assert run(model, drawn(backend))

    def test_largest_record_is_built_on_meta(self):
        with torch.device("meta"):
            model = load("transformers").get("llama-70b").build()
        count = sum(parameter.numel() for parameter in model.parameters())
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        assert 70e9 < count < 71e9


class TestTorchvision:
    pytestmark = needs("torchvision")

    @pytest.mark.parametrize(
        ("name", "tag"),
        [
            ("squeezenet1_1", "classification"),
            ("inception_v3", "classification"),
            ("vit_b_32", "classification"),
            ("lraspp_mobilenet_v3_large", "segmentation"),
            ("r3d_18", "video"),
            ("raft_small", "optical_flow"),
            ("quantized_shufflenet_v2_x0_5", "quantized"),
            ("fasterrcnn_mobilenet_v3_large_320_fpn", "detection"),
        ],
    )
    def test_model_runs(self, name, tag):
        backend = load("torchvision").get(name)
        assert tag in backend.tags
        outputs = run(made(backend), drawn(backend))
        assert outputs
        assert all(output.numel() for output in outputs)

    def test_odd_shape(self):
        backend = load("torchvision").get("resnet18", (3, 45, 71))
        args, _ = drawn(backend)
        assert args[0].shape == (2, 3, 45, 71)
        assert run(made(backend), drawn(backend))

    @pytest.mark.parametrize(
        ("name", "shape", "why"),
        [
            ("resnet18", (1, 64, 64), "3 channels"),
            ("vit_b_16", (3, 32, 64), "square"),
            ("resnet18", (3,), "sizes"),
        ],
    )
    def test_impossible_shape(self, name, shape, why):
        with pytest.raises(UsageError, match=why):
            load("torchvision").get(name, shape)


class TestTimm:
    pytestmark = needs("timm")

    @pytest.mark.parametrize(
        ("name", "side"), [("test_resnet", 64), ("test_vit", 64), ("levit_128s", 64), ("inception_v3", 96)]
    )
    def test_smallest_size_is_found(self, name, side):
        backend = load("timm").get(name)
        args, _ = drawn(backend)
        assert args[0].shape == (2, 3, side, side)
        assert run(made(backend), drawn(backend))

    def test_size_search_leaves_the_seed_alone(self):
        load("timm")
        from backends.timm_zoo import plan

        plan.cache_clear()
        backend = load("timm").get("test_convnext")
        torch.manual_seed(3)
        first = backend.build().state_dict()
        torch.manual_seed(3)
        second = backend.build().state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [("test_resnet", (3, 65, 71)), ("test_resnet", (1, 64, 64)), ("test_vit", (3, 48, 96))],
    )
    def test_odd_shape(self, name, shape):
        backend = load("timm").get(name, shape)
        args, _ = drawn(backend)
        assert args[0].shape == (2, *shape)
        assert run(made(backend), drawn(backend))

    def test_impossible_shape_is_said(self):
        backend = load("timm").get("test_vit", (3, 7, 7))
        with pytest.raises(UsageError, match="does not run at 3x7x7"):
            backend.build()

    def test_weight_tag_is_ignored(self):
        assert load("timm").get("resnet18.a1_in1k").name == "timm:resnet18"

    def test_smallest_of_each_family_is_counted_and_kept(self, tmp_path, monkeypatch):
        load("timm")
        import timm

        from backends import timm_families

        families = {"byobnet": ["test_byobnet", "mobileone_s1"], "vgg": ["vgg11"], "levit": ["levit_128s"]}
        fake = SimpleNamespace(
            __version__="1",
            list_modules=lambda: [*families, "empty"],
            list_models=lambda module: families.get(module, []),
        )
        fake.create_model = timm.create_model
        monkeypatch.setitem(sys.modules, "timm", fake)
        cache, seen = tmp_path / "deep" / "counts.json", []
        kept = timm_families.smallest_of_each_family(
            limit=50_000_000,
            cache=cache,
            progress=lambda done, total, family: seen.append((done, total, family)),
        )
        assert kept == ["levit_128s", "test_byobnet"]
        assert seen == [(0, 3, "byobnet"), (1, 3, "levit"), (2, 3, "vgg")]
        assert [path.name for path in cache.parent.iterdir()] == ["counts.json"]

        monkeypatch.setattr(timm_families, "create", None)
        table = timm_families.parameter_table(cache)
        choice = timm_families.choose(table, limit=50_000_000)
        assert table.skipped == {}
        assert "above the limit" in choice.left_out["vgg"]

        fake.__version__ = "2"
        assert set(timm_families.parameter_table(cache).skipped) == {
            "levit_128s", "mobileone_s1", "test_byobnet", "vgg11",
        }  # fmt: skip


@pytest.mark.parametrize("prefix", [marked(prefix) for prefix in ["handmade", "torchvision", "transformers"]])
def test_sweep_names_exist(prefix):
    collection = load(prefix)
    specs = sets.sweep(prefix)
    names = set(collection.names())
    assert specs
    assert {spec.partition(":")[0] for spec in specs} == {prefix}
    assert {spec.partition(":")[2] for spec in specs} <= names


@pytest.mark.zoo
def test_torchvision_sweep_leaves_quantised_out():
    collection = load("torchvision")
    swept = {spec.partition(":")[2] for spec in sets.torchvision()}
    for name in collection.names():
        assert (name in swept) == ("quantized" not in collection.get(name).tags)


def test_unknown_sweep():
    with pytest.raises(UsageError, match="no sweep"):
        sets.sweep("keras")


@pytest.mark.zoo
@pytest.mark.parametrize("spec", sets.DEFAULTS)
def test_defaults_are_small_and_run(spec):
    prefix, _, name = spec.partition(":")
    backend = load(prefix).get(name)
    assert backend.size == "tiny"
    assert run(made(backend), drawn(backend))
