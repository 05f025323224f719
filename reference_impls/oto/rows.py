"""Group vectors as they lie in a model's tensors: their dot products, and writing to whole vectors at once.

A group's vector x_g is everything `conformance.zero` sets to zero when the group leaves. Every function here
walks over tensors, never over groups: one pass a tensor gives a line of figures (one a position), and one
segmented sum turns all lines into a figure a group.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conformance.method.units import Units
from reference_impls.oto import gpu
from reference_impls.oto.layout import Place, plain, seen

Where = slice | torch.Tensor
"""Consecutive rows (positions in dimension 0) of a tensor, or picked ones."""

_CACHED = 1 << 18
"""Elements of two tensors that stay in a core's cache together (two of 1 MB)."""

_RUN = 1 << 13
"""Bytes of consecutive rows from which on a core writes zeros run by run faster than row by row."""

_WIDE = 128
"""Elements of a row from which on matrix products add them up faster."""

_MOST = 0.9
"""Up to which share of its positions picking them out is less work than taking all."""


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter whose positions belong to group vectors; groups holds numbers, 0 for none.

    alone says that no other dimension of the same parameter has a member. picks are the rows that are looked at
    (int64, on the tensor's device), None for all; groups has an entry for each of them.
    """

    name: str
    tensor: torch.Tensor
    dim: int
    groups: npt.NDArray[np.int64]
    alone: bool
    picks: torch.Tensor | None = None

    @property
    def shape(self) -> list[int]:
        """Of one figure a position, to broadcast against the tensor."""
        return [-1 if dim == self.dim else 1 for dim in range(self.tensor.ndim)]

    def of(self, flags: npt.NDArray[np.bool_]) -> Member:
        """The same member, only rows of groups that are flagged; all of them where that is most."""
        # Columns, and rows of one number, are not worth picking out.
        places = np.flatnonzero(flags[self.groups])
        if self.dim or self.tensor.ndim == 1 or places.size > _MOST * self.groups.size:
            return self
        picks = torch.from_numpy(places).to(self.tensor.device)
        return dataclasses.replace(self, groups=self.groups[places], picks=picks)

    def rows(self) -> npt.NDArray[np.int64]:
        """The positions that are looked at, one for each entry of `groups`."""
        return np.arange(self.groups.size) if self.picks is None else self.picks.cpu().numpy()

    def pieces(self) -> list[Where]:
        """The tensor's rows, on a CPU so few at a time that what is computed of them stays in a core's cache."""
        rows = self.tensor.shape[0] if self.picks is None else self.picks.numel()
        step = max(rows, 1)
        if self.tensor.device.type == "cpu":
            step = max(_CACHED // max(self.tensor.numel() // max(self.tensor.shape[0], 1), 1) // 2 * 2, 2)
        if self.picks is not None:
            return list(torch.split(self.picks, step))
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def take(self, tensor: torch.Tensor, where: Where) -> torch.Tensor:
        """These rows of a tensor of the member's shape: a view of a slice, a copy of picks."""
        return tensor[where] if isinstance(where, slice) else tensor.index_select(0, where)

    def take_into(self, tensor: torch.Tensor, where: Where, out: torch.Tensor) -> torch.Tensor:
        """A copy of these rows in `out`."""
        if isinstance(where, slice):
            return out.copy_(tensor[where])
        return torch.index_select(tensor, 0, where, out=out)

    def whole(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Figures of all pieces as one line: rows follow each other, columns add up."""
        if len(parts) == 1:
            return parts[0]
        return torch.stack(list(parts)).sum(0) if self.dim else torch.cat(list(parts))


class Lines:
    """Some members, and the way from figures a position to figures a group and back.

    Figures for groups have shape (count + 1,), entry 0 zero, in float32 (float64 where a parameter is). Sums run
    in a fixed order on every device, so that processes that train together see the same bits.
    """

    def __init__(self, members: Sequence[Member], count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.members, self.count, self.dtype, self.device = list(members), count, dtype, device
        groups = [member.groups for member in self.members]
        self.sizes = [line.size for line in groups]
        """How many positions each member has."""
        self._index = torch.from_numpy(np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64)).to(device)
        self._order = torch.argsort(self._index, stable=True)
        self._lengths = torch.bincount(self._index, minlength=count + 1)
        self._shapes = [member.shape for member in self.members]

    def zeros(self) -> torch.Tensor:
        """A figure for every group."""
        return torch.zeros(self.count + 1, dtype=self.dtype, device=self.device)

    def line(self, count: int) -> torch.Tensor:
        """So many long lines: unwritten, of shape (count, positions)."""
        return torch.empty(count, sum(self.sizes), dtype=self.dtype, device=self.device)

    def joined(self, lines: Sequence[torch.Tensor]) -> torch.Tensor:
        """One line a member, in their order, as one long line."""
        if not lines:
            return torch.zeros(0, dtype=self.dtype, device=self.device)
        return torch.cat([one if one.dtype is self.dtype else one.to(self.dtype) for one in lines])

    def repeated(self, figures: Sequence[float]) -> torch.Tensor:
        """One number a member as a long line. Only these numbers are sent to a GPU, and nothing waits for it."""
        return gpu.sent(torch.tensor(figures, dtype=self.dtype), self.device).index_select(0, self._owners)

    @functools.cached_property
    def _owners(self) -> torch.Tensor:
        """Of each position its member's number."""
        return torch.from_numpy(np.repeat(np.arange(len(self.sizes)), self.sizes)).to(self.device)

    def shared(self, figures: Sequence[float]) -> torch.Tensor | float:
        """One number a member: itself where it is the same for all, else as a long line."""
        return figures[0] if len(set(figures)) == 1 else self.repeated(figures)

    def total(self, line: torch.Tensor) -> torch.Tensor:
        """A long line summed up a group."""
        return self.totals([line])[0]

    def totals(self, lines: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Long lines, each summed up a group."""
        total = torch.segment_reduce(
            torch.stack(list(lines), 1)[self._order], "sum", lengths=self._lengths, unsafe=True
        )
        total[0] = 0
        return total.t().contiguous().unbind()

    def gather(self, lines: Sequence[torch.Tensor]) -> torch.Tensor:
        """One line a member, in their order, summed up a group."""
        return self.total(self.joined(lines))

    def line_of(self, figures: torch.Tensor) -> torch.Tensor:
        """A figure a group as one a position: a long line."""
        return figures[self._index]

    def spread(
        self, figures: torch.Tensor, times: torch.Tensor | float = 1.0, plus: torch.Tensor | float = 0.0
    ) -> list[torch.Tensor]:
        """A figure a group as one a position, for each member shaped to broadcast against its tensor.

        times and plus are a factor and a summand, for all positions or long lines.
        """
        line = self.line_of(figures)
        if isinstance(times, torch.Tensor) or times != 1:
            line = line * times
        if isinstance(plus, torch.Tensor) or plus:
            line = line + plus
        return list(self.shaped(line, range(len(self.members))).values())

    def shaped(self, line: torch.Tensor, wanted: Iterable[int]) -> dict[int, torch.Tensor]:
        """Of a long line the parts of some members, by their numbers, each as in `spread`."""
        parts, found = torch.split(line, self.sizes), {}
        for number in wanted:
            part, dtype, shape = parts[number], self.members[number].tensor.dtype, self._shapes[number]
            found[number] = part.view(shape) if part.dtype is dtype else part.to(dtype).view(shape)
        return found

    def tensors(self) -> list[torch.Tensor]:
        """The members' own."""
        return [member.tensor.detach() for member in self.members]

    def squares(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Sums of squares at each position, of one tensor a member, of its shape."""
        return self.dots(tensors, tensors)

    def dots(self, ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Sums of products at each position, of two tensors a member, of its shape."""
        found: list[torch.Tensor] = []
        flat = iter(self._flat(ones, others))
        for member, one, other in zip(self.members, ones, others, strict=True):
            if member.tensor.ndim == 1:
                found.append(next(flat))
                continue
            parts = []
            for where in member.pieces():
                part = member.take(one, where)
                parts.append(row_dots(part, part if one is other else member.take(other, where), member.dim))
            found.append(member.whole(parts))
        return found

    def _flat(self, ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """`dots` of the members of one dimension, all at once: there are many, and all are short."""
        places = [place for place, member in enumerate(self.members) if member.tensor.ndim == 1]
        if not places:
            return ()
        one, other = (torch.cat([some[place] for place in places]).to(self.dtype) for some in (ones, others))
        lines: Sequence[torch.Tensor] = torch.split(one * other, [self.sizes[place] for place in places])
        return lines

    def grams(
        self, ones: Sequence[torch.Tensor], others: Iterable[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """<one, one>, <one, other> and <other, other> of every group; of `others` one is there at a time."""
        found: list[list[torch.Tensor]] = [[], [], []]
        for member, one, other in zip(self.members, ones, others, strict=True):
            parts: list[list[torch.Tensor]] = [[], [], []]
            for where in member.pieces():
                part, another = member.take(one, where), member.take(other, where)
                parts[0].append(row_dots(part, part, member.dim))
                parts[1].append(row_dots(part, another, member.dim))
                parts[2].append(row_dots(another, another, member.dim))
            for lines, some in zip(found, parts, strict=True):
                lines.append(member.whole(some))
        first, cross, last = (self.gather(lines) for lines in found)
        return first, cross, last

    def with_groups(self, flags: npt.NDArray[np.bool_]) -> Lines:
        """Only what holds one of these groups."""
        found = [member.of(flags) for member in self.members if flags[member.groups].any()]
        return Lines(found, self.count, self.dtype, self.device)


def row_dots(one: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """Products added up over all dimensions but one."""
    if one.dtype in (torch.float16, torch.bfloat16):
        one, other = one.float(), other.float()
    if one.ndim == 1:
        return one * other
    others = [index for index in range(one.ndim) if index != dim]
    rows = one.shape[0]
    if one is other and not dim:
        norms: torch.Tensor = torch.linalg.vector_norm(one, dim=others)
        return norms.square_()
    if (
        dim
        or rows % 2
        or one.numel() < _WIDE * rows
        or one.device.type != "cpu"
        or not (one.is_contiguous() and other.is_contiguous())
    ):
        return (one * other).sum(others)
    # Pairs of rows as matrices: the matrix product reads both once, without a temporary of their size. Half of
    # its four results are not wanted, and still it is faster.
    pairs, twins = one.view(rows // 2, 2, -1), other.view(rows // 2, 2, -1)
    return torch.bmm(pairs, twins.transpose(1, 2)).diagonal(dim1=1, dim2=2).reshape(rows)


def row_grams(pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Products of two tensors' rows with themselves and each other: <a, a>, <a, b> and <b, b> of pair = (a, b)."""
    flat = pair.flatten(2)  # one matrix product of 2 x n by n x 2 a row
    found = torch.bmm(flat.transpose(0, 1), flat.permute(1, 2, 0))
    return found[:, 0, 0], found[:, 0, 1], found[:, 1, 1]


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
        for place, dtype in {(tensor.device, tensor.dtype): None for tensor in units.tensors.values()}:
            gpu.usable(place, dtype)  # tried now rather than in the middle of a run

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
    if not plain(tensor) or dim or tensor.ndim < 2 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return tensor
    flat = tensor.detach().view(tensor.shape[0], -1)
    for dtype in (torch.complex128, torch.float64):
        times = dtype.itemsize // tensor.element_size()
        aligned = flat.storage_offset() % times == 0 and flat.data_ptr() % dtype.itemsize == 0
        if times > 1 and flat.shape[1] % times == 0 and aligned:
            return flat.view(dtype)
    return flat


class Prepared:
    """Places, and what was made ready for them: anew when the memory of one of their tensors was exchanged."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = list(places)
        self._prepare()

    def _prepare(self) -> None:
        self._seen = [seen(tensor) for tensor, _, _ in self._places]
        tables, self._rest = gpu.tables(self._places)
        self._tables = [(table, torch.zeros(table.count, dtype=table.sums, device=table.device)) for table in tables]

    def _ready(self) -> None:
        if self._seen != [seen(tensor) for tensor, _, _ in self._places]:
            self._prepare()


class Fills(Prepared):
    """Places to be set to zero after every step, prepared once."""

    def _prepare(self) -> None:
        super()._prepare()
        self._runs: list[torch.Tensor] = []
        self._scattered: list[Place] = []
        for tensor, dim, positions in reversed(self._rest):  # what was stepped last is in the cache still
            if not plain(tensor):  # a view of it need not follow it to other memory
                self._scattered.append((tensor, dim, positions))
                continue
            line = positions.cpu().numpy()
            starts = np.flatnonzero(np.diff(line, prepend=-2) != 1)
            long = (
                tensor.device.type == "cpu"
                and not dim
                and tensor.nbytes * line.size >= _RUN * len(tensor) * starts.size
            )
            if 8 * starts.size > line.size and not long:
                self._scattered.append((_widest(tensor.detach(), dim), dim, positions))
                continue
            for first, length in zip(line[starts], np.diff(np.append(starts, line.size)), strict=True):
                self._runs.append(tensor.detach().narrow(dim, int(first), int(length)))

    def run(self) -> None:
        """Write the zeros."""
        self._ready()
        for table, zeros in self._tables:
            table.combine(zeros)
        for view, dim, positions in self._scattered:
            view.index_fill_(dim, positions, 0)
        if self._runs:
            torch._foreach_zero_(self._runs)


class Scales(Prepared):
    """Places that hold floating-point numbers, to be multiplied by a factor step after step, prepared once."""

    def __init__(self, places: Iterable[Place]) -> None:
        super().__init__(place for place in places if place[0].is_floating_point())

    def run(self, factor: float) -> None:
        """Multiply."""
        self._ready()
        for table, factors in self._tables:
            table.combine(factors.fill_(factor))
        for tensor, dim, positions in self._rest:
            tensor.index_copy_(dim, positions, tensor.index_select(dim, positions).mul_(factor))


def numbers(flags: torch.Tensor) -> npt.NDArray[np.int64]:
    """Group numbers that are set, ascending."""
    return np.flatnonzero(flags.cpu().numpy())
