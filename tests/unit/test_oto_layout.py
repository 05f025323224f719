"""Which tensors have rows that kernels and compiled loops may read at their address."""

from __future__ import annotations

import pytest
import torch

from reference_impls.oto import compiled
from reference_impls.oto.layout import in_rows, rows_alike, seen


class Wrapped(torch.Tensor):
    """Stands for a tensor whose numbers are elsewhere, as DTensor and quantised wrappers do."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        assert function is torch.ops.aten.detach.default
        return args[0]


NO_ROWS = {"subclass": Wrapped, "meta": lambda inner: inner.to("meta"), "sparse": torch.Tensor.to_sparse}


@pytest.mark.parametrize("make", NO_ROWS.values(), ids=NO_ROWS)
def test_what_has_no_memory_of_its_own_has_no_rows(make):
    tensor = torch.randn(4, 3)
    assert in_rows(tensor)
    assert in_rows(torch.nn.Parameter(tensor))
    assert in_rows(tensor[:0])  # nothing is read of it
    assert seen(make(tensor))[0] == 0
    assert not in_rows(make(tensor))
    assert not in_rows(tensor, make(tensor))
    assert compiled.as_rows(make(tensor)) is None


def test_rows_that_are_alike():
    tensor = torch.randn(4, 3)
    assert rows_alike(tensor, tensor.clone())
    assert not rows_alike(tensor, torch.randn(3, 3))
    assert not rows_alike(tensor, tensor.to("meta"))
    assert not rows_alike(tensor, tensor.double())
