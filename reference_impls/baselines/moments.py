"""Second moments of what a layer reads, and of what each channel contributes to the layer's output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from conformance.method import Batch, Run
from reference_impls.baselines.features import Consumer, consumers, watch


@dataclass(frozen=True)
class Moments:
    """Of one reader: patches' second moments, and its weight in the same layout.

    inputs has shape (channel groups, n, n) with n = size * kernel, the mean over samples of p p^T, p the patch
    (channel-major) under one output position; weight (channel groups, outputs, n). float64.
    """

    reader: Consumer
    inputs: torch.Tensor
    weight: torch.Tensor

    @property
    def kernel(self) -> int:
        """Entries of a kernel: how many columns of `weight` belong to one channel."""
        return self.weight.shape[2] // self.reader.size

    def gram(self) -> torch.Tensor:
        """Inner products of the channels' contributions to the output, shape (size, size).

        Entry (j, k) is the mean over samples of sum_o y_oj y_ok, with y_oj what channel j adds to output o.
        """
        size, kernel = self.reader.size, self.kernel
        products = self.inputs * (self.weight.transpose(1, 2) @ self.weight)
        return products.reshape(-1, size, kernel, size, kernel).sum((0, 2, 4))


def moments(run: Run, batches: list[Batch], positions: int) -> list[Moments]:
    """Moments of every convolution and linear layer that reads a group and is called, over all its calls.

    At most `positions` output positions of each sample are looked at, drawn from the run's seed. Transposed
    convolutions are passed over: an output of theirs has no one patch.
    """
    generator = run.rng("positions")
    readers = [reader for reader in consumers(run) if not reader.transposed]
    sums: dict[tuple[str, int], tuple[torch.Tensor, int]] = {}

    def see(reader: Consumer, x: torch.Tensor) -> None:
        found = patches(reader, x, positions, generator).double()
        total, number = sums.get(reader.key, (torch.zeros((), dtype=torch.float64, device=x.device), 0))
        product = torch.einsum("sgi,sgj->gij", found, found)
        sums[reader.key] = total + product, number + found.shape[0]

    watch(run, batches, readers, see)
    found = []
    for reader in readers:
        if reader.key in sums:
            total, number = sums[reader.key]
            groups = total.shape[0]
            weight = run.units.tensors[reader.slices.name].detach().double()
            found.append(Moments(reader, total / number, weight.reshape(groups, -1, total.shape[1])))
    return found


def patches(reader: Consumer, x: torch.Tensor, positions: int, generator: torch.Generator) -> torch.Tensor:
    """What is read of x (batch, channel, ...) at drawn outputs: (samples, channel groups, size * kernel)."""
    module = reader.module
    if reader.spatial == 0:
        return _drawn(x.flatten(2) if x.ndim > 2 else x.unsqueeze(2), _rows(x, positions, generator)).unsqueeze(1)
    assert isinstance(module, torch.nn.modules.conv._ConvNd)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, list(module._reversed_padding_repeated_twice), mode=mode)
    shape = x.shape[2:]
    rules = list(zip(shape, module.kernel_size, module.stride, module.dilation, strict=True))
    outputs = [(size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, dilation in rules]
    where = _draw(x.shape[0], math.prod(outputs), positions, generator)
    starts = np.unravel_index(where.numpy(), outputs)
    offsets = np.unravel_index(np.arange(math.prod(module.kernel_size)), module.kernel_size)
    flat = np.zeros((*where.shape, offsets[0].size), dtype=np.int64)
    for start, offset, (size, _, stride, dilation) in zip(starts, offsets, rules, strict=True):
        flat = flat * size + start[..., None] * stride + offset * dilation
    batch, channels = x.shape[:2]
    picked = _drawn(x.flatten(2), torch.from_numpy(flat.reshape(batch, -1)).to(x.device))
    return (
        picked.reshape(batch * where.shape[1], flat.shape[2], channels)
        .transpose(1, 2)
        .reshape(batch * where.shape[1], module.groups, -1)
    )


def _rows(x: torch.Tensor, positions: int, generator: torch.Generator) -> torch.Tensor:
    return _draw(x.shape[0], math.prod(x.shape[2:]), positions, generator).to(x.device)


def _draw(batch: int, total: int, positions: int, generator: torch.Generator) -> torch.Tensor:
    """For each sample `positions` different numbers below total (all of them where there are no more)."""
    if total <= positions:
        return torch.arange(total).expand(batch, -1)
    return torch.rand(batch, total, generator=generator).argsort(1)[:, :positions]


def _drawn(x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Entries of x (batch, channel, total) at where (batch, number): (batch * number, channel)."""
    picked = x.gather(2, where.unsqueeze(1).expand(-1, x.shape[1], -1))
    return picked.transpose(1, 2).reshape(-1, x.shape[1])


def axis_grams(run: Run, found: list[Moments]) -> dict[int, tuple[np.ndarray, torch.Tensor]]:
    """For each axis that is read: its groups that are (ascending), and the inner products of their contributions.

    Readers of one axis add up, positions of one group are summed; contributions across axes are left out.
    """
    axis_of = run.groups.axis_of
    members: dict[int, set[int]] = {}
    for item in found:
        numbers = np.unique(item.reader.slices.groups)
        for number in numbers[numbers > 0]:
            members.setdefault(int(axis_of[number]), set()).add(int(number))
    lines = {axis: np.array(sorted(numbers)) for axis, numbers in sorted(members.items())}
    grams = {axis: torch.zeros(line.size, line.size, dtype=torch.float64) for axis, line in lines.items()}
    for item in found:
        groups = item.reader.slices.groups
        gram = item.gram().cpu()
        for axis in np.unique(axis_of[groups[groups > 0]]):
            inside = np.flatnonzero((groups > 0) & (axis_of[groups] == axis))
            local = torch.from_numpy(np.searchsorted(lines[int(axis)], groups[inside]))
            block = gram[inside][:, inside]
            columns = block.new_zeros(block.shape[0], lines[int(axis)].size).index_add_(1, local, block)
            grams[int(axis)].index_add_(0, local, columns)
    return {axis: (line, grams[axis]) for axis, line in lines.items()}
