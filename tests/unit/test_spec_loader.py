"""SPECs: what loads, what does not, and the sentence that says why."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from conformance import backend as backend_module
from conformance import spec_loader
from conformance.errors import UsageError
from conformance.spec_loader import ExampleInputs, load, locate, refuse_shadowed


@pytest.fixture(autouse=True)
def _own_path(monkeypatch):
    """Loading extends sys.path; each test gets its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def refusal(spec, **arguments) -> str:
    with pytest.raises(UsageError) as caught:
        load(spec, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestFiles:
    def test_a_module_and_inputs(self, models):
        record = load(f"{models}:good")
        args, kwargs = record.inputs(2, generator())
        assert record.name == f"{models}:good"
        assert record.source == str(models)
        assert record.build()(*args, **kwargs).shape == (2, 2)

    def test_the_users_inputs_are_the_same_in_every_load(self, models):
        (first,), _ = load(f"{models}:good").inputs(2, generator(1))
        (second,), _ = load(f"{models}:good").inputs(2, generator(2))
        assert torch.equal(first, second)

    def test_loading_leaves_the_random_state_alone(self, models):
        before = torch.random.get_rng_state()
        load(f"{models}:good")
        assert torch.equal(before, torch.random.get_rng_state())

    def test_build_follows_the_callers_seed(self, models):
        record = load(f"{models}:good")
        weights = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            weights.append(record.build()[0].weight)
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_a_global_module_is_never_handed_out(self, models):
        record = load(f"{models}:shared")
        first, second = record.build(), record.build()
        first[0].weight.data.zero_()
        assert second[0].weight.abs().sum() > 0
        assert load(f"{models}:shared").build()[0].weight.abs().sum() > 0

    def test_the_module_comes_in_float32(self, models):
        assert load(f"{models}:half").build()[0].weight.dtype == torch.float32

    def test_a_bare_module_needs_a_shape(self, models):
        assert "--input-shape" in refusal(f"{models}:bare")
        (x,), _ = load(f"{models}:bare", (3,)).inputs(5, generator())
        assert x.shape == (5, 3)

    def test_a_shape_replaces_the_users_inputs(self, models):
        (x,), _ = load(f"{models}:good", (7, 3)).inputs(2, generator())
        assert x.shape == (2, 7, 3)

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("goood", "has no callable 'goood'; did you mean good"),
            ("raising", "raised ValueError: no such weights"),
            ("leaving", "raised SystemExit: 5"),
            ("number", "returned a int, not a torch.nn.Module or (module, inputs)"),
            ("needy", "needs the argument width; give a callable without arguments"),
            ("SHARED", "is a module; give a function that builds and returns it"),
            ("MODELS_", "has no callable 'MODELS_'"),
            ("listed", "returned inputs of type list"),
            ("worded", "returned inputs of type str"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, models, name, sentence):
        message = refusal(f"{models}:{name}")
        assert sentence in message
        assert "second line" not in message

    def test_a_missing_file(self):
        assert refusal("nowhere/net.py:build") == "there is no file nowhere/net.py"

    def test_a_file_that_fails(self, tmp_path):
        (tmp_path / "broken.py").write_text("import nothing_of_that_name")
        message = refusal(f"{tmp_path}/broken.py:build")
        assert "raised ModuleNotFoundError: No module named 'nothing_of_that_name'" in message

    def test_a_file_with_a_syntax_error(self, tmp_path):
        (tmp_path / "wrong.py").write_text("def build(:\n")
        assert "raised SyntaxError" in refusal(f"{tmp_path}/wrong.py:build")

    def test_a_file_that_wants_its_own_package_of_our_name_is_told(self, tmp_path):
        import reports  # noqa: F401 - ours is loaded in this process

        (tmp_path / "reports").mkdir()
        (tmp_path / "reports" / "__init__.py").write_text("")
        (tmp_path / "net.py").write_text("from reports.no_such_module import build")
        assert "the package 'reports' loaded in this process is pruning-conformance's" in refusal(
            f"{tmp_path}/net.py:build"
        )

    def test_a_file_imports_its_neighbours(self, tmp_path):
        (tmp_path / "neighbour_of_net.py").write_text("import torch\nlayer = torch.nn.Linear\n")
        (tmp_path / "net2.py").write_text("from neighbour_of_net import layer\nbuild = lambda: layer(3, 2)\n")
        assert load(f"{tmp_path}/net2.py:build", (3,)).build().in_features == 3


class TestModules:
    def test_a_module_in_the_working_directory(self, tmp_path, monkeypatch, models):
        package = tmp_path / "some_package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        models.rename(package / "nets.py")
        monkeypatch.chdir(tmp_path)
        assert load("some_package.nets:good").build()[0].in_features == 3
        assert "raised ModuleNotFoundError" in refusal("some_package.nots:good")

    def test_the_working_directory_joins_the_path_only_for_what_it_holds(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        locate("torch.nn:ReLU")
        assert str(tmp_path) not in sys.path

    @pytest.mark.parametrize("spec", ["", "word", ":x", "x:", "file.py", "file.py:", "dir/file.py"])
    def test_no_spec_at_all(self, spec):
        assert "is no SPEC: a SPEC is prefix:name" in refusal(spec)

    def test_neither_prefix_nor_module(self):
        message = refusal("handmad:net")
        assert "neither a collection" in message
        assert "did you mean handmade?" in message

    def test_locating_a_module_does_not_run_it(self, tmp_path, monkeypatch):
        (tmp_path / "loud_package").mkdir()
        (tmp_path / "loud_package" / "__init__.py").write_text("raise RuntimeError('ran')")
        monkeypatch.chdir(tmp_path)
        assert locate("loud_package.net:build") == ("module", "loud_package.net", "build")
        assert "raised RuntimeError: ran" in refusal("loud_package.net:build")


class TestCollections:
    @pytest.fixture
    def register(self, monkeypatch):
        def register(**entries):
            found = [EntryPoint(name, value, "pruning_conformance.backends") for name, value in entries.items()]
            for module in (spec_loader, backend_module):
                monkeypatch.setattr(module, "entry_points", lambda group: found)

        return register

    def test_a_registered_model(self, register, tmp_path, monkeypatch):
        (tmp_path / "their_models.py").write_text(
            "import torch\nfrom conformance.backend import Backend, unknown_name\n"
            "class C:\n"
            "    prefix = 'theirs'\n"
            "    def names(self): return ['net']\n"
            "    def get(self, name, input_shape=None):\n"
            "        if name != 'net': raise unknown_name('theirs', name, self.names())\n"
            "        return Backend('theirs:net', lambda: torch.nn.ReLU(), lambda b, g: ((torch.ones(b),), {}))\n"
            "collection = C()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        register(theirs="their_models:collection")
        assert load("theirs:net").name == "theirs:net"
        assert refusal("theirs:nett") == "theirs has no model named 'nett'; did you mean theirs:net?"

    def test_one_that_cannot_be_imported(self, register):
        register(theirs="no_module_of_this_name:collection")
        assert "theirs:net cannot be used: ModuleNotFoundError: No module named" in refusal("theirs:net")

    def test_an_unknown_collection(self, register):
        register(theirs="x:y")
        with pytest.raises(UsageError, match="there is no collection 'their'; did you mean theirs"):
            spec_loader.collection("their")

    def test_a_users_folder_that_hides_ours_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "backends").mkdir()
        (tmp_path / "backends" / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "backends", raising=False)
        with pytest.raises(UsageError, match=r"hides pruning-conformance's own package") as caught:
            refuse_shadowed("backends.handmade:collection")
        assert str(tmp_path / "backends") in str(caught.value)
        refuse_shadowed("their_models:collection")

    def test_ours_is_not_refused(self):
        refuse_shadowed("backends.handmade:collection")


class TestExampleInputs:
    def test_all_forms(self):
        x, y = torch.zeros(2, 3), torch.ones(2)
        assert len(ExampleInputs.of("s", x).args) == 1
        assert len(ExampleInputs.of("s", (x, y)).args) == 2
        assert set(ExampleInputs.of("s", {"x": x}).kwargs) == {"x"}
        both = ExampleInputs.of("s", ((x,), {"y": y}))
        assert len(both.args) == 1
        assert set(both.kwargs) == {"y"}

    @pytest.mark.parametrize("given", [(), {}, (1, 2), "text", None])
    def test_no_tensor_is_refused(self, given):
        with pytest.raises(UsageError):
            ExampleInputs.of("s", given)

    def test_own_batch_size_gives_copies(self):
        x = torch.randn(2, 3)
        (copy,), _ = ExampleInputs.of("s", x)(2, generator())
        assert torch.equal(copy, x)
        copy.zero_()
        assert x.abs().sum() > 0

    def test_another_batch_size_is_drawn_from_the_generator(self):
        given = ExampleInputs.of("s", torch.randn(2, 1000))
        (first,), _ = given(3, generator(1))
        (again,), _ = given(3, generator(1))
        (other,), _ = given(3, generator(2))
        assert first.shape == (3, 1000)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_integers_stay_among_the_values_present(self):
        (ids,), _ = ExampleInputs.of("s", torch.tensor([[5, 9], [9, 7]]))(50, generator())
        assert ids.dtype == torch.int64
        assert set(ids.flatten().tolist()) == {5, 7, 9}

    def test_masks_stay_masks(self):
        ones, booleans = torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool)
        infinite = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
        (a, b, c), _ = ExampleInputs.of("s", (ones, booleans, infinite))(3, generator())
        assert torch.equal(a, torch.ones(3, 4))
        assert bool(b.all())
        assert set(c.flatten().tolist()) <= {0.0, -torch.inf}

    def test_what_has_no_batch_is_kept(self):
        table, scalar = torch.randn(5, 3), torch.tensor(2.0)
        (x, kept, alone, text), _ = ExampleInputs.of("s", (torch.randn(2, 3), table, scalar, "mode"))(4, generator())
        assert x.shape == (4, 3)
        assert torch.equal(kept, table)
        assert torch.equal(alone, scalar)
        assert text == "mode"

    def test_nested_inputs(self):
        (pair,), kwargs = ExampleInputs.of("s", (([torch.randn(2, 3)],), {"d": {"y": torch.randn(2)}}))(3, generator())
        assert pair[0].shape == (3, 3)
        assert kwargs["d"]["y"].shape == (3,)

    def test_a_device_context_does_not_take_them_along(self):
        given = ExampleInputs.of("s", (torch.randn(2, 3), torch.tensor([1, 2])))
        with torch.device("meta"):
            (x, ids), _ = given(3, generator())
        assert x.device.type == ids.device.type == "cpu"


def test_a_path_may_hold_a_colon(tmp_path: Path, models):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "nets.py").write_text(models.read_text())
    assert locate(f"{folder}/nets.py:good") == ("file", f"{folder}/nets.py", "good")
