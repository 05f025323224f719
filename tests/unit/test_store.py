"""Subnets as files: what is loaded is what was saved, bit for bit, and everything else is refused in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import conformance as pc
from backends.handmade import collection
from conformance.deploy import store
from conformance.deploy.fingerprint import named_state
from conformance.deploy.plan import PLAN_FILE, WEIGHTS_FILE, _digest, read_plan
from conformance.deploy.store import same_bits
from conformance.errors import ConformanceError, PlanError, UsageError
from conformance.graph.tape import tensors_in


class Net(nn.Module):
    """Two convolutions, a tied pair of linear layers, a buffer that is not saved and one in another dtype."""

    def __init__(self, width: int = 8, literal: bool = False, slope: float = 0.1) -> None:
        super().__init__()
        self.literal = literal
        self.slope = slope
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, 6, 1)
        self.up, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.up.weight
        self.head = nn.Linear(6, 4)
        self.register_buffer("scale", torch.linspace(1, 2, width)[:, None, None], persistent=False)
        self.sizes = (width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.leaky_relu(self.norm(self.stem(x)) * self.scale, self.slope)
        if self.literal:
            y = y.reshape(x.shape[0], 8, 16).reshape(x.shape[0], 8, 4, 4)
        z = self.mix(y).mean((2, 3))
        return self.head(self.again(self.up(z).relu()).relu())


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def built(seed: int = 0, make: Callable[[], nn.Module] = Net) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return pc.randomised(make().eval(), seed)


def pruned(model: nn.Module, *args: Any, seed: int = 0, **kwargs: Any) -> tuple[pc.Selection, nn.Module]:
    choice = pc.partition(pc.trace(model, args, kwargs)).sample(0.5, seed=seed)
    return choice, pc.extract(model, choice)


def assert_same(one: nn.Module, other: nn.Module, *args: Any, **kwargs: Any) -> None:
    """State, ties and outputs, to the bit."""
    left, right = named_state(one), named_state(other)
    assert list(left) == list(right)
    assert [name for name in left if not same_bits(left[name], right[name])] == []
    ties = [[n for n in state if state[n] is state[m]] for state in (left, right) for m in state]
    assert ties[: len(left)] == ties[len(left) :]
    assert list(one.state_dict()) == list(other.state_dict())
    mine, theirs = (tensors_in(module(*args, **kwargs)) for module in (one, other))
    assert mine
    assert all(same_bits(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path]:
    choice, subnet = pruned(built(), X)
    pc.save_subnet(subnet, tmp_path / "out", choice)
    return subnet, tmp_path / "out"


class TestRoundTrip:
    @pytest.mark.parametrize("name", collection.names())
    def test_every_handmade_net(self, name, tmp_path):
        """Around other weights, around none, and with inputs or without where the plan allows it."""
        backend = collection.get(name)
        args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
        choice, subnet = pruned(built(0, backend.build), *args, **kwargs)
        plan = pc.save_subnet(subnet, tmp_path, choice)
        with torch.device("meta"):
            empty = backend.build().eval()
        # Some passes need values: then so does the model that is traced again.
        for model in (built(5, backend.build), *([empty] if plan.tape.device == "meta" else [])):
            again = pc.load_subnet(model, tmp_path, args, kwargs)
            assert type(again) is type(subnet)
            assert_same(subnet, again, *args, **kwargs)
            if not plan.needs_inputs:
                assert_same(subnet, pc.load_subnet(model, tmp_path), *args, **kwargs)

    @pytest.mark.zoo
    @pytest.mark.parametrize("spec", ["timm:test_vit", "timm:test_convnext", "transformers:bert", "transformers:llama"])
    def test_models_of_libraries(self, spec, tmp_path):
        from conformance.spec_loader import load

        backend = load(spec)
        args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
        choice, subnet = pruned(built(0, backend.build), *args, **kwargs)
        pc.save_subnet(subnet, tmp_path, choice)
        assert_same(subnet, pc.load_subnet(built(5, backend.build), tmp_path, args, kwargs), *args, **kwargs)

    def test_tied_parameters_stay_tied_and_are_written_once(self, saved):
        subnet, folder = saved
        again = pc.load_subnet(built(3), folder)
        assert again.up.weight is again.again.weight
        assert subnet.up.weight is subnet.again.weight
        assert "again.weight" not in safetensors.torch.load_file(folder / WEIGHTS_FILE)

    def test_a_buffer_that_is_not_saved_comes_along(self, saved):
        subnet, folder = saved
        with torch.device("meta"):
            again = pc.load_subnet(Net().eval(), folder)
        assert torch.equal(again.scale, subnet.scale)
        assert "scale" not in again.state_dict()

    def test_weights_trained_further_and_in_another_dtype(self, tmp_path):
        choice, subnet = pruned(built(), X)
        subnet = subnet.half()
        with torch.no_grad():
            subnet.head.bias.add_(1)
        pc.save_subnet(subnet, tmp_path, choice)
        assert_same(subnet, pc.load_subnet(built(1), tmp_path), X.half())

    def test_what_a_nan_and_a_negative_zero_are(self, tmp_path):
        choice, subnet = pruned(built(), X)
        with torch.no_grad():
            subnet.head.bias.copy_(torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]))
        pc.save_subnet(subnet, tmp_path, choice)
        assert same_bits(pc.load_subnet(built(1), tmp_path).head.bias, subnet.head.bias)

    def test_recurrent_layers_use_what_was_loaded(self, tmp_path):
        class Tagger(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(4, 8)
                self.rnn = nn.GRU(8, 6, batch_first=True, bidirectional=True)
                self.head = nn.Linear(12, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(self.rnn(self.inner(x))[0])

        x = torch.randn(2, 5, 4)
        choice, subnet = pruned(built(0, Tagger), x)
        assert pc.save_subnet(subnet, tmp_path, choice).kind == "same class"
        again = pc.load_subnet(built(1, Tagger), tmp_path)
        assert_same(subnet, again, x)
        assert all(a is b for a, b in zip(again.rnn._flat_weights, again.rnn.parameters(), strict=True))

    def test_the_original_is_left_as_it_was(self, saved):
        _, folder = saved
        model = built(2).train()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        again = pc.load_subnet(model, folder, X)
        with torch.no_grad():
            for tensor in named_state(again).values():
                tensor.zero_()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert model.sizes == (8, 4)
        assert again.training

    def test_which_parameters_train_is_the_originals(self, saved):
        model = built(2)
        model.stem.weight.requires_grad_(False)
        again = pc.load_subnet(model, saved[1])
        assert not again.stem.weight.requires_grad
        assert again.head.weight.requires_grad

    def test_a_subnet_of_a_subnet_in_the_full_models_indices(self, tmp_path):
        model = built()
        groups = pc.partition(pc.trace(model, X))
        first, second = groups.sample(0.25, 1), groups.sample(0.25, 2)
        both = first.union(second)
        step = pc.extract(model, first)
        inner = pc.partition(pc.trace(step, X), pruned=first)
        twice = pc.extract(step, both.within(inner, first))
        pc.save_subnet(twice, tmp_path, both)
        assert_same(twice, pc.load_subnet(built(1), tmp_path), X)


class TestThePlan:
    def test_says_what_it_is(self, saved):
        plan = read_plan(saved[1])
        assert plan.kind == "same class"
        assert not plan.needs_inputs
        assert plan.model.parameters["stem.weight"].shape == (8, 3, 3, 3)
        assert plan.expected("stem.weight") == tuple(saved[0].stem.weight.shape)
        assert plan.model.tied == (("up.weight", "again.weight"),)
        assert torch.__version__.startswith(plan.versions["torch"])
        assert {a.name for a in plan.attributes if a.module == "stem"} == {"out_channels"}
        assert plan.verdict is None

    def test_holds_the_verdict_it_is_given(self, tmp_path):
        model = built()
        choice, subnet = pruned(model, X)
        verdict = pc.equivalent(pc.zero(model, choice), subnet, X)
        plan = pc.save_subnet(subnet, tmp_path, choice, verdict=verdict)
        assert read_plan(tmp_path) == plan
        assert (plan.verdict.status, plan.verdict.oracle, plan.verdict.compared) == ("equal", "field", 8)

    def test_may_be_written_in_another_order_with_other_blanks(self, saved):
        subnet, folder = saved
        data = json.loads((folder / PLAN_FILE).read_text())
        (folder / PLAN_FILE).write_text(json.dumps(dict(reversed(data.items()))))
        assert_same(subnet, pc.load_subnet(built(1), folder), X)

    def test_two_savings_are_the_same_bytes(self, tmp_path):
        choice, subnet = pruned(built(), X)
        for name in ("a", "b"):
            pc.save_subnet(subnet, tmp_path / name, choice)
        for name in (PLAN_FILE, WEIGHTS_FILE):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


class TestSavingRefuses:
    """What could not be rebuilt is not written."""

    def refused(self, subnet: nn.Module, choice: pc.Selection, folder: Path, words: str) -> None:
        with pytest.raises(PlanError, match=words) as caught:
            pc.save_subnet(subnet, folder, choice)
        assert len(str(caught.value).splitlines()) == 1
        assert not list(folder.glob("*"))

    def test_the_subnet_of_another_selection(self, tmp_path):
        model = built()
        _, subnet = pruned(model, X)
        other = pc.partition(pc.trace(model, X)).sample(0.25, seed=3)
        self.refused(subnet, other, tmp_path, "of the subnet has shape .*, the selection leaves")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda s: setattr(s, "head", nn.Sequential(s.head)), "no tensor|extra tensor"),
            (lambda s: setattr(s.norm, "eps", 1e-3), "norm.eps of the subnet is 0.001, not a smaller size"),
            (lambda s: setattr(s, "slope", 0.2), "slope of the subnet is 0.2"),
            (lambda s: setattr(s, "extra", nn.ReLU()), "module extra of the subnet is not what the model has"),
            (lambda s: setattr(s.again, "weight", nn.Parameter(s.up.weight.clone())), "extra tensor again.weight"),
            (lambda s: s.register_buffer("more", torch.ones(2)), "extra tensor more"),
            (lambda s: setattr(s, "table", torch.ones(2)), r"table\[0\] of the subnet is not what it is when rebuilt"),
            (lambda s: s.to("meta"), "on the meta device and has no data to save"),
        ],
    )
    def test_one_that_was_changed(self, tmp_path, change, words):
        choice, subnet = pruned(built(), X)
        change(subnet)
        self.refused(subnet, choice, tmp_path, words)

    def test_a_disk_that_is_full_leaves_the_earlier_pair(self, saved, monkeypatch):
        _, folder = saved
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        choice, other = pruned(built(4), X, seed=4)

        def full(plan):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store, "write_plan", full)
        with pytest.raises(OSError, match="No space left"):
            pc.save_subnet(other, folder, choice)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    @pytest.mark.skipif(os.name != "posix", reason="folders are locked otherwise elsewhere")
    def test_a_folder_that_is_a_file(self, saved, tmp_path):
        (tmp_path / "taken").write_text("mine")
        choice, subnet = pruned(built(), X)
        with pytest.raises(UsageError, match="nothing can be written to"):
            pc.save_subnet(subnet, tmp_path / "taken", choice)


def signed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the plan and sign it anew, as somebody who edits it on purpose could."""
    data = json.loads((folder / PLAN_FILE).read_text())
    del data["digest"]
    change(data)
    (folder / PLAN_FILE).write_text(json.dumps({**data, "digest": _digest(data)}))


