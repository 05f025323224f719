"""Motion on a GPU: members that are rows are measured, pulled and penalised by one launch for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from reference_impls.oto import gpu
from reference_impls.oto.layout import in_rows
from reference_impls.oto.motion import Figures, Memory, Motion, Products
from reference_impls.oto.rows import Lines, Member

Flags = npt.NDArray[np.bool_]


def motion_over(lines: Lines, memory: Memory, flags: Flags | None = None) -> Motion:
    """What steps do to members of groups that are flagged, or of all, by what the device has for it."""
    if flags is None:
        flags = np.arange(lines.count + 1) > 0
    if gpu.usable(lines.device):
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
        self._tables: list[tuple[gpu.Table, list[int]]] = []
        self._fits: list[bool] | None = None
        self._seen: list[int] = []
        self._copied: dict[tuple[bool, ...], torch.Tensor] = {}
        self._pressed: list[tuple[gpu.Table, list[int]]] = []
        self._pressable: list[bool] | None = None

    # -- which members the kernels can take -------------------------------------------------------

    def _arranged(self) -> list[torch.Tensor]:
        """Of each member what moved it or its copy; the tables hold those that are rows, the rest is left to Motion."""
        steps = [self._whole_step(number) if copy is None else copy for number, copy in enumerate(self._copies)]
        pointers = [step.data_ptr() for step in steps]
        if pointers != self._seen:
            pairs = zip(self.lines.members, steps, strict=True)
            fits = [self._rows_here(member) and in_rows(member.tensor, step) for member, step in pairs]
            if fits != self._fits:
                self._arrange(fits)
            self._seen = pointers
        return steps

    def _rows_here(self, member: Member) -> bool:
        return member.dim == 0 and member.tensor.device == self.lines.device

    def _arrange(self, fits: list[bool]) -> None:
        vectors, matrices = self._one_by_one
        self._fits = list(fits)
        if not all(fits[number] for number in vectors):  # they are measured together
            fits = [fit and number not in vectors for number, fit in enumerate(fits)]
        self._vectors = [number for number in vectors if not fits[number]]
        self._matrices = [number for number in matrices if not fits[number]]
        self._tables = self._tables_of(fits)

    def _tables_of(self, fits: list[bool]) -> list[tuple[gpu.Table, list[int]]]:
        """Tables of members that fit, one a dtype, each with the members' numbers."""
        starts = itertools.accumulate(self.lines.sizes, initial=0)
        found: dict[torch.dtype, list[tuple[int, gpu.Item]]] = {}
        for number, (member, start) in enumerate(zip(self.lines.members, starts, strict=False)):
            if fits[number]:
                rows = np.flatnonzero(self._flags[member.groups])
                found.setdefault(member.tensor.dtype, []).append((number, gpu.Item(member.tensor, rows, start + rows)))
        return [(gpu.Table([item for _, item in some]), [number for number, _ in some]) for some in found.values()]

    def _flags_of_copies(self, numbers: Sequence[int]) -> torch.Tensor:
        """Which of these members' steps are copies of what was."""
        key = tuple(self._copies[number] is not None for number in numbers)
        if key not in self._copied:
            self._copied[key] = torch.tensor(key, dtype=torch.int8, device=self.lines.device)
        return self._copied[key]

    # -- what Motion does -------------------------------------------------------------------------

    def products(self) -> Products:
        """One launch, and each tensor that is not rows for itself."""
        steps = self._arranged()
        for table, numbers in self._tables:
            table.products([steps[number] for number in numbers], self._flags_of_copies(numbers), self._figures)
        return super().products()

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
        fits = [one.alone and self._rows_here(one) and _with_gradient(one.tensor) for one in members]
        if fits != self._pressable:
            self._pressed, self._pressable = self._tables_of(fits), fits
        decay = self.lines.shared([float(decays.get(id(one.tensor), 0)) for one in members])
        sign = self.lines.shared([float(signs.get(id(one.tensor), 1)) for one in members])
        taken = (self.lines.line_of(coefficient) + decay) * sign
        for table, numbers in self._pressed:
            slopes = [slope for number in numbers if (slope := members[number].tensor.grad) is not None]
            table.combine(None, taken, table.tensors, into=slopes)
        return {id(one.tensor) for one, fit in zip(members, fits, strict=True) if fit}


def _with_gradient(tensor: torch.Tensor) -> bool:
    """Whether the gradient is there, and in rows as the parameter is."""
    return tensor.grad is not None and in_rows(tensor, tensor.grad)
