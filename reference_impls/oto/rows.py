"""Group vectors as they lie in a model's tensors: their dot products, and writing to whole vectors at once.

A group's vector x_g is everything `conformance.zero` sets to zero when the group leaves. Every function here
walks over tensors, never over groups: one pass a tensor gives a line of figures (one a position), and one
segmented sum turns all lines into a figure a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conformance.method.units import Units

Place = tuple[torch.Tensor, int, torch.Tensor]
"""A tensor, one of its dimensions, and positions in it (int64, on the tensor's device)."""

_CHUNK = 1 << 17
"""Elements of a product that are added up before the next are formed: they stay in a core's cache."""


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter whose positions belong to group vectors; index holds group numbers, 0 for none.

    alone says that no other dimension of the same parameter has a member.
    """

    name: str
    tensor: torch.Tensor
    dim: int
    index: torch.Tensor
    alone: bool

    def spread(self, figures: torch.Tensor) -> torch.Tensor:
        """A figure a group as one a position, shaped to broadcast against the tensor."""
        shape = [1] * self.tensor.ndim
        shape[self.dim] = -1
        return figures[self.index].to(self.tensor.dtype).view(shape)


class Rows:
    """The group vectors of a partition, over one module's parameters.

    Figures for groups have shape (count + 1,), entry 0 zero, in float32 (float64 where a parameter is). Sums run
    in a fixed order on every device, so that processes that train together see the same bits.
    """

    def __init__(self, units: Units) -> None:
        """Bind to the tensors of `units`."""
        self.units = units
        self.count = units.count
        slices = units.members("zeroed")
        device = next(iter(units.tensors.values())).device if units.tensors else torch.device("cpu")
        self.device = device
        names = [item.name for item in slices]
        self.members = [
            Member(
                item.name,
                units.tensors[item.name],
                item.dim,
                torch.from_numpy(item.rows("zeroed")).to(device),
                names.count(item.name) == 1,
            )
            for item in slices
        ]
        index = torch.cat([member.index for member in self.members]) if self.members else torch.zeros(0).long()
        self._order = torch.argsort(index, stable=True)
        self._lengths = torch.bincount(index, minlength=self.count + 1)
        wide = any(member.tensor.dtype is torch.float64 for member in self.members)
        self.dtype = torch.float64 if wide else torch.float32
        self.parameters = list({id(member.tensor): member.tensor for member in self.members}.values())
        self._products: dict[torch.dtype, torch.Tensor] = {}

    def zeros(self) -> torch.Tensor:
        """A figure for every group."""
        return torch.zeros(self.count + 1, dtype=self.dtype, device=self.device)

    def gather(self, lines: Sequence[torch.Tensor]) -> torch.Tensor:
        """One line a member, in their order, summed up a group."""
        if not self.members:
            return self.zeros()
        line = torch.cat([one.to(self.dtype) for one in lines])
        total = torch.segment_reduce(line[self._order], "sum", lengths=self._lengths, unsafe=True)
        total[0] = 0
        return total

    def squares(self, member: Member, tensor: torch.Tensor | None = None) -> torch.Tensor:
        """Sum of squares at each position of a member, of its own tensor or one of the same shape."""
        value = (member.tensor if tensor is None else tensor).detach()
        if value.ndim == 1:
            return value.to(self.dtype).square()
        if value.dtype in (torch.float16, torch.bfloat16):
            value = value.float()
        others = [dim for dim in range(value.ndim) if dim != member.dim]
        return torch.linalg.vector_norm(value, dim=others).square_()

    def dots(self, member: Member, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Sum of products at each position, of two tensors of the member's shape."""
        one, other = one.detach(), other.detach()
        if one.ndim == 1:
            return one.to(self.dtype) * other.to(self.dtype)
        if one.dtype in (torch.float16, torch.bfloat16):
            one, other = one.float(), other.float()
        if member.dim or not (one.is_contiguous() and other.is_contiguous()) or one.device.type != "cpu":
            others = [dim for dim in range(one.ndim) if dim != member.dim]
            return (one * other).sum(others)
        return self._chunked(one.view(one.shape[0], -1), other.view(one.shape[0], -1))

    def _chunked(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        rows, width = one.shape
        some = max(1, _CHUNK // max(width, 1))
        products = self._products.get(one.dtype)
        if products is None or products.numel() < some * width:
            products = self._products[one.dtype] = one.new_empty(max(some * width, _CHUNK))
        total = one.new_empty(rows)
        for start in range(0, rows, some):
            end = min(start + some, rows)
            product = products[: (end - start) * width].view(end - start, width)
            torch.mul(one[start:end], other[start:end], out=product)
            torch.sum(product, 1, out=total[start:end])
        return total

    def norms(self) -> torch.Tensor:
        """Euclidean norm of each group's vector."""
        return self.gather([self.squares(member) for member in self.members]).sqrt_()

    def places(self, groups: npt.ArrayLike) -> list[Place]:
        """Where the vectors of these groups lie, in parameters and in buffers."""
        tensors = self.units.tensors
        return [(tensors[name], dim, positions) for name, dim, positions in self.units.rows_of(groups)]


def fill_(places: Iterable[Place]) -> None:
    """Set every place to zero."""
    with torch.no_grad():
        for tensor, dim, positions in places:
            _widest(tensor, dim).index_fill_(dim, positions, 0)


def _widest(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """The same memory in larger elements where rows allow it: zero is zero in all of them, and fewer are written."""
    if dim or tensor.ndim < 2 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return tensor
    flat = tensor.detach().view(tensor.shape[0], -1)
    for dtype in (torch.complex128, torch.float64):
        times = dtype.itemsize // tensor.dtype.itemsize
        if times > 1 and flat.shape[1] % times == 0 and flat.storage_offset() % times == 0:
            return flat.view(dtype)
    return flat


def scale_(places: Iterable[Place], factor: float) -> None:
    """Multiply every place that holds floating-point numbers by a factor."""
    with torch.no_grad():
        for tensor, dim, positions in places:
            if tensor.is_floating_point():
                tensor.index_copy_(dim, positions, tensor.index_select(dim, positions).mul_(factor))


def numbers(flags: torch.Tensor) -> npt.NDArray[np.int64]:
    """Group numbers that are set, ascending."""
    return np.flatnonzero(flags.cpu().numpy())


def unique_copies(tensors: Iterable[torch.Tensor], into: dict[int, torch.Tensor] | None = None) -> dict[int, torch.Tensor]:
    """A copy of each tensor by its id; buffers of an earlier call are used again."""
    found = {} if into is None else into
    for tensor in tensors:
        held = found.get(id(tensor))
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype or held.device != tensor.device:
            found[id(tensor)] = tensor.detach().clone(memory_format=torch.preserve_format)
        else:
            held.copy_(tensor.detach())
    return found


Direction = Callable[[Member], "torch.Tensor | None"]
"""The direction d of a member's tensor (a step of length lr goes along -d), or None where it is zero."""
