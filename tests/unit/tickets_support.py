"""A small task and small networks of the families that tickets are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from conformance.method import Batch, Budget, Method, Options, Recipe, Result, run

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Blobs:
    """Images that are their class' pattern plus noise; 4 classes, 3 x 8 x 8."""

    name, shape, classes, metric, digest = "blobs", (3, 8, 8), 4, "accuracy", "blobs-1"

    def __init__(self, samples: int = 48) -> None:
        draw = torch.Generator().manual_seed(1)
        self.patterns = torch.randn(4, 3, 8, 8, generator=draw)
        self.targets = torch.arange(samples) % 4
        self.images = self.patterns[self.targets] + torch.randn(samples, 3, 8, 8, generator=draw)

    def count(self, split: str) -> int:
        return len(self.targets)

    def batches(self, split: str, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        order = torch.arange(len(self.targets))
        if seed is not None:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(1000 * seed + epoch + 7))
        for part in order.split(size):
            if seed is None or len(part) == size:
                yield Batch((self.images[part],), {}, self.targets[part])

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target)

    def evaluate(self, model: nn.Module, split: str = "test", size: int = 256) -> dict[str, float]:
        mode = model.training
        model.eval()
        with torch.no_grad():
            right = model(self.images).argmax(1) == self.targets
        model.train(mode)
        return {"accuracy": float(right.float().mean())}


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """A basic residual block, or a bottleneck when `middle` is given."""

    def __init__(self, inputs: int, outputs: int, middle: int | None = None) -> None:
        super().__init__()
        if middle is None:
            layers = [conv_bn(inputs, outputs), nn.ReLU(), conv_bn(outputs, outputs)]
        else:
            layers = [
                conv_bn(inputs, middle, 1),
                nn.ReLU(),
                conv_bn(middle, middle),
                nn.ReLU(),
                conv_bn(middle, outputs, 1),
            ]
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _headed(*trunk: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


def vgg() -> nn.Module:
    return _headed(
        conv_bn(3, 10), nn.ReLU(), nn.Dropout(0.1), conv_bn(10, 14), nn.ReLU(), nn.MaxPool2d(2), conv_bn(14, 16),
        nn.ReLU(), width=16,
    )  # fmt: skip


def resnet() -> nn.Module:
    return _headed(conv_bn(3, 8), nn.ReLU(), Block(8, 8), Block(8, 12), width=12)


def bottleneck() -> nn.Module:
    return _headed(conv_bn(3, 8), nn.ReLU(), Block(8, 16, 6), Block(16, 16, 6), width=16)


class Dense(nn.Module):
    """Layers that read everything before them behind their own batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (8, 14))
        self.convs = nn.ModuleList(nn.Conv2d(width, 6, 3, padding=1, bias=False) for width in (8, 14))
        self.last = nn.BatchNorm2d(20)
        self.head = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


NETS = {"vgg": vgg, "resnet": resnet, "bottleneck": bottleneck, "densenet": Dense}


def built(name: str, seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETS[name]()


def recipe(**changes) -> Recipe:
    """Three steps an epoch over `Blobs()`."""
    return Recipe(**({"epochs": 2, "batch": 16, "lr": 0.05, "weight_decay": 1e-3} | changes))


def pruned(method: Method, net: str | nn.Module = "vgg", budget: str = "groups=0.4", **more) -> Result:
    """A run on the blobs; more: recipe, limits, options, progress, task."""
    model = built(net) if isinstance(net, str) else net
    more = {"task": Blobs(), "recipe": recipe(), "options": Options(measure=False)} | more
    return run(method, model, (IMAGE,), budget=Budget.parse(budget), **more)


class Stopped(RuntimeError):
    """What `stopping_at` raises."""


def stopping_at(phase: str, step: int):
    """A progress callback that interrupts the run before this step."""

    def progress(what: str, done: int, total: int) -> None:
        if (what, done) == (phase, step):
            raise Stopped

    return progress


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether every parameter and buffer is the same bit for bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def resumed(folder: Path, method: Method, stops: list[tuple[str, int]], net: str, budget: str, **more) -> Result:
    """A run in `folder`, interrupted at each of the stops in turn, and then let through."""
    options = Options(folder=folder, every=0.0, measure=False)
    for phase, step in stops:
        try:
            pruned(method, net, budget, options=options, progress=stopping_at(phase, step), **more)
        except Stopped:
            continue
        raise AssertionError(f"the run did not come to {phase} {step}")
    return pruned(method, net, budget, options=options, **more)