def set_in(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


class TestLoadingRefuses:
    def refused(self, model: nn.Module, folder: Path, words: str, *given: Any) -> None:
        with pytest.raises(PlanError, match=words) as caught:
            pc.load_subnet(model, folder, *given)
        assert len(str(caught.value).splitlines()) == 1
        assert isinstance(caught.value, ConformanceError)

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Net(width=10), r"stem.weight is float32 of shape \(10, 3, 3, 3\), in the plan's it is"),
            (lambda: Net().double(), "stem.weight is float64 of shape"),
            (lambda: nn.Sequential(nn.Linear(3, 4)), "this is another model: it has no parameter stem.weight"),
            (lambda: Net(slope=0.3), r"the model itself \(Net\) is built otherwise"),
            (lambda: Net(literal=True), r"the model itself \(Net\) is built otherwise"),
        ],
    )
    def test_another_model(self, saved, make, words):
        self.refused(make().eval(), saved[1], words)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda m: setattr(m.norm, "eps", 0.1), r"module norm \(BatchNorm2d\) is built otherwise"),
            (lambda m: setattr(m.again, "weight", nn.Parameter(m.up.weight.clone())), "other parameters are tied"),
            (lambda m: setattr(m, "more", nn.Linear(2, 2)), "the plan's has no parameter more.weight"),
            (lambda m: delattr(m, "head"), "it has no parameter head.weight"),
            (lambda m: setattr(m, "head", nn.Bilinear(1, 6, 4)), r"head.weight is float32 of shape \(4, 1, 6\)"),
            (lambda m: setattr(m, "table", torch.ones(2)), r"the plan's has no tensor table\[0\]"),
        ],
    )
    def test_a_model_that_was_changed(self, saved, change, words):
        model = built(1)
        change(model)
        self.refused(model, saved[1], words)

    @pytest.mark.parametrize("name", [PLAN_FILE, WEIGHTS_FILE])
    def test_a_file_that_is_missing(self, saved, name):
        (saved[1] / name).unlink()
        self.refused(built(), saved[1], f"{name} cannot be read: No such file")

    def test_a_folder_in_place_of_a_file(self, saved):
        (saved[1] / PLAN_FILE).unlink()
        (saved[1] / PLAN_FILE).mkdir()
        self.refused(built(), saved[1], "cannot be read: Is a directory")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"", "it is no JSON text"),
            (b"\xff\xfe", "it is no JSON text"),
            (b"[" * 100_000, "it is no JSON text"),
            *(
                (b'{"a":' + b"[" * depth + b"]" * depth + b"}", "no JSON text|not the plan of a subnet")
                for depth in (300, 600, 900)
            ),
            (b"[1, 2]", "is not the plan of a subnet"),
            (b'{"format": "pruning-conformance/selection", "version": 1}', "is not the plan of a subnet"),
            (
                b'{"format": "pruning-conformance/subnet", "version": 2}',
                "has version '2'; this release reads version 1",
            ),
            (b'{"format": "pruning-conformance/subnet", "version": true}', "has version 'True'"),
            (b'{"format": "pruning-conformance/subnet", "version": 1}', "its digest is not that of its content"),
            (pickle.dumps({"format": "pruning-conformance/subnet"}), "it is no JSON text"),
        ],
    )
    def test_a_plan_that_is_none(self, saved, text, words):
        (saved[1] / PLAN_FILE).write_bytes(text)
        self.refused(built(), saved[1], words)

    def test_weights_cut_off_longer_or_of_another_subnet(self, saved, tmp_path):
        _, folder = saved
        file = folder / WEIGHTS_FILE
        whole = file.read_bytes()
        for content in (whole[:-1], whole[:100], b"", whole + b"\0"):
            file.write_bytes(content)
            self.refused(built(), folder, f"has {len(content)} bytes, the plan's has {len(whole)}")
        choice, other = pruned(built(7), X)
        pc.save_subnet(other, tmp_path / "other", choice)
        shutil.copy(tmp_path / "other" / WEIGHTS_FILE, file)
        self.refused(built(), folder, "is damaged or another file: its digest is not the one in the plan")

    def test_nothing_is_unpickled(self, saved, tmp_path):
        """A pickle that would leave a mark, with a digest that fits, in the place of either file."""
        _, folder = saved
        mark = tmp_path / "mark"

        class Bomb:
            def __reduce__(self):
                return (Path.touch, (mark,))

        pickled = pickle.dumps(Bomb())
        assert pickle.loads(pickled) is None
        assert mark.exists()
        mark.unlink()
        (folder / WEIGHTS_FILE).write_bytes(pickled)
        digest = store._file_digest(folder / WEIGHTS_FILE)
        signed(folder, lambda data: data["weights"].update(length=digest[0], sha256=digest[1]))
        self.refused(built(), folder, "is no safetensors file")
        (folder / PLAN_FILE).write_bytes(pickled)
        self.refused(built(), folder, "it is no JSON text")
        assert not mark.exists()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda tensors: tensors.pop("head.bias"), "lacks head.bias"),
            (lambda tensors: tensors.update(extra=torch.ones(1)), "has an extra tensor extra"),
            (
                lambda tensors: tensors.update({"head.bias": torch.ones(5)}),
                r"head.bias in .* is float32 of shape \(5,\)",
            ),
            (lambda tensors: tensors.update({"head.bias": torch.ones(4).half()}), "head.bias in .* is float16"),
        ],
    )
    def test_other_tensors_than_the_plan_says_though_the_digest_fits(self, saved, change, words):
        _, folder = saved
        tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        change(tensors)
        safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)
        digest = store._file_digest(folder / WEIGHTS_FILE)
        signed(folder, lambda data: data["weights"].update(length=digest[0], sha256=digest[1]))
        self.refused(built(), folder, words)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (set_in("kind", to="pickle"), "is no valid plan: kind: Input should be"),
            (set_in("surprise", to=1), "is no valid plan: surprise: Extra inputs"),
            (lambda data: data.pop("slices"), "is no valid plan: slices: Field required"),
            (set_in("slices", "stem.weight", "0", to=[1, 99]), "removes positions of stem.weight that its dimension 0"),
            (set_in("slices", "stem.weight", "0", to=[-1]), "is no valid plan: slices.stem.weight.0.0"),
            (set_in("slices", "stem.weight", "0", to=[2, 1]), "removes positions of stem.weight that its dimension 0"),
            (set_in("slices", "stem.weight", "0", to=[1.5]), "is no valid plan"),
            (set_in("slices", "stem.weight", "0", to=[1]), "stem.weight of the subnet has shape"),
            (set_in("slices", "stem.weight", "0", to=list(range(8))), "removes every position of dimension 0"),
            (set_in("slices", "stem.weight", "7", to=[0]), "removes positions of dimension 7 of stem.weight"),
            (set_in("slices", "stern.weight", to={"0": [0]}), "removes positions of stern.weight, which the model"),
            (lambda data: data["slices"].pop("stem.bias"), "stem.bias of the subnet has shape"),
            (lambda data: data["slices"].pop("again.weight"), "cuts up.weight and again.weight differently"),
            (set_in("model", "parameters", "head.bias", "shape", to=[5]), "in the plan's it is float32 of shape"),
            (set_in("model", "modules", "stem", to="0" * 64), "module stem .* is built otherwise"),
            (set_in("attributes", 0, "module", to="nowhere"), "there is no module nowhere"),
            (set_in("attributes", 0, "name", to="_version"), "which the model does not have"),
            (set_in("attributes", 0, "name", to="forward"), "which the model does not have"),
            (set_in("attributes", 0, "value", to=0), "is no valid plan: attributes.0.value"),
            (set_in("attributes", 0, "value", to=800), "which is no smaller size than"),
            (set_in("attributes", 0, "place", to=9), "at a place it does not have"),
            (set_in("attributes", 0, "place", to=None), "at a place it does not have"),
        ],
    )
    def test_a_plan_that_was_edited_and_signed_anew(self, saved, change, words):
        signed(saved[1], change)
        self.refused(built(), saved[1], words)

    def test_other_sizes_that_would_run_are_seen_with_inputs(self, tmp_path):
        """Half the heads, twice as wide: it runs, and computes something else."""

        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.heads = 4
                self.qkv, self.out = nn.Linear(8, 96), nn.Linear(32, 3)

            def forward(self, x):
                q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
                y = nn.functional.scaled_dot_product_attention(q, k, v)
                return self.out(y.transpose(1, 2).flatten(2))

        x = torch.randn(2, 5, 8)
        choice, subnet = pruned(built(0, Heads), x)
        pc.save_subnet(subnet, tmp_path, choice)
        (at,) = (n for n, a in enumerate(read_plan(tmp_path).attributes) if a.name == "heads")
        assert read_plan(tmp_path).attributes[at].value == 2
        signed(tmp_path, set_in("attributes", at, "value", to=1))
        self.refused(built(1, Heads), tmp_path, "do not make the subnet that its selection describes", x)

    def test_other_inputs(self, saved):
        self.refused(built(), saved[1], r"made on the inputs float32 of shape \(2, 3, 4, 4\), those given", X[:1])
        self.refused(built(), saved[1], "those given are float64", X.double())


