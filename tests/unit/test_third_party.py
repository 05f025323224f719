"""Collections of libraries that neither this project nor torch wrote: small, and optional."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from torch.utils import _pytree as pytree

from backends import common, sets
from backends.common import Draw
from backends.listed import Listed, ListedCollection
from conformance.backend import Collection
from conformance.errors import UsageError

LIBRARIES = {"vit-pytorch": "vit_pytorch", "smp": "segmentation_models_pytorch", "diffusers": "diffusers"}
FEWEST = {"vit-pytorch": 12, "smp": 10, "diffusers": 6}
prefixes = pytest.mark.parametrize("prefix", LIBRARIES)


def module_of(prefix):
    return f"backends.{prefix.replace('-', '_')}_zoo"


def collection_of(prefix):
    if find_spec(LIBRARIES[prefix]) is None:
        pytest.skip(f"{LIBRARIES[prefix]} is missing")
    return import_module(module_of(prefix)).collection


@prefixes
def test_the_set_is_every_record(prefix):
    collection = collection_of(prefix)
    assert isinstance(collection, Collection)
    assert collection.prefix == prefix
    assert sets.sweep(prefix) == [f"{prefix}:{name}" for name in collection.names()]
    assert len(collection.names()) >= FEWEST[prefix]


@pytest.mark.zoo
@prefixes
def test_every_record_runs_on_inputs_that_depend_on_the_generator_only(prefix):
    collection = collection_of(prefix)
    for name in collection.names():
        backend = collection.get(name)
        torch.manual_seed(0)
        model = backend.build().eval()
        args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
        again = backend.inputs(2, torch.Generator().manual_seed(0))
        pairs = zip(pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(again), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        with torch.no_grad():
            made = pytree.tree_leaves(model(*args, **kwargs))
        assert made[0].shape[0] == 2, name


@prefixes
def test_without_the_library_the_sentence_says_what_to_install(prefix, monkeypatch):
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, module_of(prefix), raising=False)
    with pytest.raises(ImportError, match=rf"{LIBRARIES[prefix]} is not installed \(pip install .*\[third-party\]\)"):
        import_module(module_of(prefix))
    with pytest.raises(ImportError, match="is not installed"):
        sets.sweep(prefix)


def test_a_table_is_a_collection():
    record = Listed(lambda: torch.nn.Linear(3, 2), (Draw((3,)),), "here:there", tags=("mlp",))
    collection = ListedCollection("mine", {"two": record, "one": record})
    assert collection.names() == ["one", "two"]
    backend = collection.get("one", (3,))
    assert (backend.name, backend.source, backend.size) == ("mine:one", "here:there", "tiny")
    assert backend.tags == {"mine", "mlp"}
    assert backend.inputs(4, torch.Generator())[0][0].shape == (4, 3)
    with pytest.raises(UsageError, match=r"mine has no model named 'ones'; did you mean mine:one\?"):
        collection.get("ones")
    with pytest.raises(UsageError, match="takes an input shape of 1 positive sizes"):
        collection.get("one", (3, 4))
