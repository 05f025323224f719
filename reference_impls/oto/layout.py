"""How group vectors lie in tensors: places, and rows in one piece."""

from __future__ import annotations

import torch

Place = tuple[torch.Tensor, int, torch.Tensor]
"""A tensor, one of its dimensions, and positions in it (int64, on the tensor's device)."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_IMAGES = 4
"""Dimensions of a tensor that can have its channels last."""

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers are at its own address."""
    return type(tensor) in _PLAIN and tensor.layout is torch.strided


Seen = tuple[int, torch.dtype, tuple[int, ...]]


def seen(tensor: torch.Tensor) -> Seen:
    """Where a tensor lies and how: what was prepared for it holds as long as this does.

    A parameter stays the same object when its memory is exchanged (`model.to(...)`, `.data = ...`).
    """
    return (tensor.data_ptr(), tensor.dtype, tensor.stride()) if plain(tensor) else (0, tensor.dtype, ())


Laid = tuple[torch.dtype, int, bool, tuple[int, ...]]


def laid(tensor: torch.Tensor) -> Laid | None:
    """All that `rows_alike` looks at in tensors of a shape: not where they lie, which is new for every gradient."""
    return (tensor.dtype, tensor.get_device(), tensor.data_ptr() != 0, tensor.stride()) if plain(tensor) else None


def in_rows(*tensors: torch.Tensor) -> bool:
    """Whether tensors of one shape and dtype have each row in one piece, with its entries in the same order.

    A row is a position in dimension 0. Tensors that only stand for memory elsewhere (DTensor, quantised wrappers, the
    meta device) and sparse ones have no rows, whatever their strides say.
    """
    if tensors[0].dtype not in FLOATS or any(one.dtype is not tensors[0].dtype for one in tensors):
        return False
    if not all(plain(one) and (one.data_ptr() or not one.numel()) for one in tensors):
        return False
    orders = [torch.contiguous_format] + [torch.channels_last] * (tensors[0].ndim == _IMAGES)
    return any(all(one.is_contiguous(memory_format=order) for one in tensors) for order in orders)


def rows_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are `in_rows` together, of one shape and on one device."""
    return one.shape == other.shape and one.device == other.device and in_rows(one, other)
