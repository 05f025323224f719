"""Tasks by name with options, and models made to fit a task."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from conformance.backend import Adaptable
from conformance.errors import UsageError
from conformance.method import task as module
from conformance.method.task import Batch, backend_for, load_task, parsed_options, spelled
from conformance.spec_loader import collection

torch.set_num_threads(1)


def zoo(library: str):
    return [pytest.mark.zoo, pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is missing")]


class Fake:
    """A task of vectors or images, with ten classes."""

    name = "fake"
    metric = "accuracy"
    digest = "0"

    def __init__(self, shape=(3, 32, 32), classes=10):
        self.shape, self.classes = shape, classes

    def batches(self, split, size, *, seed=None, epoch=0):
        yield Batch((torch.ones(size, *self.shape),), target=torch.zeros(size, dtype=torch.int64))

    def loss(self, output, target):
        if not isinstance(output, torch.Tensor) or output.shape != (len(target), self.classes):
            raise UsageError("its output has another shape")
        return nn.functional.cross_entropy(output, target)


# -- names ----------------------------------------------------------------------------------------


def make(folder, *, count: int | None = None, rate: float = 0.5, fast: bool = False, kind: str = "a"):
    return None


def test_options_have_the_types_of_the_parameters():
    query = "count=3&rate=0.25&fast=true&kind=b"
    assert parsed_options("fake", query, make) == {"count": 3, "rate": 0.25, "fast": True, "kind": "b"}
    assert parsed_options("fake", "fast=false", make) == {"fast": False}
    assert parsed_options("fake", "", make) == {}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("cuont=3", "the task fake has no option 'cuont'; there are count, fast, kind, rate"),
        ("folder=3", "has no option 'folder'"),
        ("count", "'count' is no option of a task: write fake[?]KEY=VALUE"),
        ("count=", "'count=' is no option"),
        ("count=3&", "'' is no option"),
        ("count=3&count=4", "count of the task fake is given twice"),
        ("count=3.5", "count of the task fake is of type int, not '3.5'"),
        ("rate=x", "is of type float, not 'x'"),
        ("fast=yes", "is true or false, not 'yes'"),
    ],
)
def test_wrong_options(query, message):
    with pytest.raises(UsageError, match=message):
        parsed_options("fake", query, make)


def test_a_spelled_name_is_read_back():
    name = spelled("fake", count=3, rate=None, fast=True)
    assert name == "fake?count=3&fast=true"
    assert parsed_options("fake", name.partition("?")[2], make) == {"count": 3, "fast": True}
    assert spelled("fake", count=None) == "fake"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "there is no task named 'digit'; did you mean digits"),
        ("nothing-like-it", "there is no task named 'nothing-like-it'; there are .*digits"),
        ("digit?train=3", "there is no task named 'digit'; did you mean digits"),
        ("digits?trian=3", "the task digits has no option 'trian'; there are test, train, validation"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UsageError, match=message):
        load_task(name)


def test_a_task_that_cannot_be_imported_says_so(monkeypatch):
    class Entry:
        def load(self):
            raise ImportError("sklearn is not installed")

    monkeypatch.setattr(module, "tasks", lambda: {"digits": Entry()})
    with pytest.raises(UsageError, match="the task digits cannot be used: ImportError: sklearn is not installed"):
        load_task("digits")


# -- models that fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("small:resnet20-w8", (1, 8, 8)),
        ("small:vit", (2, 28, 28)),
        pytest.param("timm:resnet18", (1, 28, 28), marks=zoo("timm")),
        pytest.param("timm:test_vit", (3, 32, 32), marks=zoo("timm")),
        pytest.param("torchvision:mobilenet_v2", (3, 32, 32), marks=zoo("torchvision")),
        pytest.param("torchvision:vit_b_32", (3, 64, 64), marks=zoo("torchvision")),
    ],
)
def test_collections_adapt_their_models(spec, shape):
    assert isinstance(collection(spec.partition(":")[0]), Adaptable)
    state = torch.get_rng_state()
    backend = backend_for(spec, Fake(shape, 7))
    assert torch.equal(torch.get_rng_state(), state)
    args, kwargs = backend.inputs(3, torch.Generator().manual_seed(0))
    assert backend.name == spec
    with torch.no_grad():
        assert backend.build().eval()(*args, **kwargs).shape == (3, 7)
    assert args[0].shape == (3, *shape)


@pytest.mark.zoo
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is missing")
def test_an_adapted_model_of_timm_differs_from_the_record_in_its_classes_only():
    own = collection("timm").get("test_resnet", (3, 64, 64)).build().state_dict()
    adapted = backend_for("timm:test_resnet", Fake((3, 64, 64), 7)).build().state_dict()
    different = {name for name, value in own.items() if adapted[name].shape != value.shape}
    assert different == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("small:resnet20", (3, 7, 32), "at least 8"),
        ("small:resnet20", (16,), "channels, height and width"),
        ("small:vit", (3, 9, 9), "no patch"),
        ("small:resnet21", (3, 32, 32), "did you mean small:resnet20"),
        pytest.param("torchvision:resnet18", (1, 32, 32), "takes 3 channels, not 1", marks=zoo("torchvision")),
        pytest.param("torchvision:fcn_resnet50", (3, 32, 32), "another shape", marks=zoo("torchvision")),
        pytest.param("timm:test_vit", (1, 28, 28), "does not run at 1x28x28", marks=zoo("timm")),
        ("handmade:residual", (3, 32, 32), r"its inputs have the shape \(3, 12, 12\), those of the task \(3, 32, 32\)"),
        ("handmade:residual", (3, 12, 12), "its output has another shape"),
        ("handmade:attention-cross", (7, 10), "it does not run on a batch: TypeError"),
    ],
)
def test_what_does_not_fit_is_said(spec, shape, message):
    with pytest.raises(UsageError, match=message):
        backend_for(spec, Fake(shape))


def test_a_record_that_fits_is_taken_as_it_is(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef build():\n    return torch.nn.Linear(6, 10), torch.randn(2, 6)\n")
    backend = backend_for(f"{file}:build", Fake((6,)))
    assert backend.name == f"{file}:build"
    with pytest.raises(UsageError, match=r"does not fit the task fake: its inputs have the shape \(6,\)"):
        backend_for(f"{file}:build", Fake((7,)))
