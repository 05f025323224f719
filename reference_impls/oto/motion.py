"""What a step of the base has done to some members, known without a second copy of the model where that can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from reference_impls.oto.layout import seen
from reference_impls.oto.rows import Lines, Member, Where, row_dots, row_grams

Bound = dict[int, tuple[torch.Tensor | None, float]]
"""For parameters, by id, whose step is x - lr * b: what says b (None: the base's momentum buffer), and lr."""

Figures = float | torch.Tensor
"""One for all positions, or a long line of them."""


class Memory:
    """What every step needs again, held from one to the next: copies of parameters, and room for one piece.

    Memory that is allocated for every piece is handed back to the system in between, and each page of it then
    costs a fault: more time than the arithmetic.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[int, int], torch.Tensor] = {}
        self._room: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def copy(self, member: Member) -> torch.Tensor:
        """Room for one of a parameter, or of its picked positions, laid out as it is. Good until its next copy."""
        tensor, key = member.tensor.detach(), (id(member.tensor), member.dim)
        held = self._copies.get(key)
        like = tensor if member.picks is None else tensor.narrow(0, 0, member.picks.numel())
        if held is None or _unlike(held, like):
            held = self._copies[key] = torch.empty_like(like)
        return held

    def room(self, tensor: torch.Tensor, count: int, rows: int) -> torch.Tensor:
        """Unwritten memory for `count` times so many rows of a tensor. Valid until the next call."""
        size = (count, rows, *tensor.shape[1:])
        key, number = (tensor.dtype, tensor.device), math.prod(size)
        held = self._room.get(key)
        if held is None or held.numel() < number:
            held = self._room[key] = tensor.new_empty(number)
        return held[:number].view(size)


def _unlike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether one cannot hold what the other does."""
    pairs = [(some.shape, some.stride(), some.dtype, some.device) for some in (one, other)]
    return pairs[0] != pairs[1]


class Steps(Protocol):
    """What is known of the steps of a base: see `stepping.Stepping`."""

    def shifts(self, *, penalised: bool = False) -> Bound:
        """Before a step: for parameters whose step will be x - lr * b, what says b, and lr, by id."""
        ...

    def buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        """b of a parameter after a step, where nothing else says it."""
        ...


@dataclass(frozen=True)
class Products:
    """Long lines of <x_new, x_new>, <x_new, moved> and <moved, moved>, and the scale of `moved`.

    x_old = x_new + scale * moved.
    """

    new: torch.Tensor
    cross: torch.Tensor
    length: torch.Tensor
    scale: Figures


class Motion:
    """Asked after each step of the base what it has done to these members; told before it (`before`).

    Members of parameters whose step is x - lr * b follow from the step itself; of the others the old values are
    copied, only at the positions that are looked at.
    """

    def __init__(self, lines: Lines, memory: Memory) -> None:
        """For these members, to be used step after step; `lines` here has those of one dimension first."""
        members = sorted(lines.members, key=lambda member: member.tensor.ndim != 1)
        self.lines, self.memory = Lines(members, lines.count, lines.dtype, lines.device), memory
        self._figures = self.lines.line(3)
        self._lines = list(zip(*(torch.split(line, self.lines.sizes) for line in self._figures), strict=True))
        self._vectors = [number for number, member in enumerate(members) if member.tensor.ndim == 1]
        self._matrices = [number for number, member in enumerate(members) if member.tensor.ndim != 1]
        self._short = self._figures[:, : sum(self.lines.sizes[: len(self._vectors)])]
        self._rows = [None if member.dim else member.rows() for member in members]
        self._flats: dict[int, tuple[Any, tuple[Any, ...] | None]] = {}
        self._known: Bound = {}
        self._buffer: Callable[[torch.Tensor], torch.Tensor] = _unasked
        self._copies: list[torch.Tensor | None] = [None] * len(members)

    def before(self, stepping: Steps, *, penalised: bool = False) -> None:
        """Copy what has to be copied before a step; in a penalised one gradients have penalty and decay in them."""
        self._known, self._buffer = stepping.shifts(penalised=penalised), stepping.buffer
        whole: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for number, member in enumerate(self.lines.members):
            key = id(member.tensor)
            if member.alone and key in self._known:
                self._copies[number] = None
            elif member.picks is None and key in whole:
                self._copies[number] = whole[key][0]
            else:
                held = self._copies[number] = self.memory.copy(member)
                if member.picks is None:
                    whole[key] = held, member.tensor.detach()
                else:
                    torch.index_select(member.tensor.detach(), 0, member.picks, out=held)
        if whole:
            helds, tensors = zip(*whole.values(), strict=True)
            torch._foreach_copy_(helds, tensors)

    def forget(self) -> None:
        """Let go of gradients that told what a step was: until the next step nothing else need hold them."""
        if any(told is not None for told, _ in self._known.values()):
            self._known, self._flats = {}, {}

    def follow(self, whole: Motion) -> None:
        """After a step that a motion over all members was told of: of some of them what it knows."""
        self._known, self._buffer = whole._known, whole._buffer
        olds = {id(member.tensor): old for member, old in zip(whole.lines.members, whole._copies, strict=True)}
        for number, member in enumerate(self.lines.members):
            old = olds[id(member.tensor)]
            picked = member.picks is not None and old is not None
            self._copies[number] = member.take(old, member.picks) if picked else old  # type: ignore[arg-type]

    def copied(self, before: dict[int, torch.Tensor]) -> None:
        """After a step: from copies of whole parameters, by id."""
        self._known = {}
        for number, member in enumerate(self.lines.members):
            old = before[id(member.tensor)]
            self._copies[number] = old if member.picks is None else member.take(old, member.picks)

    def scales(self) -> list[float]:
        """One a member: x_old = x_new + scale * moved."""
        pairs = zip(self.lines.members, self._copies, strict=True)
        return [self._known[id(member.tensor)][1] if copy is None else 1.0 for member, copy in pairs]

    def press(self, coefficient: torch.Tensor, signs: dict[int, int], decays: dict[int, float]) -> set[int]:
        """Where one launch does it: gradients get sign * (coefficient[g] + decay) * x; the ids of their parameters.

        signs and decays are by the parameter's id.
        """
        del coefficient, signs, decays
        return set()

    # -- measuring -----------------------------------------------------------------------------

    def products(self) -> Products:
        """Each tensor is read once. Valid until the next step."""
        self._measure_vectors()
        jobs = []
        for number in reversed(self._matrices):  # what was stepped last is in the cache still
            flat = self._flat(number)
            if flat is None:
                self._measure_rows(number)
            else:
                jobs.append((*flat, *(line.numpy() for line in self._lines[number])))
        if jobs:
            _compiled().run(_compiled().products, jobs)
        new, cross, length = self._figures
        return Products(new, cross, length, self.lines.shared(self.scales()))

    def squares(self) -> torch.Tensor:
        """<x, x> of each group as x is now: the same bits as a total of what `products` has of it."""
        self.copied({id(member.tensor): member.tensor.detach() for member in self.lines.members})
        return self.lines.total(self.products().new)

    def _flat(self, number: int) -> tuple[Any, ...] | None:
        """What compiled loops take of a member: x, its step or copy, rows, which of the two; None where they cannot."""
        x, copy, rows = self.lines.members[number].tensor, self._copies[number], self._rows[number]
        step = self._whole_step(number) if copy is None else copy
        now = seen(x), seen(step), copy is None
        held = self._flats.get(number)
        if held is None or held[0] != now:
            fits = rows is not None and x.device.type == "cpu" and x.dtype is self.lines.dtype is step.dtype
            found = _compiled().as_rows(x, step) if fits else None
            held = self._flats[number] = now, None if found is None else (*found, rows, copy is not None)
        return held[1]

    def _measure_vectors(self) -> None:
        """Products of all members of one dimension at once: there are many, and all are short."""
        if not self._vectors:
            return
        tensors = [self.lines.members[number].tensor.detach() for number in self._vectors]
        moved = []
        for number, tensor in zip(self._vectors, tensors, strict=True):
            copy = self._copies[number]
            moved.append(self._whole_step(number) if copy is None else copy - tensor)
        new, step = (torch.cat(some).to(self.lines.dtype) for some in (tensors, moved))
        for pair, out in zip(((new, new), (new, step), (step, step)), self._short, strict=True):
            torch.mul(*pair, out=out)

    def _measure_rows(self, number: int) -> None:
        """Products of one member, a piece at a time."""
        member = self.lines.members[number]
        parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        tensor = member.tensor.detach()
        together = not member.dim and tensor.device.type == "cpu" and tensor.element_size() > 2
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
            dots = row_dots(new, new, member.dim), row_dots(new, moved, member.dim), row_dots(moved, moved, member.dim)
            parts.append(dots)
        for line, found in zip(self._lines[number], zip(*parts, strict=True), strict=True):
            line.copy_(member.whole(list(found)))

    # -- pulling -------------------------------------------------------------------------------

    def pull(self, figures: torch.Tensor, rates: Figures) -> None:
        """x_new loses figures[g] * rate * x_old at the positions of each group g.

        To be called once: it changes what `products` would find.
        """
        factors, scales = self.lines.spread(figures, rates), self.scales()
        if self._vectors:
            new = [self.lines.members[number].tensor.detach() for number in self._vectors]
            olds = self._old_vectors(new, scales)
            torch._foreach_addcmul_(new, olds, [factors[number] for number in self._vectors], value=-1)
        jobs = []
        for number in self._matrices:  # what was measured last is
            flat = self._flat(number)
            if flat is None:
                self._pull(number, factors[number], scales[number])
            else:
                jobs.append((*flat, factors[number].flatten().numpy(), scales[number]))
        if jobs:
            _compiled().run(_compiled().pull, jobs)

    def _old_vectors(self, new: list[torch.Tensor], scales: list[float]) -> list[torch.Tensor]:
        """x_old of the members of one dimension."""
        moving = [place for place, number in enumerate(self._vectors) if self._copies[number] is None]
        found = dict(enumerate(self._copies[number] for number in self._vectors))
        if moving:
            steps = [self._whole_step(self._vectors[place]) for place in moving]
            olds = torch._foreach_mul(steps, [scales[self._vectors[place]] for place in moving])
            torch._foreach_add_(olds, [new[place] for place in moving])
            found |= dict(zip(moving, olds, strict=True))
        return [old for old in found.values() if old is not None]

    def _pull(self, number: int, factor: torch.Tensor, scale: float) -> None:
        """x_old is the copy, or x_new + scale * b, which then is not written down."""
        member, copy, done = self.lines.members[number], self._copies[number], 0
        tensor = member.tensor.detach()
        step = self._whole_step(number) if copy is None else None
        for where in member.pieces():
            count = where.stop - where.start if isinstance(where, slice) else where.numel()
            part = factor if member.dim else factor.narrow(0, done, count)
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

    # -- the step ------------------------------------------------------------------------------

    def _whole_step(self, number: int) -> torch.Tensor:
        """b of a parameter."""
        tensor = self.lines.members[number].tensor
        known, _ = self._known[id(tensor)]
        return self._buffer(tensor) if known is None else known

    def _step(self, number: int, where: Where) -> torch.Tensor:
        """b at these positions."""
        return self.lines.members[number].take(self._whole_step(number), where)

    def _pieces(self, number: int) -> Iterator[tuple[Where, torch.Tensor | None]]:
        """Positions, and what was there before; None where that follows from the step."""
        member, copy, done = self.lines.members[number], self._copies[number], 0
        for where in member.pieces():
            if copy is None:
                yield where, None
            elif isinstance(where, slice):
                yield where, member.take(copy, where)
            else:  # picks are copied in their order
                yield where, copy.narrow(0, done, where.numel())
                done += where.numel()


def _compiled() -> Any:
    """The compiled loops, imported when they are first needed: it takes half a second."""
    from reference_impls.oto import compiled

    return compiled


def _unasked(tensor: torch.Tensor) -> torch.Tensor:
    """Stands for the buffer of a step that was not announced."""
    raise RuntimeError(f"nothing is known of a step of a parameter of shape {tuple(tensor.shape)}")
