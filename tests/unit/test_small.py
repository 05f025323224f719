"""The small models: any width, shape and number of classes; they train, and they conform."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from backends import sets
from backends.small_zoo import FAMILIES, collection, patch_size
from conformance import check_model
from conformance.backend import Adaptable, Collection
from conformance.errors import UsageError

torch.set_num_threads(1)

families = pytest.mark.parametrize("name", FAMILIES)
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (4, 16, 32)]


def test_the_collection_keeps_the_protocols():
    assert isinstance(collection, Collection)
    assert isinstance(collection, Adaptable)
    assert collection.names() == sorted(collection.names())
    assert sets.sweep("small") == [f"small:{name}" for name in collection.names()]
    for name in collection.names():
        assert collection.get(name).name == f"small:{name}"
        assert collection.get(name).size == "tiny"


@families
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_of_training_lowers_the_loss_and_reaches_every_parameter(name, shape):
    backend = collection.adapted(name, shape, 4)
    torch.manual_seed(0)
    model = backend.build().train()
    (images,), _ = backend.inputs(8, torch.Generator().manual_seed(0))
    target = torch.arange(8) % 4
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    before = cross_entropy(model(images), target)
    before.backward()
    assert images.shape == (8, *shape)
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    optimiser.step()
    assert cross_entropy(model(images), target) < before


@families
def test_the_width_scales_the_channels(name):
    def largest(spec):
        return max(max(parameter.shape) for key, parameter in collection.get(spec).build().named_parameters())

    family = FAMILIES[name]
    torch.manual_seed(0)
    plain = collection.get(name).build().state_dict()
    torch.manual_seed(0)
    spelled_out = collection.get(f"{name}-w{family.width}").build().state_dict()
    assert all(torch.equal(plain[key], spelled_out[key]) for key in plain)
    assert largest(f"{name}-w{2 * family.width}") == 2 * largest(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20-w", "no model named"),
        ("resnet20-w0", "no model named"),
        ("resnet20-8", "no model named"),
        ("resnet", "did you mean small:resnet20"),
        ("vit-w30", "the width is a multiple of 4"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UsageError, match=message):
        collection.get(name)


@pytest.mark.parametrize("shape", [(3, 7, 32), (3, 32), (0, 32, 32)])
@families
def test_wrong_shapes(name, shape):
    with pytest.raises(UsageError, match="takes an input shape"):
        collection.get(name, shape)


def test_no_classes():
    with pytest.raises(UsageError, match="at least one class"):
        collection.adapted("vit", (3, 32, 32), 0)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 8, 8), 2), ((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 64, 64), 8), ((3, 224, 224), 32)],
)
def test_patches(shape, patch):
    assert patch_size(shape) == patch


@pytest.mark.slow
@families
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)], ids=str)
def test_an_adapted_model_conforms_at_level_2(name, shape):
    torch.manual_seed(0)
    backend = collection.adapted(f"{name}-w{4 if name != 'vit' else 16}", shape, 7)
    args, _ = backend.inputs(2, torch.Generator().manual_seed(0))
    report = check_model(backend.build(), args, level=2)
    assert [(check.id, check.outcome) for check in report.checks if check.outcome != "pass"] == []
    assert len(report.checks) >= 20