class TestGraphs:
    @pytest.fixture
    def literal(self, tmp_path):
        choice, subnet = pruned(built(0, lambda: Net(literal=True)), X)
        assert pc.save_subnet(subnet, tmp_path, choice).kind == "graph"
        return subnet, tmp_path

    def test_are_traced_again(self, literal):
        subnet, folder = literal
        again = pc.load_subnet(built(1, lambda: Net(literal=True)), folder, X + 1)
        assert pc.kind_of(again) == "graph"
        assert_same(subnet, again, X)

    def test_need_inputs(self, literal):
        with pytest.raises(PlanError, match="is a traced graph: give the example inputs"):
            pc.load_subnet(built(1, lambda: Net(literal=True)), literal[1])

    def test_another_pass_is_refused(self, literal):
        """Same modules, same state, another forward."""

        class Other(Net):
            def forward(self, x):
                return super().forward(x) + 1

        Other.__qualname__ = Net.__qualname__
        with pytest.raises(PlanError, match="on these inputs it runs other operations than the plan's did"):
            pc.load_subnet(built(1, lambda: Other(literal=True)), literal[1], X)


class TestTensorsOutsideTheState:
    class Table(Net):
        """Holds numbers in a list that nothing saves."""

        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.kept = [torch.randn(1, generator=torch.Generator().manual_seed(seed))]

        def forward(self, x):
            return super().forward(x) + self.kept[0]

    def test_must_be_what_they_were(self, tmp_path):
        choice, subnet = pruned(built(0, self.Table), X)
        pc.save_subnet(subnet, tmp_path, choice)
        assert_same(subnet, pc.load_subnet(built(1, self.Table), tmp_path), X)
        with pytest.raises(PlanError, match=r"kept\[0\], a tensor that .* holds other values"):
            pc.load_subnet(built(1, lambda: self.Table(1)), tmp_path)
        with torch.device("meta"):
            empty = Net().eval()
            empty.kept = [torch.ones(1)]
        empty.__class__ = self.Table
        with pytest.raises(PlanError, match=r"kept\[0\], a tensor that .* has no data on the meta device"):
            pc.load_subnet(empty, tmp_path)


