"""What reaches the layers that read a group: their inputs, and which group each channel of them belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from conformance.method import Batch, Run, Slices
from reference_impls.baselines.gradients import call, evaluating, stand_ins

CONVOLUTIONS = (torch.nn.modules.conv._ConvNd,)
FILTERS = (torch.nn.Linear, *CONVOLUTIONS)
_TRANSPOSED = (torch.nn.modules.conv._ConvTransposeNd,)


@dataclass(frozen=True)
class Consumer:
    """A convolution (transposed or not) or linear layer whose input channels are in groups.

    slices is the dimension of its weight that reads them. An input channel is position c % size of it: a
    convolution with several channel groups has the same positions in each.
    """

    slices: Slices
    module: torch.nn.Linear | torch.nn.modules.conv._ConvNd

    @property
    def key(self) -> tuple[str, int]:
        """Name of the weight and dimension."""
        return self.slices.name, self.slices.dim

    @property
    def size(self) -> int:
        """Positions of the weight's dimension."""
        return int(self.slices.groups.size)

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return isinstance(self.module, _TRANSPOSED)

    @property
    def spatial(self) -> int:
        """Dimensions beyond batch and channel that it needs; 0 for a linear layer."""
        return 0 if isinstance(self.module, torch.nn.Linear) else self.module.weight.ndim - 2

    def channels_second(self, x: torch.Tensor) -> torch.Tensor:
        """Its input as (batch, channel, positions...): a linear layer's last dimension becomes the second."""
        if self.spatial == 0:
            return x.reshape(1, -1) if x.ndim == 1 else x.movedim(-1, 1)
        return x if x.ndim == self.spatial + 2 else x.unsqueeze(0)

    def per_position(self, channels: torch.Tensor) -> torch.Tensor:
        """A figure for each input channel, averaged over channel groups: shape (size,)."""
        return channels.reshape(-1, self.size).mean(0)


def consumers(run: Run) -> list[Consumer]:
    """All consumers of groups, in the model's order.

    Depthwise convolutions have no column that could be read, and are passed over; so are weights that no
    convolution or linear layer owns (functional calls, attention's packed projections).
    """
    found = []
    for item in run.units.members("consumers"):
        path, _, leaf = item.name.rpartition(".")
        module = run.model.get_submodule(path)
        if leaf == "weight" and isinstance(module, FILTERS):
            found.append(Consumer(item, module))
    return found


def watch(
    run: Run, batches: list[Batch], readers: list[Consumer], see: Callable[[Consumer, torch.Tensor], None]
) -> None:
    """Run the batches in evaluation mode, and show `see` what each reader is given at each of its calls.

    The input is (batch, channel, positions...). The model, its buffers included, stays as it is.
    """
    by_module: dict[torch.nn.Module, list[Consumer]] = {}
    for reader in readers:
        by_module.setdefault(reader.module, []).append(reader)

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        for reader in by_module[module]:
            see(reader, reader.channels_second(x.detach()))

    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in by_module]
    try:
        with evaluating(run.model), torch.no_grad():
            state = stand_ins(run.model)
            for batch in batches:
                call(run.model, state, batch)
    finally:
        for handle in handles:
            handle.remove()
