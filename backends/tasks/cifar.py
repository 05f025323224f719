"""CIFAR-10 and CIFAR-100, 60 000 colour images of 32 x 32 each, from their binary version.

The Python version is pickled, and nothing pickled is loaded here.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backends.tasks.files import VARIABLE, Published, fetch, missing, places
from backends.tasks.images import Augmentation, ImageTask, Pixels, Scaling, image_task
from conformance.errors import UsageError, sentence

SITE = "https://www.cs.toronto.edu/~kriz"
SIDE = 32
PIXELS = 3 * SIDE * SIDE
AUGMENTATION = Augmentation(pad=4, mirror=True)


@dataclass(frozen=True)
class Layout:
    """The files of one of the two data sets. A record is `labels` bytes, the last of them the class, and the pixels."""

    name: str
    folder: str
    training: tuple[str, ...]
    testing: str
    labels: int
    classes: int
    archive: Published
    pickled: str
    scaling: Scaling


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-bin",
    training=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    testing="test_batch.bin",
    labels=1,
    classes=10,
    archive=Published(f"{SITE}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    pickled="cifar-10-batches-py",
    scaling=Scaling(255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-binary",
    training=("train.bin",),
    testing="test.bin",
    labels=2,
    classes=100,
    archive=Published(f"{SITE}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    pickled="cifar-100-python",
    scaling=Scaling(255.0, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
)


def make10(
    folder: Path | None = None,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    download: bool = False,
) -> ImageTask:
    """Ten classes, shape (3, 32, 32): 45 000 samples to train, 5000 to validate, 10 000 to test on.

    Training images are cropped with a border of 4 and mirrored. Raises UsageError when the files are nowhere
    or damaged.
    """
    return _task(CIFAR10, folder, train=train, validation=validation, test=test, download=download)


def make100(
    folder: Path | None = None,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    download: bool = False,
) -> ImageTask:
    """The hundred fine classes; all else is as in `make10`."""
    return _task(CIFAR100, folder, train=train, validation=validation, test=test, download=download)


def _task(
    layout: Layout,
    folder: Path | None,
    *,
    train: int | None,
    validation: int | None,
    test: int | None,
    download: bool,
) -> ImageTask:
    data = contents(layout, folder, download=download)
    parts = [records(layout, name, data[name]) for name in layout.training]
    return image_task(
        layout.name,
        Pixels(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])),
        records(layout, layout.testing, data[layout.testing]),
        layout.scaling,
        classes=layout.classes,
        train=train,
        validation=validation,
        test=test,
        augmentation=AUGMENTATION,
    )


def contents(layout: Layout, folder: Path | None, *, download: bool) -> dict[str, bytes]:
    """The bytes of each file, out of a folder or the archive. Raises UsageError when no place has them all."""
    looked = places(folder)
    names = (*layout.training, layout.testing)
    for place in looked:
        for inner in (place, place / layout.folder):
            if all((inner / name).is_file() for name in names):
                return {name: (inner / name).read_bytes() for name in names}
        if (place / layout.archive.name).is_file():
            return dict(_unpacked(layout, place / layout.archive.name))
    if download:
        return dict(_unpacked(layout, fetch(layout.archive, looked[0])))
    hint = ""
    if any((place / layout.pickled).is_dir() or place.name == layout.pickled for place in looked):
        hint = f" (the folder {layout.pickled} is the pickled version, and nothing pickled is loaded)"
    raise missing(
        layout.name,
        f"the binary version, {layout.archive.name} or the folder {layout.folder}{hint}",
        looked,
        (
            f"download {layout.archive.url}, unpack it or not, and give its folder as data folder or in ${VARIABLE}",
            f"{layout.name}?download=true, which writes to {looked[0]}",
        ),
    )


def _unpacked(layout: Layout, archive: Path) -> Iterator[tuple[str, bytes]]:
    """The files of an archive, read in memory: nothing is written, so no path in it matters."""
    try:
        with tarfile.open(archive) as opened:
            for name in (*layout.training, layout.testing):
                member = opened.extractfile(f"{layout.folder}/{name}")
                if member is None:
                    raise UsageError(f"{layout.folder}/{name} in {archive} is no file")
                yield name, member.read()
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise UsageError(f"{archive} cannot be read: {sentence(error)}") from error


def records(layout: Layout, name: str, data: bytes) -> Pixels:
    """The samples of one file. Raises UsageError when it is cut off or has a class that the data set has not."""
    length = layout.labels + PIXELS
    if not data or len(data) % length:
        raise UsageError(f"{name} of {layout.name} has {len(data)} bytes, which is no number of records of {length}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, length)
    labels = rows[:, layout.labels - 1].astype(np.int64)
    if int(labels.max()) >= layout.classes:
        raise UsageError(f"{name} of {layout.name} has the class {int(labels.max())}, above {layout.classes - 1}")
    images = rows[:, layout.labels :].reshape(-1, 3, SIDE, SIDE).copy()
    return Pixels(torch.from_numpy(images), torch.from_numpy(labels))
