"""Trees come back as they were, from one file that nothing was pickled into."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.errors import UsageError
from conformance.method.store import load_tree, save_tree
from tests.unit.toy import convnet, images

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=12,
)


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return math.isnan(one) == math.isnan(other) and (math.isnan(one) or (one == other and str(one) == str(other)))
    return one == other


@given(tree=TREES)
def test_a_tree_comes_back(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("tree") / "a.safetensors"
    save_tree(path, tree)
    assert same(load_tree(path), tree)


def test_tensors_come_back_with_shape_and_dtype(tmp_path):
    base = torch.randn(4, 6)
    tree = {
        "scalar": torch.tensor(3), "empty": torch.zeros(0, 2), "strided": base.t()[1:], "shared": [base, base],
        "bool": torch.tensor([True]), "half": torch.randn(2).bfloat16(), "rng": torch.get_rng_state(),
    }  # fmt: skip
    save_tree(tmp_path / "t.safetensors", tree)
    assert same(load_tree(tmp_path / "t.safetensors"), tree)


@pytest.mark.parametrize("made", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizers_state_comes_back(made, tmp_path):
    model = convnet()
    optimizer = made(model.parameters(), lr=0.1, **({"momentum": 0.9} if made is torch.optim.SGD else {}))
    model(images()).sum().backward()
    optimizer.step()
    save_tree(tmp_path / "o.safetensors", optimizer.state_dict())
    assert same(load_tree(tmp_path / "o.safetensors"), optimizer.state_dict())


@pytest.mark.parametrize("wrong", [object(), {(1, 2): 3}, {"x": {1, 2}}])
def test_what_a_tree_cannot_hold_is_refused_and_nothing_is_written(wrong, tmp_path):
    with pytest.raises(TypeError):
        save_tree(tmp_path / "a.safetensors", wrong)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_tree_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match="cannot be read"):
        load_tree(path)
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="cannot be read"):
        load_tree(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="is no saved state"):
        load_tree(path)
