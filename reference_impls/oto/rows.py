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

_CACHED = 1 << 17
"""Elements of two tensors that stay in a core's cache together."""


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter whose positions belong to group vectors; groups holds numbers, 0 for none.

    alone says that no other dimension of the same parameter has a member.
    """

    name: str
    tensor: torch.Tensor
    dim: int
    groups: npt.NDArray[np.int64]
    alone: bool

    @property
    def shape(self) -> list[int]:
        """Of one figure a position, to broadcast against the tensor."""
        return [-1 if dim == self.dim else 1 for dim in range(self.tensor.ndim)]


class Lines:
    """Some members, and the way from figures a position to figures a group and back.

    Figures for groups have shape (count + 1,), entry 0 zero, in float32 (float64 where a parameter is). Sums run
    in a fixed order on every device, so that processes that train together see the same bits.
    """

    def __init__(self, members: Sequence[Member], count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.members, self.count, self.dtype, self.device = list(members), count, dtype, device
        groups = [member.groups for member in self.members]
        self._sizes = [line.size for line in groups]
        self._index = torch.from_numpy(np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64)).to(device)
        self._order = torch.argsort(self._index, stable=True)
        self._lengths = torch.bincount(self._index, minlength=count + 1)
        self._shapes = [member.shape for member in self.members]

    def zeros(self) -> torch.Tensor:
        """A figure for every group."""
        return torch.zeros(self.count + 1, dtype=self.dtype, device=self.device)

    def joined(self, lines: Sequence[torch.Tensor]) -> torch.Tensor:
        """One line a member, in their order, as one long line."""
        if not lines:
            return torch.zeros(0, dtype=self.dtype, device=self.device)
        return torch.cat([one if one.dtype is self.dtype else one.to(self.dtype) for one in lines])

    def repeated(self, figures: Sequence[float]) -> torch.Tensor:
        """One number a member as a long line."""
        line = np.repeat(np.asarray(figures, dtype=np.float64), self._sizes)
        return torch.from_numpy(line).to(self.device, self.dtype)

    def total(self, line: torch.Tensor) -> torch.Tensor:
        """A long line summed up a group."""
        total = torch.segment_reduce(line[self._order], "sum", lengths=self._lengths, unsafe=True)
        total[0] = 0
        return total

    def gather(self, lines: Sequence[torch.Tensor]) -> torch.Tensor:
        """One line a member, in their order, summed up a group."""
        return self.total(self.joined(lines))

    def spread(self, figures: torch.Tensor) -> list[torch.Tensor]:
        """A figure a group as one a position, for each member shaped to broadcast against its tensor."""
        line = torch.split(figures[self._index], self._sizes)
        return [
            part.view(shape) if part.dtype is member.tensor.dtype else part.to(member.tensor.dtype).view(shape)
            for member, part, shape in zip(self.members, line, self._shapes, strict=True)
        ]

    def tensors(self) -> list[torch.Tensor]:
        """The members' own."""
        return [member.tensor.detach() for member in self.members]

    def squares(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Sums of squares at each position, of one tensor a member, of its shape; the same bits as `grams` gives."""
        found = []
        for member, tensor in zip(self.members, tensors, strict=True):
            parts = [_row_dots(part, part, member.dim) for part in _cached(tensor, member.dim)]
            found.append(parts[0] if len(parts) == 1 else torch.cat(parts))
        return found

    def dots(self, ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Sums of products at each position, of two tensors a member, of its shape."""
        pairs = zip(self.members, ones, others, strict=True)
        return [_row_dots(one, other, member.dim) for member, one, other in pairs]

    def grams(
        self, ones: Iterable[torch.Tensor], others: Iterable[torch.Tensor], *, second: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Long lines of <one, one>, <one, other> and, if `second`, <other, other>; each tensor is read once."""
        found: list[list[torch.Tensor]] = [[], [], []]
        for member, one, other in zip(self.members, ones, others, strict=True):
            for part, another in zip(_cached(one, member.dim), _cached(other, member.dim), strict=True):
                found[0].append(_row_dots(part, part, member.dim))
                found[1].append(_row_dots(part, another, member.dim))
                if second:
                    found[2].append(_row_dots(another, another, member.dim))
        first, cross, last = (self.joined(lines) for lines in found)
        return first, cross, last


def _row_dots(one: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """Products added up over all dimensions but one."""
    if one.dtype in (torch.float16, torch.bfloat16):
        one, other = one.float(), other.float()
    if one.ndim == 1:
        return one * other
    others = [index for index in range(one.ndim) if index != dim]
    if one is other:
        norms: torch.Tensor = torch.linalg.vector_norm(one, dim=others)
        return norms.square_()
    rows = one.shape[0]
    if dim or rows % 2 or one.device.type != "cpu" or not (one.is_contiguous() and other.is_contiguous()):
        return (one * other).sum(others)
    # Pairs of rows as matrices: the matrix product reads both once, without a temporary of their size. Half of
    # its four results are not wanted, and still it is faster.
    pairs, twins = one.view(rows // 2, 2, -1), other.view(rows // 2, 2, -1)
    return torch.bmm(pairs, twins.transpose(1, 2)).diagonal(dim1=1, dim2=2).reshape(rows)


def _cached(tensor: torch.Tensor, dim: int) -> Sequence[torch.Tensor]:
    """Whole rows of a tensor on the CPU, so few at a time that they stay in a core's cache."""
    if dim or tensor.ndim < 2 or tensor.device.type != "cpu" or tensor.numel() <= _CACHED:
        return (tensor,)
    rows = _CACHED // max(tensor.numel() // tensor.shape[0], 1) // 2 * 2
    parts: Sequence[torch.Tensor] = torch.split(tensor, max(rows, 2))
    return parts


class Rows(Lines):
    """The group vectors of a whole partition, over one module's parameters."""

    def __init__(self, units: Units) -> None:
        """Bind to the tensors of `units`."""
        self.units = units
        slices = units.members("zeroed")
        names = [item.name for item in slices]
        members = [
            Member(item.name, units.tensors[item.name], item.dim, item.rows("zeroed"), names.count(item.name) == 1)
            for item in slices
        ]
        wide = any(member.tensor.dtype is torch.float64 for member in members)
        device = next(iter(units.tensors.values())).device if units.tensors else torch.device("cpu")
        super().__init__(members, units.count, torch.float64 if wide else torch.float32, device)
        self.parameters = list({id(member.tensor): member.tensor for member in members}.values())

    def with_groups(self, flags: npt.NDArray[np.bool_]) -> Lines:
        """Only the members that hold one of these groups."""
        found = [member for member in self.members if flags[member.groups].any()]
        return Lines(found, self.count, self.dtype, self.device)

    def norms(self) -> torch.Tensor:
        """Euclidean norm of each group's vector."""
        return self.gather(self.squares(self.tensors())).sqrt_()

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
    """The same memory in larger elements where rows allow it: zero is zero in all of them, and fewer are written.

    Memory that was mapped from a file need not be aligned to them; writing would end the process.
    """
    if dim or tensor.ndim < 2 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return tensor
    flat = tensor.detach().view(tensor.shape[0], -1)
    for dtype in (torch.complex128, torch.float64):
        times = dtype.itemsize // tensor.element_size()
        aligned = flat.storage_offset() % times == 0 and flat.data_ptr() % dtype.itemsize == 0
        if times > 1 and flat.shape[1] % times == 0 and aligned:
            return flat.view(dtype)
    return flat


class Fills:
    """Places to be set to zero after every step, prepared once."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = list(places)
        self._prepare()

    def _prepare(self) -> None:
        self._pointers = [tensor.data_ptr() for tensor, _, _ in self._places]
        self._runs: list[torch.Tensor] = []
        self._scattered: list[Place] = []
        for tensor, dim, positions in self._places:
            line = positions.cpu().numpy()
            starts = np.flatnonzero(np.diff(line, prepend=-2) != 1)
            if 8 * starts.size > line.size:
                self._scattered.append((_widest(tensor.detach(), dim), dim, positions))
                continue
            for first, length in zip(line[starts], np.diff(np.append(starts, line.size)), strict=True):
                self._runs.append(tensor.detach().narrow(dim, int(first), int(length)))

    def run(self) -> None:
        """Write the zeros. A parameter whose memory was exchanged is found again."""
        if self._pointers != [tensor.data_ptr() for tensor, _, _ in self._places]:
            self._prepare()
        for view, dim, positions in self._scattered:
            view.index_fill_(dim, positions, 0)
        for run in self._runs:
            run.zero_()


def scale_(places: Iterable[Place], factor: float) -> None:
    """Multiply every place that holds floating-point numbers by a factor."""
    with torch.no_grad():
        for tensor, dim, positions in places:
            if tensor.is_floating_point():
                tensor.index_copy_(dim, positions, tensor.index_select(dim, positions).mul_(factor))


def numbers(flags: torch.Tensor) -> npt.NDArray[np.int64]:
    """Group numbers that are set, ascending."""
    return np.flatnonzero(flags.cpu().numpy())


def unique_copies(
    tensors: Iterable[torch.Tensor], into: dict[int, torch.Tensor] | None = None
) -> dict[int, torch.Tensor]:
    """A copy of each tensor by its id; buffers of an earlier call are used again."""
    found = {} if into is None else into
    for tensor in tensors:
        held = found.get(id(tensor))
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype or held.device != tensor.device:
            found[id(tensor)] = tensor.detach().clone(memory_format=torch.preserve_format)
        else:
            held.copy_(tensor.detach())
    return found


Direction = Callable[[Member], torch.Tensor]
"""The direction d of a member's tensor: a step of length lr goes along -d."""
