"""Image classification on data that fits into memory: pixels as they were read, batches as a model takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from backends.tasks.scoring import Classification
from backends.tasks.splits import split as split_indices
from backends.tasks.splits import stream
from conformance.errors import UsageError
from conformance.method.task import Batch, Split, spelled


@dataclass(frozen=True)
class Pixels:
    """images: uint8 of shape (samples, channels, height, width); labels: int64 of shape (samples,)."""

    images: Tensor
    labels: Tensor

    def at(self, indices: Tensor) -> Pixels:
        """Those samples, in that order."""
        return Pixels(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Scaling:
    """From a pixel to what a model is given: (pixel / top - mean) / deviation, the latter two one a channel."""

    top: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 of the same shape."""
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.deviation))
        return (images.float() / self.top - mean) / deviation


@dataclass(frozen=True)
class Augmentation:
    """Random crops of the image with `pad` pixels of zero around it, and mirroring left to right."""

    pad: int
    mirror: bool

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """images (batch, C, H, W) and uniform draws in [0, 1) of shape (batch, 3): rows, columns, mirroring."""
        count, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, (self.pad,) * 4)
        top, left = (draws[:, :2] * (2 * self.pad + 1)).long().unbind(1)
        rows = (top[:, None] + torch.arange(height))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width))[:, None, None, :]
        samples = torch.arange(count)[:, None, None, None]
        channels = torch.arange(images.shape[1])[None, :, None, None]
        cropped = padded[samples, channels, rows, columns]
        if not self.mirror:
            return cropped
        return torch.where((draws[:, 2] < 0.5)[:, None, None, None], cropped.flip(-1), cropped)


def index_batches(count: int, size: int, order: Tensor | None) -> Iterator[Tensor]:
    """Indices of one batch after another: of `order`, full batches only, or of all samples in file order.

    Raises UsageError for a size below one, and for a size above the number of shuffled samples.
    """
    if size < 1:
        raise UsageError(f"a batch has at least one sample, not {size}")
    if order is None:
        yield from torch.split(torch.arange(count), size) if count else ()
        return
    if size > count:
        raise UsageError(f"a batch of {size} is larger than the split of {count} samples it is drawn from")
    yield from torch.split(order[: count - count % size], size)


@dataclass(frozen=True)
class ImageTask(Classification):
    """A `Task` on pixels in memory. Training batches are augmented, all are scaled."""

    name: str
    classes: int
    splits: Mapping[Split, Pixels]
    scaling: Scaling
    augmentation: Augmentation | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return tuple(self.splits["train"].images.shape[1:])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every split's pixels and labels, of the scaling and the augmentation."""
        digest = hashlib.sha256(repr((self.classes, self.shape, self.scaling, self.augmentation)).encode())
        for name, part in sorted(self.splits.items()):
            digest.update(f"{name} {len(part.labels)} ".encode())
            digest.update(part.images.contiguous().numpy().data)
            digest.update(part.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def count(self, split: Split) -> int:
        """Samples in a split."""
        return len(self.splits[split].labels)

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Float32 images of shape (size, channels, height, width), int64 targets of shape (size,), on the CPU.

        With a seed a sample's place and its augmentation depend on (seed, epoch) alone, not on the batch size.
        """
        part = self.splits[split]
        order = draws = None
        if seed is not None:
            generator = stream("batches", split, seed, epoch)
            order = torch.randperm(self.count(split), generator=generator, device="cpu")
            draws = torch.rand(self.count(split), 3, generator=generator, device="cpu")
        for indices in index_batches(self.count(split), size, order):
            images = part.images[indices]
            if self.augmentation is not None and draws is not None:
                images = self.augmentation(images, draws[indices])
            yield Batch((self.scaling(images),), target=part.labels[indices])


def image_task(
    base: str,
    training: Pixels,
    testing: Pixels,
    scaling: Scaling,
    *,
    classes: int,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    augmentation: Augmentation | None = None,
) -> ImageTask:
    """The task of a data set that comes as training and test data; train, validation and test limit the splits.

    Raises UsageError when there are not so many samples, or none are left to train or test on.
    """
    name = spelled(base, train=train, validation=validation, test=test)
    found = split_indices(base, training.labels, testing.labels, train=train, validation=validation, test=test)
    return ImageTask(
        name=name,
        classes=classes,
        splits={part: (testing if part == "test" else training).at(indices) for part, indices in found.items()},
        scaling=scaling,
        augmentation=augmentation,
    )
