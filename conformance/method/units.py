"""The groups of a model as its optimizer sees them: which entries of which parameters each group owns.

Everything here is arrays: a figure for every group is one reduction a tensor and two scatters for all of
them together, whatever the number of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from conformance.partition.groups import CONSUMERS, Groups
from conformance.subnet.state import tensor_at

Reduce = Literal["sum", "mean", "max", "prod", "first"]
Part = Literal["zeroed", "producers", "consumers", "all"]
Values = Mapping[str, torch.Tensor] | Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Slices:
    """One dimension of one parameter or buffer that groups divide among themselves.

    groups holds for each position the number of its group, 0 where it always stays. zeroed marks positions
    whose slice is zero once their group is removed (`zero` in conformance.subnet): producers always, readers
    only where nothing else makes the subnet exact. producer tells rows that make the structure from columns
    that read it. trained is False for a buffer.
    """

    name: str
    dim: int
    groups: npt.NDArray[np.int64]
    zeroed: npt.NDArray[np.bool_]
    producer: bool
    trained: bool

    def rows(self, part: Part) -> npt.NDArray[np.int64]:
        """Group number of each position that belongs to `part`, 0 elsewhere."""
        if part == "all" or (part == "producers" and self.producer) or (part == "consumers" and not self.producer):
            return self.groups
        if part == "zeroed":
            return np.where(self.zeroed, self.groups, 0)
        return np.zeros_like(self.groups)


@dataclass(frozen=True)
class Units:
    """All slices of a partition, bound to one module's tensors.

    A figure for the groups is a float tensor of shape (count + 1,), indexed by group number; entry 0 is
    unused and zero. Its dtype is that of the parameters, its device theirs.
    """

    groups: Groups
    slices: tuple[Slices, ...]
    tensors: Mapping[str, torch.Tensor]

    @property
    def count(self) -> int:
        """How many groups there are."""
        return self.groups.count

    def of(self, model: torch.nn.Module) -> Units:
        """The same slices of another module with the same state."""
        return Units(self.groups, self.slices, {name: tensor_at(model, name) for name in self.tensors})

    @cached_property
    def _parts(self) -> dict[Part, _Members]:
        trained = [item for item in self.slices if item.trained]
        device = next(iter(self.tensors.values())).device if self.tensors else torch.device("cpu")
        names: tuple[Part, ...] = ("zeroed", "producers", "consumers", "all")
        return {part: _Members.of(trained, part, self.count, device) for part in names}

    def members(self, part: Part = "zeroed") -> tuple[Slices, ...]:
        """The slices of parameters that hold a position of `part`."""
        return self._parts[part].slices

    def reduce(
        self,
        values: Values,
        part: Part = "zeroed",
        reduce: Reduce = "sum",
        only: Callable[[Slices], bool] | None = None,
        each: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The entries of each group summed up within every member tensor, then reduced over the members.

        values gives for a parameter a tensor of its shape: a mapping by name, or a function of (name,
        parameter). `first` takes the first member in the model's order. only leaves members out. each is
        applied to the sums, entry by entry, before they are reduced (`torch.abs`). A group without members has 0.
        """
        found = self._parts[part]
        if only is not None:
            found = _Members.of([item for item in found.slices if only(item)], part, self.count, found.device)
        given = values if callable(values) else (lambda name, _: values[name])
        lines = [
            _along(given(item.name, self.tensors[item.name].detach()), item.dim, torch.sum) for item in found.slices
        ]
        return found.reduce(lines, reduce, each)

    def spread(self, figures: torch.Tensor, part: Part = "zeroed") -> Iterator[tuple[str, torch.Tensor]]:
        """A figure for the groups, laid out over the parameters: for each member its name and a tensor to multiply by.

        figures has shape (count + 1,); entry 0 goes to positions that are in no group, or not in `part`. A
        parameter that groups divide along two dimensions comes twice. The tensors broadcast with the parameters.
        """
        for item, numbers in zip(self._parts[part].slices, self._numbers[part], strict=True):
            line = figures[numbers]
            yield item.name, line.reshape([-1 if dim == item.dim else 1 for dim in range(self.tensors[item.name].ndim)])

    @cached_property
    def _numbers(self) -> dict[Part, tuple[torch.Tensor, ...]]:
        return {
            part: tuple(torch.from_numpy(item.rows(part)).to(found.device) for item in found.slices)
            for part, found in self._parts.items()
        }

    def from_lines(self, lines: Mapping[tuple[str, int], torch.Tensor], reduce: Reduce = "sum") -> torch.Tensor:
        """As `reduce`, for figures that are known a position: (name, dimension) to a tensor of that size."""
        chosen = [item for item in self.slices if (item.name, item.dim) in lines]
        device = next(iter(lines.values())).device if lines else torch.device("cpu")
        found = _Members.of(chosen, "all", self.count, device)
        return found.reduce([lines[item.name, item.dim] for item in found.slices], reduce)

    def norms(self) -> torch.Tensor:
        """Euclidean norm of each group's vector: everything that is zero when the group is removed."""
        found = self._parts["zeroed"]
        lines = [
            _along(self.tensors[item.name].detach(), item.dim, torch.linalg.vector_norm).square()
            for item in found.slices
        ]
        return found.reduce(lines, "sum").sqrt()

    @cached_property
    def sizes(self) -> torch.Tensor:
        """Entries of each group's vector."""
        return self.reduce(lambda _, tensor: torch.ones_like(tensor))

    def fill_(self, removed: npt.ArrayLike) -> None:
        """Set every slice of the removed groups to zero, as `conformance.zero` does, in place."""
        gone = np.zeros(self.count + 1, dtype=bool)
        gone[np.asarray(removed, dtype=np.int64)] = True
        with torch.no_grad():
            for name, dim, positions in self._hit(gone):
                self.tensors[name].index_fill_(dim, positions, 0)

    def still_(self, removed: npt.ArrayLike) -> None:
        """Set the gradients of these groups' slices to zero, in place: clipping and momentum do not see them."""
        for name, dim, positions in self.rows_of(removed):
            grad = self.tensors[name].grad
            if grad is not None:
                grad.index_fill_(dim, positions, 0)

    def _hit(self, gone: npt.NDArray[np.bool_]) -> Iterable[tuple[str, int, torch.Tensor]]:
        for item in self.slices:
            positions = np.flatnonzero(gone[item.groups] & item.zeroed)
            if positions.size:
                yield item.name, item.dim, torch.from_numpy(positions).to(self.tensors[item.name].device)

    def rows_of(self, removed: npt.ArrayLike) -> list[tuple[str, int, torch.Tensor]]:
        """Where the vectors of these groups lie: name, dimension and positions (int64, on the tensor's device)."""
        gone = np.zeros(self.count + 1, dtype=bool)
        gone[np.asarray(removed, dtype=np.int64)] = True
        return list(self._hit(gone))


