"""ImageNet and every data set laid out like it: train/CLASS/*.JPEG and val/CLASS/*.JPEG, decoded when asked for."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.common import require
from backends.tasks.files import VARIABLE, missing, places
from backends.tasks.images import Scaling, index_batches
from backends.tasks.scoring import Classification
from backends.tasks.splits import split as split_indices
from backends.tasks.splits import stream
from conformance.errors import UsageError, sentence
from conformance.method.task import Batch, Split, spelled

require("torchvision", "zoo")

SCALING = Scaling(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE = 224
MARGIN = 256 / 224
"""How much longer than the crop the short side is when testing."""

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
AHEAD = 2
"""Batches that are decoded before they are asked for."""

Sample = tuple[str, int]
"""A file and its class."""


@dataclass(frozen=True)
class FolderTask(Classification):
    """A `Task` on image files. Decoding is spread over `workers` threads; the values do not depend on them."""

    name: str
    root: Path
    classes: int
    splits: Mapping[Split, tuple[Sample, ...]]
    side: int = SIDE
    workers: int = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, side, side)."""
        return (3, self.side, self.side)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every file's name below the root, size in bytes and class, by split. Reads no image."""
        digest = hashlib.sha256(repr((self.classes, self.shape, SCALING)).encode())
        for name, samples in sorted(self.splits.items()):
            for file, label in samples:
                path = Path(file)
                row = (name, path.relative_to(self.root).as_posix(), path.stat().st_size, label)
                digest.update(repr(row).encode())
        return digest.hexdigest()

    def count(self, split: Split) -> int:
        """Samples in a split."""
        return len(self.splits[split])

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Float32 images of shape (size, 3, side, side), int64 targets of shape (size,), on the CPU.

        With a seed: a random part of each image, scaled to the side, and mirrored one time in two. Without: the
        middle of the image. Raises UsageError, naming the file, for an image that cannot be read.
        """
        samples = self.splits[split]
        order: Tensor | None = None
        seeds: list[int] | None = None
        if seed is not None:
            generator = stream("batches", split, seed, epoch)
            order = torch.randperm(len(samples), generator=generator, device="cpu")
            seeds = torch.randint(2**62, (len(samples),), generator=generator, device="cpu").tolist()

        def job(index: int) -> Callable[[], Tensor]:
            return partial(self._image, samples[index][0], None if seeds is None else seeds[index])

        indices = (found.tolist() for found in index_batches(len(samples), size, order))
        for batch, images in _in_threads(indices, job, self.workers):
            target = torch.tensor([samples[index][1] for index in batch])
            yield Batch((SCALING(torch.stack(images)),), target=target)

    def _image(self, file: str, seed: int | None) -> Tensor:
        """One image as uint8 of shape (3, side, side)."""
        from PIL import Image

        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what decoders raise
            raise UsageError(f"{file} cannot be read as an image: {sentence(error)}") from error
        return tested(image, self.side) if seed is None else trained(image, self.side, seed)


def tested(image: Any, side: int) -> Tensor:
    """The middle of an image whose short side was scaled to a bit more than the crop."""
    from torchvision.transforms.v2 import functional as tv

    scaled = tv.resize(image, [round(side * MARGIN)], antialias=True)
    pixels: Tensor = tv.pil_to_tensor(tv.center_crop(scaled, [side, side]))
    return pixels


def trained(image: Any, side: int, seed: int) -> Tensor:
    """A random part of an image, scaled, and perhaps mirrored; drawn by the seed alone."""
    from torchvision.transforms.v2 import functional as tv

    generator = torch.Generator("cpu").manual_seed(seed)
    top, left, height, width = random_part(image.height, image.width, generator)
    part = tv.resized_crop(image, top, left, height, width, [side, side], antialias=True)
    pixels: Tensor = tv.pil_to_tensor(part)
    return pixels.flip(-1) if torch.rand((), generator=generator, device="cpu") < 0.5 else pixels


def random_part(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part with 8 to 100 % of the area and sides as 3:4 to 4:3.

    When ten draws do not fit into the image: the largest part of its middle with such sides.
    """
    for area, ratio, down, right in torch.rand(TRIES, 4, generator=generator, device="cpu").tolist():
        wanted = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area)
        shape = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio
        high, wide = round(math.sqrt(wanted / shape)), round(math.sqrt(wanted * shape))
        if 0 < high <= height and 0 < wide <= width:
            return int(down * (height - high + 1)), int(right * (width - wide + 1)), high, wide
    wide = min(width, max(1, round(height * RATIO[1])))
    high = min(height, max(1, round(width / RATIO[0])))
    return (height - high) // 2, (width - wide) // 2, high, wide


def _in_threads(
    batches: Iterator[list[int]], job: Callable[[int], Callable[[], Tensor]], workers: int
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Each batch with the results of its jobs, in order; a few batches are worked on ahead."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[list[int], list[Future[Tensor]]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(job(index)) for index in batch]))
            if len(waiting) > AHEAD:
                ready, futures = waiting.popleft()
                yield ready, [future.result() for future in futures]
        for ready, futures in waiting:
            yield ready, [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def make(
    folder: Path | None = None,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    side: int = SIDE,
    workers: int = 4,
) -> FolderTask:
    """As many classes as there are folders; `val` is what is tested on, a tenth of `train` what is validated on.

    side: pixels of the square images a model is given. workers: threads that decode. Raises UsageError when the
    folders are nowhere, differ in their classes, or a class has no image.
    """
    if side < 1 or workers < 1:
        raise UsageError(f"the options side and workers of the task imagenet are positive, not {side} and {workers}")
    root = locate(folder)
    training, testing = listed(root / "train"), listed(root / "val")
    names = sorted({Path(file).relative_to(root / "train").parts[0] for file, _ in training})
    others = sorted({Path(file).relative_to(root / "val").parts[0] for file, _ in testing})
    if names != others:
        odd = min(set(names) ^ set(others))
        raise UsageError(f"train and val in {root} differ in their classes: only one of them has {odd}")
    labels = [torch.tensor([label for _, label in samples]) for samples in (training, testing)]
    name = spelled("imagenet", train=train, validation=validation, test=test, side=None if side == SIDE else side)
    found = split_indices("imagenet", *labels, train=train, validation=validation, test=test)
    splits = {
        part: tuple((testing if part == "test" else training)[index] for index in indices.tolist())
        for part, indices in found.items()
    }
    return FolderTask(name, root, len(names), splits, side, workers)


def locate(folder: Path | None) -> Path:
    """The folder that has `train` and `val`. Raises UsageError when no place has them."""
    looked = places(folder)
    for place in looked:
        for inner in (place, place / "imagenet"):
            if (inner / "train").is_dir() and (inner / "val").is_dir():
                return inner
    raise missing(
        "imagenet",
        "a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG",
        looked,
        (
            "register at image-net.org, download ILSVRC2012 and sort its images into a folder a class",
            f"give as data folder, or in ${VARIABLE}, one that has train and val, or imagenet/train and imagenet/val",
        ),
    )


def listed(folder: Path) -> list[Sample]:
    """Every image below the folder with its class, the number of its folder in alphabetical order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    try:
        _, classes = find_classes(str(folder))
        samples: list[Sample] = make_dataset(str(folder), classes, IMG_EXTENSIONS)
    except FileNotFoundError as error:  # its message says which class has no image
        raise UsageError(f"{folder} holds no image data set: {error}") from error
    return samples
