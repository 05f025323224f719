"""Whether kernels over rows are used is tried once: on a GPU, or interpreted on the CPU as in test_oto_kernels.py."""

from __future__ import annotations

import warnings

import oto_nets as on
import pytest
import torch

from reference_impls.oto import HESSO, gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if not gpu.usable(torch.zeros(0, device=DEVICE).device, torch.float32):
    pytest.skip("there is no CUDA device, and nothing is interpreted here", allow_module_level=True)

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)


class Wrong:
    """Stands for the kernels: gives other numbers, or fails as Triton does without a compiler."""

    TYPES = gpu.kernels.TYPES

    def __init__(self, fails=None, one=""):
        self.fails, self.asked = fails, 0
        for name in ("products", "combine", "columns"):
            setattr(self, name, self if one in ("", name) else getattr(gpu.kernels, name))

    def __getitem__(self, grid):
        return self

    def __call__(self, *_, **__):
        self.asked += 1
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def untried(monkeypatch):
    """Nothing is known of any device; the one that is here."""
    monkeypatch.setattr(gpu, "_works", {})
    return torch.zeros(0, device=DEVICE).device


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Wrong(RuntimeError("Failed to find C compiler")), "Failed to find C compiler"),
        (Wrong(one="products"), "other numbers"),
        (Wrong(one="combine"), "other numbers"),
    ],
    ids=["fails", "products", "combine"],
)
def test_kernels_that_do_not_work_are_left_alone(wrong, said, untried, monkeypatch):
    assert gpu.usable(untried, torch.float64)
    monkeypatch.setattr(gpu, "kernels", wrong)
    with pytest.warns(UserWarning, match=said):
        assert not gpu.usable(untried, torch.float32)
    assert not gpu.usable(untried, torch.float32)  # said once
    assert gpu.usable(untried, torch.float64)


def test_a_warning_that_is_an_error_is_raised_once(untried, monkeypatch):
    monkeypatch.setattr(gpu, "kernels", Wrong(RuntimeError("no compiler")))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="no compiler"):
            gpu.usable(untried, torch.float32)
    assert not gpu.usable(untried, torch.float32)
    assert gpu.kernels.asked == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:20]}",
)
def test_what_is_wrong_with_the_gpu_says_nothing_of_the_kernels(error, untried, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "kernels", Wrong(error))
        with pytest.raises(type(error)):
            gpu.usable(untried, torch.float32)
    assert gpu.usable(untried, torch.float32)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@dtypes
def test_the_trial_does_not_depend_on_the_default_dtype(dtype, default, untried):
    torch.set_default_dtype(default)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert gpu.usable(untried, dtype)
    finally:
        torch.set_default_dtype(torch.float32)


def test_kernels_are_tried_when_an_optimizer_is_made(untried):
    """Before its first step, and once."""
    on.wrapped(HESSO, on.net().to(DEVICE), "momentum", start_step=5, pruning_steps=6, periods=2)
    assert gpu._works == {(untried, torch.float64): True}
