"""What a step of the base has done to some members, known without a second copy of the model where that can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import torch

from reference_impls.oto.rows import Lines, Member, Where, row_dots, row_grams

Bound = dict[int, tuple[torch.Tensor | None, float]]
"""For parameters, by id, whose step is x - lr * b: what says b (None: the base's momentum buffer), and lr."""

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A member's lines of <x_new, x_new>, <x_new, moved> and <moved, moved>."""


class Memory:
    """What every step needs again, held from one to the next: copies of parameters, and room for one piece.

    Memory that is allocated for every piece is handed back to the system in between, and each page of it then
    costs a fault: more time than the arithmetic.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[int, int], torch.Tensor] = {}
        self._room: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def copy(self, member: Member, *, fill: bool = True) -> torch.Tensor:
        """Of a parameter, or of its picked positions; unwritten unless it is to `fill`. Good until its next copy."""
        tensor, key = member.tensor.detach(), (id(member.tensor), member.dim)
        held = self._copies.get(key)
        size = list(tensor.shape)
        if member.picks is not None:
            size[0] = member.picks.numel()
        if held is None or list(held.shape) != size or held.dtype != tensor.dtype or held.device != tensor.device:
            held = self._copies[key] = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
        if not fill:
            return held
        if member.picks is None:
            return held.copy_(tensor)
        return torch.index_select(tensor, 0, member.picks, out=held)

    def room(self, tensor: torch.Tensor, count: int, rows: int) -> torch.Tensor:
        """Unwritten memory for `count` times so many rows of a tensor. Valid until the next call."""
        size = (count, rows, *tensor.shape[1:])
        key, number = (tensor.dtype, tensor.device), math.prod(size)
        held = self._room.get(key)
        if held is None or held.numel() < number:
            held = self._room[key] = tensor.new_empty(number)
        return held[:number].view(size)


@dataclass(frozen=True)
class Products:
    """Long lines of <x_new, x_new>, <x_new, moved> and <moved, moved>, and the scale of `moved` at each position.

    x_old = x_new + scale * moved. The last of the three is empty where it was not asked for.
    """

    new: torch.Tensor
    cross: torch.Tensor
    length: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class Motion:
    """Made before the base's step, to be asked after it.

    Members of parameters in `known` follow from the step itself; of the others the old values are copied,
    only at the positions that are looked at. buffer gives b of a parameter after the step. later are the numbers
    of members whose copies, if any, and products are left to whom steps them; measured holds those products.
    """

    lines: Lines
    known: Bound
    copies: list[torch.Tensor | None]
    buffer: Callable[[torch.Tensor], torch.Tensor]
    memory: Memory
    later: tuple[int, ...] = ()
    measured: dict[int, Three] = field(default_factory=dict)

    @classmethod
    def before(
        cls,
        lines: Lines,
        known: Bound,
        buffer: Callable[[torch.Tensor], torch.Tensor],
        memory: Memory,
        stepped: Collection[int] = (),
    ) -> Motion:
        """Copy what has to be copied; large members of parameters in `stepped`, by id, are left to whom steps those."""
        picked = {id(member.tensor) for member in lines.members if member.picks is not None}
        copies: list[torch.Tensor | None] = []
        done: dict[int, torch.Tensor] = {}
        later = []
        for number, member in enumerate(lines.members):
            key = id(member.tensor)
            left = member.tensor.ndim > 1 and key in stepped and key not in picked
            if left:
                later.append(number)
            # What moves a stepped parameter is its buffer or nothing that lasts.
            if member.alone and key in known and (key not in stepped or known[key][0] is None):
                copies.append(None)
            elif member.picks is None and key in done:
                copies.append(done[key])
            else:
                copies.append(memory.copy(member, fill=not left))
                if member.picks is None:
                    done[key] = copies[-1]  # type: ignore[assignment]
        return cls(lines, known, copies, buffer, memory, tuple(later))

    @classmethod
    def of_copies(cls, lines: Lines, before: dict[int, torch.Tensor], memory: Memory) -> Motion:
        """From copies of whole parameters, by id."""
        whole = [before[id(member.tensor)] for member in lines.members]
        copies = [
            old if member.picks is None else member.take(old, member.picks)
            for member, old in zip(lines.members, whole, strict=True)
        ]
        return cls(lines, {}, list(copies), lambda tensor: tensor, memory)

    def scales(self) -> list[float]:
        """One a member: x_old = x_new + scale * moved."""
        pairs = zip(self.lines.members, self.copies, strict=True)
        return [self.known[id(member.tensor)][1] if copy is None else 1.0 for member, copy in pairs]

    def products(self, *, second: bool) -> Products:
        """Each tensor is read once. second asks for <moved, moved> too."""
        found = self._of_vectors() | self.measured
        for number in range(len(self.lines.members)):
            if number not in found:
                found[number] = self._of_rows(number, second=second)
        ordered = [found[number] for number in range(len(self.lines.members))]
        new, cross = (self.lines.joined([three[place] for three in ordered]) for place in (0, 1))
        length = self.lines.joined([three[2] for three in ordered] if second else [])
        return Products(new, cross, length, self.lines.repeated(self.scales()))

    def _of_vectors(self) -> dict[int, Three]:
        """Products of all members of one dimension at once: there are many, and all are short."""
        numbers = [number for number, member in enumerate(self.lines.members) if member.tensor.ndim == 1]
        if not numbers:
            return {}
        tensors = [self.lines.members[number].tensor.detach() for number in numbers]
        moved = []
        for number, tensor in zip(numbers, tensors, strict=True):
            copy = self.copies[number]
            moved.append(self._step(number, slice(None)) if copy is None else copy - tensor)
        new, step = (torch.cat(list(some)).to(self.lines.dtype) for some in (tensors, moved))
        sizes = [tensor.numel() for tensor in tensors]
        lines = [torch.split(line, sizes) for line in (new * new, new * step, step * step)]
        return {number: (lines[0][place], lines[1][place], lines[2][place]) for place, number in enumerate(numbers)}

    def _of_rows(self, number: int, *, second: bool) -> Three:
        """Products of one member, a piece at a time; the last stands for nothing unless it is asked for."""
        member, parts = self.lines.members[number], []
        tensor = member.tensor.detach()
        together = second and not member.dim and tensor.device.type == "cpu" and tensor.element_size() > 2
        for where, old in self._pieces(number):
            if together:
                count = where.stop - where.start if isinstance(where, slice) else where.numel()
                pair = self.memory.room(tensor, 2, count)
                new = member.take_into(tensor, where, pair[0])
                if old is None:
                    member.take_into(self._whole_step(number), where, pair[1])
                else:
                    torch.sub(old, new, out=pair[1])
                parts.append(row_grams(pair))
                continue
            new = member.take(tensor, where)
            moved = self._step(number, where) if old is None else old - new
            dots = row_dots(new, new, member.dim), row_dots(new, moved, member.dim)
            parts.append((*dots, row_dots(moved, moved, member.dim) if second else dots[1]))
        one, two, three = (member.whole(list(lines)) for lines in zip(*parts, strict=True))
        return one, two, three

    def pull(self, factors: list[torch.Tensor | None]) -> None:
        """x_new loses factor * x_old; one tensor of factors a member, shaped to broadcast, None for nothing.

        To be called once: it changes what `products` would find.
        """
        wanted = [number for number, factor in enumerate(factors) if factor is not None]
        scales, vectors = self.scales(), [n for n in wanted if self.lines.members[n].tensor.ndim == 1]
        if vectors:
            new = [self.lines.members[number].tensor.detach() for number in vectors]
            olds = [self._old_vector(number, scales[number]) for number in vectors]
            torch._foreach_addcmul_(
                new, olds, [factor for factor in map(factors.__getitem__, vectors) if factor is not None], value=-1
            )
        for number in reversed(wanted):  # what was stepped last is in the cache still
            if number not in vectors:
                self._pull(number, factors[number], scales[number])  # type: ignore[arg-type]

    def _old_vector(self, number: int, scale: float) -> torch.Tensor:
        copy = self.copies[number]
        if copy is not None:
            return copy
        return torch.add(self.lines.members[number].tensor.detach(), self._whole_step(number), alpha=scale)

    def _pull(self, number: int, factor: torch.Tensor, scale: float) -> None:
        """x_old is the copy, or x_new + scale * b, which then is not written down."""
        member, copied, done = self.lines.members[number], self.copies[number] is not None, 0
        tensor = member.tensor.detach()
        step = None if copied else self._whole_step(number)
        for where in member.pieces():
            count = where.stop - where.start if isinstance(where, slice) else where.numel()
            part = factor if member.dim else factor.narrow(0, done, count)
            copy = self.copies[number]
            if isinstance(where, slice):
                new = tensor[where]
                if step is None:
                    new.addcmul_(copy[where], part, value=-1)  # type: ignore[index]
                else:
                    new.mul_(1 - part).addcmul_(step[where], part, value=-scale)
            elif step is None:  # picks are copied in their order
                tensor.index_add_(0, where, copy.narrow(0, done, count) * part, alpha=-1)  # type: ignore[union-attr]
            else:
                old, moved = self.memory.room(tensor, 2, count)
                member.take_into(tensor, where, old).add_(member.take_into(step, where, moved), alpha=scale)
                tensor.index_add_(0, where, old.mul_(part), alpha=-1)
            done += count

    def _whole_step(self, number: int) -> torch.Tensor:
        """b of a parameter."""
        tensor = self.lines.members[number].tensor
        known, _ = self.known[id(tensor)]
        return self.buffer(tensor) if known is None else known

    def _step(self, number: int, where: Where) -> torch.Tensor:
        """b at these positions."""
        return self.lines.members[number].take(self._whole_step(number), where)

    def _pieces(self, number: int) -> Iterator[tuple[Where, torch.Tensor | None]]:
        """Positions, and what was there before; None where that follows from the step."""
        member, copy, done = self.lines.members[number], self.copies[number], 0
        for where in member.pieces():
            if copy is None:
                yield where, None
            elif isinstance(where, slice):
                yield where, member.take(copy, where)
            else:  # picks are copied in their order
                yield where, copy.narrow(0, done, where.numel())
                done += where.numel()
