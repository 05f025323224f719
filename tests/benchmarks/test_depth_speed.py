"""The time to find the groups grows with the depth of a model, and no faster."""

from __future__ import annotations

import gc
import time

import pytest
import torch
from measure import Clock, seconds
from torch import nn

import conformance as pc

pytestmark = [pytest.mark.slow, pytest.mark.benchmark(timer=time.process_time)]

WIDTH = 8
DEPTHS = (10, 30, 100, 300, 1000)
TITLE = "Depth"


class Block(nn.Module):
    """A residual block: every one of them ties its channels to those of all the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)
        self.conv2, self.norm2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


class Tower(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_a_block_costs_the_same_in_a_deep_model(benchmark, row):
    """All depths in turn, so that a slow phase of the machine is not taken for growth."""
    models = {depth: Tower(depth).eval() for depth in DEPTHS}
    x = torch.randn(2, 3, 8, 8)
    clocks = {depth: Clock() for depth in DEPTHS}

    def all_depths() -> None:
        for depth, model in models.items():
            gc.collect()  # what the depth before left is not this one's
            graph = clocks[depth].time("trace", lambda model=model: pc.trace(model, x))
            groups = clocks[depth].time("partition", lambda graph=graph: pc.partition(graph))
            assert groups.count == WIDTH * (depth + 1)  # one inside each block, one shared by all

    benchmark.pedantic(all_depths, rounds=3, warmup_rounds=1)
    for depth, clock in clocks.items():
        row(
            TITLE,
            blocks=str(depth),
            trace=seconds(clock["trace"]),
            partition=seconds(clock["partition"]),
            trace_per_block=f"{1e3 * clock['trace'] / depth:.2f} ms",
            partition_per_block=f"{1e3 * clock['partition'] / depth:.2f} ms",
        )
    for part in ("trace", "partition"):
        growth = (clocks[1000][part] / 1000) / (clocks[100][part] / 100)
        assert growth < 2, f"{part}: a block of 1000 takes {growth:.2f} times what one of 100 takes"
