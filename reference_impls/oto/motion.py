"""What a step of the base has done to some members, known without a second copy of the model where that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from reference_impls.oto.rows import Lines, Member, Where, row_dots

Bound = dict[int, tuple[torch.Tensor | None, float]]
"""For parameters, by id, whose step is x - lr * b: what says b (None: the base's momentum buffer), and lr."""


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
    only at the positions that are looked at. buffer gives b of a parameter after the step.
    """

    lines: Lines
    known: Bound
    copies: list[torch.Tensor | None]
    buffer: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def before(
        cls,
        lines: Lines,
        known: Bound,
        buffer: Callable[[torch.Tensor], torch.Tensor],
        kept: dict[tuple[int, int], torch.Tensor],
    ) -> Motion:
        """Copy what has to be copied, into tensors `kept` from the step before where they fit."""
        copies: list[torch.Tensor | None] = []
        done: dict[int, torch.Tensor] = {}
        for member in lines.members:
            key = id(member.tensor)
            if member.alone and key in known:
                copies.append(None)
            elif member.picks is None and key in done:
                copies.append(done[key])
            else:
                copies.append(_copy(member, member.tensor.detach(), kept))
                if member.picks is None:
                    done[key] = copies[-1]  # type: ignore[assignment]
        return cls(lines, known, copies, buffer)

    @classmethod
    def of_copies(cls, lines: Lines, before: dict[int, torch.Tensor]) -> Motion:
        """From copies of whole parameters, by id."""
        whole = [before[id(member.tensor)] for member in lines.members]
        copies = [
            old if member.picks is None else member.take(old, member.picks)
            for member, old in zip(lines.members, whole, strict=True)
        ]
        return cls(lines, {}, list(copies), lambda tensor: tensor)

    def scales(self) -> list[float]:
        """One a member: x_old = x_new + scale * moved."""
        pairs = zip(self.lines.members, self.copies, strict=True)
        return [self.known[id(member.tensor)][1] if copy is None else 1.0 for member, copy in pairs]

    def products(self, *, second: bool) -> Products:
        """Each tensor is read once. second asks for <moved, moved> too."""
        found: list[list[torch.Tensor]] = [[], [], []]
        for number, member in enumerate(self.lines.members):
            parts: list[list[torch.Tensor]] = [[], [], []]
            for where, old in self._pieces(number):
                new = member.take(member.tensor.detach(), where)
                moved = self._step(number, where) if old is None else old - new
                parts[0].append(row_dots(new, new, member.dim))
                parts[1].append(row_dots(new, moved, member.dim))
                if second:
                    parts[2].append(row_dots(moved, moved, member.dim))
            for lines, some in zip(found, parts, strict=True):
                if some:
                    lines.append(member.whole(some))
        new, cross, length = (self.lines.joined(line) for line in found)
        return Products(new, cross, length, self.lines.repeated(self.scales()))

    def pull(self, factors: list[torch.Tensor | None]) -> None:
        """x_new loses factor * x_old; one tensor of factors a member, shaped to broadcast, None for nothing.

        To be called once: it changes what `products` would find.
        """
        for number, (member, factor, scale) in enumerate(zip(self.lines.members, factors, self.scales(), strict=True)):
            if factor is None:
                continue
            tensor, done = member.tensor.detach(), 0
            for where, copy in self._pieces(number):
                new = member.take(tensor, where)
                part = factor if member.dim else factor.narrow(0, done, new.shape[0])
                done += new.shape[0]
                old = torch.add(new, self._step(number, where), alpha=scale) if copy is None else copy
                if isinstance(where, slice):
                    new.addcmul_(old, part, value=-1)
                else:
                    tensor.index_add_(0, where, old * part, alpha=-1)

    def _step(self, number: int, where: Where) -> torch.Tensor:
        """b at these positions."""
        member = self.lines.members[number]
        known, _ = self.known[id(member.tensor)]
        return member.take(self.buffer(member.tensor) if known is None else known, where)

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


def _copy(member: Member, tensor: torch.Tensor, kept: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    """Of a parameter or its picked positions; memory of the step before is used again."""
    key = id(member.tensor), member.dim
    held = kept.get(key)
    size = list(tensor.shape)
    if member.picks is not None:
        size[0] = member.picks.numel()
    if held is None or list(held.shape) != size or held.dtype != tensor.dtype or held.device != tensor.device:
        held = kept[key] = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
    if member.picks is None:
        return held.copy_(tensor)
    return torch.index_select(tensor, 0, member.picks, out=held)