@pytest.mark.parametrize("carry", ["outer", "inner"])
def test_groups_of_either_factor(carry, tmp_path):
    """The plan says which partition its slices are of."""

    def make():
        return nn.Sequential(
            nn.Conv1d(3, 12, 1), nn.ReLU(), nn.Conv1d(12, 9, 1, groups=3), nn.ReLU(), nn.Conv1d(9, 2, 1)
        )

    x = torch.randn(2, 3, 5)
    model = built(0, make)
    choice = pc.partition(pc.trace(model, x), carry=carry).sample(0.5, seed=0)
    assert choice.removed
    subnet = pc.extract(model, choice)
    assert pc.save_subnet(subnet, tmp_path, choice).carry == carry
    assert_same(subnet, pc.load_subnet(built(1, make), tmp_path, x), x)
    assert pc.Selection.carry_in(choice.to_json()) == carry


class TestNormsThatCountTheOriginalWidth:
    def make(self):
        return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))

    def test_need_inputs_and_take_any_batch(self, tmp_path):
        x = torch.randn(2, 3)
        choice, subnet = pruned(built(0, self.make), x)
        plan = pc.save_subnet(subnet, tmp_path, choice)
        assert (plan.kind, plan.whole_width) == ("same class", ("1",))
        with pytest.raises(PlanError, match="has norms that count the original width: give the example inputs"):
            pc.load_subnet(built(1, self.make), tmp_path)
        again = pc.load_subnet(built(1, self.make), tmp_path, x)
        assert_same(subnet, again, torch.randn(5, 3))

    def test_that_are_none_are_refused(self, tmp_path):
        x = torch.randn(2, 3)
        choice, subnet = pruned(built(0, self.make), x)
        pc.save_subnet(subnet, tmp_path, choice)
        for names in (["0"], ["2"], ["9"], ["1", "1"], ["1", "2"]):
            signed(tmp_path, set_in("whole_width", to=names))
            with pytest.raises(PlanError):
                pc.load_subnet(built(1, self.make), tmp_path, x)


def test_bits_are_told_apart():
    nan = torch.tensor([float("nan")])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same_bits(torch.ones(2), torch.ones(1, 2))
    assert not same_bits(torch.ones(2), torch.ones(2, dtype=torch.int32))
    assert same_bits(torch.ones(2, 2).t(), torch.ones(2, 2))