@dataclass(frozen=True)
class _Members:
    """Positions of several slices in one line, with where each adds to.

    pair numbers (slice, group) combinations; positions of one group in one slice share a pair.
    """

    slices: tuple[Slices, ...]
    pair_of: torch.Tensor
    group_of: torch.Tensor
    first: torch.Tensor
    count: int
    device: torch.device

    @classmethod
    def of(cls, slices: Iterable[Slices], part: Part, count: int, device: torch.device) -> _Members:
        kept = [(item, rows) for item in slices if (rows := item.rows(part)).any()]
        if not kept:
            nothing = torch.zeros(0, dtype=torch.int64, device=device)
            return cls((), nothing, nothing, nothing, count, device)
        member = np.repeat(np.arange(len(kept)), [rows.size for _, rows in kept])
        groups = np.concatenate([rows for _, rows in kept])
        pairs, pair_of = np.unique(member * (count + 1) + groups, return_inverse=True)
        group_of = pairs % (count + 1)
        # Pairs are ordered by member, so the first occurrence of a group is its first member.
        first = np.zeros(pairs.size, dtype=bool)
        first[np.unique(group_of, return_index=True)[1]] = True
        to = [torch.from_numpy(array).to(device) for array in (pair_of, group_of, first)]
        return cls(tuple(item for item, _ in kept), to[0], to[1], to[2], count, device)

    def reduce(
        self, lines: list[torch.Tensor], how: Reduce, each: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """One figure a group from one figure a position."""
        if not lines:
            return torch.zeros(self.count + 1, device=self.device)
        line = torch.cat(lines)
        pairs = line.new_zeros(self.group_of.numel()).index_add_(0, self.pair_of, line)
        pairs = pairs if each is None else each(pairs)
        if how == "first":
            total = line.new_zeros(self.count + 1)
            total[self.group_of[self.first]] = pairs[self.first]
        else:
            named = {"sum": "sum", "mean": "mean", "max": "amax", "prod": "prod"}[how]
            total = line.new_zeros(self.count + 1)
            total.scatter_reduce_(0, self.group_of, pairs, named, include_self=False)
        total[0] = 0
        return total


def _along(tensor: torch.Tensor, dim: int, function: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Reduce all dimensions but `dim`."""
    if tensor.ndim == 1:
        return tensor if function is torch.sum else tensor.abs()
    return function(tensor, dim=[other for other in range(tensor.ndim) if other != dim])


def units(model: torch.nn.Module, groups: Groups) -> Units:
    """The slices of every group in `model`'s own tensors (which are not copied).

    Raises SelectionError when the model's state does not have the shapes the partition was made for.
    """
    from conformance.subnet.state import check_state

    check_state(model, groups)
    by_reader = np.array([mode == CONSUMERS for mode in groups.modes])
    found: list[Slices] = []
    for index, lines in groups.state.items():
        value = groups.graph.values[index]
        for dim, labels in enumerate(lines):
            if not labels.any():
                continue
            producer, consumer = (index, dim) in groups.producer_dims, (index, dim) in groups.consumer_dims
            if not (producer or consumer):
                continue
            zeroed = (labels > 0) & (producer | by_reader[labels])
            trained = value.kind == "parameter"
            found.append(Slices(value.name, dim, labels.astype(np.int64), zeroed, producer, trained))
    names = dict.fromkeys(item.name for item in found)
    return Units(groups, tuple(found), {name: tensor_at(model, name) for name in names})
