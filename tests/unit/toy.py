"""A task of random numbers and small nets for tests of methods."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import nn

from conformance.method import Batch, DataNeed, Driver, Facts, Method


@dataclasses.dataclass(frozen=True)
class ToyTask:
    """512 images of noise, labelled by a fixed linear map of their own pixels."""

    name: str = "toy"
    shape: tuple[int, ...] = (3, 8, 8)
    classes: int = 4
    metric: str = "accuracy"
    digest: str = "toy"
    size: int = 128

    @property
    def data(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(3 * self.size, *self.shape, generator=generator)
        readout = torch.randn(images[0].numel(), self.classes, generator=generator)
        return images, (images.flatten(1) @ readout).argmax(1)

    def count(self, split):
        return self.size

    def batches(self, split, size, *, seed=None, epoch=0):
        images, labels = self.data
        order = torch.arange(self.size) + self.size * ("train", "validation", "test").index(split)
        if seed is not None:
            generator = torch.Generator().manual_seed(1000 * seed + epoch + 500)
            order = order[torch.randperm(self.size, generator=generator)]
        for chosen in order.split(size):
            if seed is None or len(chosen) == size:
                yield Batch((images[chosen],), {}, labels[chosen])

    def loss(self, output, target):
        return nn.functional.cross_entropy(output.float(), target)

    def evaluate(self, model, split="test", size=256):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        with torch.no_grad():
            hits = [(model(*b.args).argmax(1) == b.target).float() for b in self.batches(split, size)]
        for module, training in modes:
            module.training = training
        return {"accuracy": torch.cat(hits).mean().item()}


def convnet(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    """conv-bn-relu twice, dropout, pooling, linear: groups in both convolutions."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Dropout(dropout), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip


def images(batch: int = 2) -> torch.Tensor:
    """Example inputs for tracing."""
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@dataclasses.dataclass(frozen=True)
class Norm(Method):
    """Scores by the groups' norms, without data."""

    facts: ClassVar[Facts] = Facts("norm", "for tests", Driver.POST, DataNeed.NONE, "none")

    def score(self, run):
        return run.units.norms()


@dataclasses.dataclass(frozen=True)
class Fade(Method):
    """Chooses half way through training and holds its choice at zero from then on."""

    facts: ClassVar[Facts] = Facts("fade", "for tests", Driver.TRAIN, DataNeed.TRAINING, "none", zeroes=True)

    def score(self, run):
        return run.units.norms()

    def on_event(self, event, run):
        if event == "after_step" and run.step == run.total // 2:
            run.state["removed"] = torch.tensor(self.select(run, self.score(run)).removed)
        if event == "after_step" and "removed" in run.state:
            run.units.fill_(run.state["removed"].numpy())

    def decide(self, run):
        return run.groups.select(run.state["removed"].numpy())


@dataclasses.dataclass(frozen=True)
class Rounds(Method):
    """Trains three times; after each round a third of the budget more is zero, and the rest rewound to the start."""

    facts: ClassVar[Facts] = Facts("rounds", "for tests", Driver.ROUNDS, DataNeed.TRAINING, "none")
    rounds: int = 3

    def prepare(self, run):
        run.state["start"] = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}

    def score(self, run):
        return run.units.norms()

    def on_event(self, event, run):
        if event == "round_end" and run.round < self.rounds:
            part = dataclasses.replace(run.budget, remove=run.budget.remove * run.round / self.rounds)
            chosen = dataclasses.replace(run, budget=part)
            removed = self.select(chosen, self.score(run)).removed
            run.model.load_state_dict(run.state["start"])
            run.units.fill_(removed)
            run.state["removed"] = torch.tensor(removed)
        if event == "after_step" and "removed" in run.state:
            run.units.fill_(run.state["removed"].numpy())


@dataclasses.dataclass(frozen=True)
class Search(Method):
    """Four random candidates that meet the budget."""

    facts: ClassVar[Facts] = Facts("search", "for tests", Driver.SEARCH, DataNeed.LABELLED, "none", equivariant=False)
    candidates: int = 4

    def propose(self, run, number):
        if number == self.candidates:
            return None
        return self.select(run, torch.rand(run.groups.count + 1, generator=run.rng(f"candidate {number}")))
