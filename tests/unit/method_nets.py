"""Small nets and a small task for the tests of methods."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conformance.method import Batch, Budget, Limits, Method, Options, Recipe, Run
from conformance.method import run as host
from conformance.method.host import prepare
from conformance.method.ladder import removable
from conformance.method.task import Split
from conformance.randomise import randomised


@dataclass(frozen=True)
class Teacher:
    """Random inputs, labelled by a fixed random linear map: a task that can be learnt in no time."""

    shape: tuple[int, ...] = (3, 8, 8)
    classes: int = 4
    name: str = "teacher"
    metric: str = "accuracy"
    sizes: tuple[int, int, int] = (64, 32, 32)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.shape}{self.classes}{self.sizes}".encode()).hexdigest()

    def _data(self, split: Split) -> tuple[Tensor, Tensor]:
        number = ("train", "validation", "test").index(split)
        x = torch.randn(self.sizes[number], *self.shape, generator=torch.Generator().manual_seed(number))
        teacher = torch.randn(x[0].numel(), self.classes, generator=torch.Generator().manual_seed(9))
        return x, (x.flatten(1) @ teacher).argmax(1)

    def count(self, split: Split) -> int:
        return self.sizes[("train", "validation", "test").index(split)]

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        x, y = self._data(split)
        order = np.arange(len(x))
        if seed is not None:
            order = np.random.default_rng([seed, epoch % 2**32]).permutation(len(x))
        for start in range(0, len(x), size):
            take = order[start : start + size]
            if seed is None or len(take) == size:
                yield Batch((x[take],), {}, y[take])

    def loss(self, output: Any, target: Any) -> Tensor:
        return F.cross_entropy(output, target)

    def evaluate(self, model: nn.Module, split: Split = "test", size: int = 256) -> dict[str, float]:
        training = model.training
        model.eval()
        with torch.no_grad():
            hits = sum(int((model(*batch.args).argmax(1) == batch.target).sum()) for batch in self.batches(split, size))
        model.train(training)
        return {"accuracy": hits / self.count(split)}


TASK = Teacher()
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class ResNet(nn.Module):
    """Two residual blocks, one with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.a1, self.an1 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.a2, self.an2 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b1, self.bn1 = nn.Conv2d(6, 7, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(7)
        self.b2, self.bn2 = nn.Conv2d(7, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.short = nn.Sequential(nn.Conv2d(6, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.an2(self.a2(F.relu(self.an1(self.a1(x))))))
        x = F.relu(self.short(x) + self.bn2(self.b2(F.relu(self.bn1(self.b1(x))))))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    """Two branches joined, a convolution with two channel groups, and a linear layer after flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.mid, self.norm = nn.Conv2d(10, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.paired = nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(6 * 2 * 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        x = F.relu(self.norm(self.mid(x)))
        return self.fc(F.relu(self.paired(x)).flatten(1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + self.proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 12))
        self.blocks = nn.Sequential(Block(12, 3, 10), Block(12, 3, 10))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


NETS = {"resnet": ResNet, "concat": Concat, "vit": Vit}


def built(name: str) -> nn.Module:
    """The net with every tensor drawn at random, so that no two channels are alike."""
    torch.manual_seed(3)
    return randomised(NETS[name]().eval(), seed=5)


def made(
    method: Method, model: nn.Module, *, budget: str = "macs=0.4", task: Any = TASK, limits: Limits | None = None
) -> Run:
    """What a method's hooks see, without running the host."""
    return prepare(method, model, (X,), {}, Budget.parse(budget), task, Recipe(), limits or Limits(), Options(seed=1))


def pruned(method: Method, model: nn.Module, *, budget: str = "macs=0.4", task: Any = TASK, **named: Any):
    """The host's result, which must be exact and meet the budget."""
    named.setdefault("options", Options(seed=1, measure=False))
    found = host(method, model, (X,), budget=Budget.parse(budget), task=task, **named)
    assert found.verdict is not None
    assert found.verdict.equal, found.verdict
    kind, _, share = budget.partition("=")
    assert found.removed[kind] >= float(share) - 1e-9
    return found


def plant(run: Run) -> dict[int, int]:
    """Set all slices of one group of each axis to zero, readers too; for each axis the group."""
    free = removable(run.groups)
    chosen: dict[int, int] = {}
    for axis in range(int(run.groups.axis_of.max()) + 1):
        inside = np.flatnonzero(free & (run.groups.axis_of == axis))
        if inside.size > 1:
            chosen[axis] = int(inside[inside.size // 2])
    with torch.no_grad():
        for item in run.units.slices:
            if item.trained:
                hit = np.flatnonzero(np.isin(item.groups, list(chosen.values())))
                run.units.tensors[item.name].index_fill_(item.dim, torch.from_numpy(hit), 0)
    return chosen
