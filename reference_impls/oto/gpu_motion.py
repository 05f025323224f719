"""Motion on a GPU: members that are rows are measured, pulled and penalised by one launch for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from reference_impls.oto import gpu
from reference_impls.oto.layout import Laid, in_rows, laid, rows_alike
from reference_impls.oto.motion import Figures, Memory, Motion, Products
from reference_impls.oto.rows import Lines, Member

Flags = npt.NDArray[np.bool_]


def motion_over(lines: Lines, memory: Memory, flags: Flags | None = None) -> Motion:
    """What steps do to members of groups that are flagged, or of all, by what the device has for it."""
    if flags is None:
        flags = np.arange(lines.count + 1) > 0
    kinds = {(member.tensor.device, member.tensor.dtype) for member in lines.members}
    if any(gpu.usable(device, dtype) for device, dtype in kinds):
        return GpuMotion(lines, flags, memory)
    return Motion(lines.with_groups(flags), memory)


class GpuMotion(Motion):
    """As Motion, over rows of groups that are flagged; figures of others are zero."""

    def __init__(self, lines: Lines, flags: Flags, memory: Memory) -> None:
        """For these members, to be used step after step."""
        found = [member for member in lines.members if flags[member.groups].any()]
        super().__init__(Lines(found, lines.count, lines.dtype, lines.device), memory)
        self._flags = flags
        self._figures.zero_()
        self._one_by_one = self._vectors, self._matrices
        self._moved, self._gradients = Pairs(self.lines), Pairs(self.lines)
        self._tables: list[tuple[gpu.Table, list[int]]] = []
        self._kinds: list[torch.dtype | None] = []

    # -- which members the kernels can take -------------------------------------------------------

    def _arranged(self) -> list[torch.Tensor | None]:
        """Of each member that the kernels can take what moved it or its copy; None of those left to Motion."""
        gpu.not_captured()
        steps = [self._whole_step(number) if copy is None else copy for number, copy in enumerate(self._copies)]
        fits, changed = self._moved.fits(steps)
        if changed:
            self._arrange(self._moved.kinds)
        vectors, matrices = self._one_by_one
        if not all(fits[number] for number in vectors):  # they are measured together
            for number in vectors:
                fits[number] = False
        self._vectors = [number for number in vectors if not fits[number]]
        self._matrices = [number for number in matrices if not fits[number]]
        return [step if fit else None for step, fit in zip(steps, fits, strict=True)]

    def _arrange(self, kinds: list[torch.dtype | None]) -> None:
        """Tables of all that have a kind, one a dtype: they stay while gradients come and go."""
        if kinds != self._kinds:
            self._kinds, self._tables = list(kinds), self._tables_of(kinds)

    def _tables_of(self, kinds: list[torch.dtype | None]) -> list[tuple[gpu.Table, list[int]]]:
        """Each with the members' numbers."""
        starts = itertools.accumulate(self.lines.sizes, initial=0)
        found: dict[torch.dtype, list[tuple[int, gpu.Item]]] = {}
        for number, (member, start, kind) in enumerate(zip(self.lines.members, starts, kinds, strict=False)):
            if kind is not None:
                rows = np.flatnonzero(self._flags[member.groups])
                found.setdefault(kind, []).append((number, gpu.Item(member.tensor, rows, start + rows)))
        return [(gpu.Table([item for _, item in some]), [number for number, _ in some]) for some in found.values()]

    # -- what Motion does -------------------------------------------------------------------------

    def products(self) -> Products:
        """One launch, and each tensor that is not rows for itself."""
        steps = self._arranged()
        for table, numbers in self._tables:
            copied = [self._copies[number] is not None for number in numbers]
            table.products([steps[number] for number in numbers], copied, self._figures)
        return super().products()

    def _measure_rows(self, number: int) -> None:
        """A member's columns without a temporary of its size."""
        member, copy = self.lines.members[number], self._copies[number]
        step = self._whole_step(number) if copy is None else copy
        x = member.tensor
        here = member.dim == 1 and x.shape[1] == member.groups.size and gpu.usable(x.device, x.dtype)
        if here and rows_alike(x, step):
            gpu.columns(x, step, copy is not None, self._lines[number])
        else:
            super()._measure_rows(number)

    def pull(self, figures: torch.Tensor, rates: Figures) -> None:
        """As Motion's; x_old is the copy, or x_new + scale * b."""
        steps = self._arranged()
        factor = self.lines.line_of(figures) * rates
        known = self.lines.shared([float(copy is None) for copy in self._copies])
        kept, taken = 1 - factor * known, -factor * self.lines.shared(self.scales())
        for table, numbers in self._tables:
            table.combine(kept, taken, [steps[number] for number in numbers])
        if self._vectors or self._matrices:
            super().pull(figures, rates)

    def press(self, coefficient: torch.Tensor, signs: dict[int, int], decays: dict[int, float]) -> set[int]:
        """One launch for all whose gradients are rows."""
        members = self.lines.members
        slopes = [member.tensor.grad if member.alone else None for member in members]
        fits, changed = self._gradients.fits(slopes)
        if changed:
            self._arrange(self._gradients.kinds)
        decay = self.lines.shared([float(decays.get(id(one.tensor), 0)) for one in members])
        sign = self.lines.shared([float(signs.get(id(one.tensor), 1)) for one in members])
        taken = (self.lines.line_of(coefficient) + decay) * sign
        for table, numbers in self._tables:
            into = [slopes[number] if fits[number] else None for number in numbers]
            table.combine(None, taken, table.tensors, into=into)
        return {id(one.tensor) for one, fit in zip(members, fits, strict=True) if fit}


class Pairs:
    """Members, each with another tensor of its shape: which of them the kernels can take together.

    kinds are the members' dtypes, None of those that are no rows themselves.
    """

    def __init__(self, lines: Lines) -> None:
        self._members, self._device = lines.members, lines.device
        self._laid: list[tuple[Laid | None, Laid | None] | None] = [None] * len(lines.members)
        self._fits = [False] * len(lines.members)
        self.kinds: list[torch.dtype | None] = [None] * len(lines.members)

    def fits(self, others: Sequence[torch.Tensor | None]) -> tuple[list[bool], bool]:
        """A flag a member, and whether anything lies otherwise than when it was last asked."""
        changed = False
        for number, (member, other) in enumerate(zip(self._members, others, strict=True)):
            tensor = member.tensor
            now = laid(tensor), None if other is None else laid(other)
            if now != self._laid[number]:
                self._laid[number], changed = now, True
                known = self._taken(member)
                self.kinds[number] = member.tensor.dtype if known else None
                self._fits[number] = known and other is not None and rows_alike(tensor, other)
        return self._fits.copy(), changed

    def _taken(self, member: Member) -> bool:
        """Whether the member itself is rows, as they were when its groups were numbered."""
        tensor = member.tensor
        here = member.dim == 0 and tensor.device == self._device and tensor.shape[0] == member.groups.size
        return here and gpu.usable(tensor.device, tensor.dtype) and in_rows(tensor)
