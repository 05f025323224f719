"""Fashion-MNIST, 70 000 grey images of 28 x 28, from its idx files: gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from backends.tasks.files import VARIABLE, Published, fetch, missing, places
from backends.tasks.images import ImageTask, Pixels, Scaling, image_task
from conformance.errors import UsageError, sentence

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SITE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FILES = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""The data set's files, and the MD5 of each with `.gz` as published."""

SCALING = Scaling(255.0, (0.2860,), (0.3530,))
UNSIGNED_BYTE = 8


def make(
    folder: Path | None = None,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    download: bool = False,
) -> ImageTask:
    """Ten classes, shape (1, 28, 28): 54 000 samples to train, 6000 to validate, 10 000 to test on, not augmented.

    Raises UsageError when the files are nowhere, damaged, or do not fit each other.
    """
    found = locate(folder, download=download)
    training, testing = (
        read_pair(*(found[name] for name in FILES if name.startswith(part))) for part in ("train", "t10k")
    )
    if training.images.shape[1:] != testing.images.shape[1:]:
        raise UsageError(f"the training and the test images of {found['t10k-images-idx3-ubyte'].parent} differ in size")
    return image_task(
        "fashion-mnist", training, testing, SCALING, classes=10, train=train, validation=validation, test=test
    )


def locate(folder: Path | None, *, download: bool) -> dict[str, Path]:
    """The four files, by name; all in one folder. Raises UsageError when no folder has them."""
    looked = places(folder, DEBIAN)
    for place in looked:
        for inner in (place, place / "FashionMNIST" / "raw"):
            found = {name: file for name in FILES for file in (inner / f"{name}.gz", inner / name) if file.is_file()}
            if len(found) == len(FILES):
                return found
    target = looked[0] / "FashionMNIST" / "raw"
    if download:
        return {name: fetch(Published(f"{SITE}/{name}.gz", md5), target) for name, md5 in FILES.items()}
    raise missing(
        "fashion-mnist",
        f"the files {', '.join(FILES)} (or with .gz)",
        looked,
        (
            "apt-get install dataset-fashion-mnist",
            f"give as data folder, or in ${VARIABLE}, one that has them, itself or in FashionMNIST/raw",
            f"fashion-mnist?download=true, which writes to {target}",
        ),
    )


def read_pair(images: Path, labels: Path) -> Pixels:
    """Pixels out of an image file and its label file. Raises UsageError when they do not fit each other."""
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise UsageError(f"{images} has {len(pixels)} images, {labels} has {len(classes)} labels")
    if not len(classes) or int(classes.max()) > 9:
        raise UsageError(f"{labels} has no labels, or labels above 9")
    return Pixels(torch.from_numpy(pixels)[:, None], torch.from_numpy(classes.astype(np.int64)))


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """The array of an idx file of unsigned bytes: two zeros, a type, the number of dimensions, sizes, values.

    Raises UsageError when the file cannot be read, is cut off, or holds something else.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{file} cannot be read: {sentence(error)}") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, UNSIGNED_BYTE, dimensions)):
        raise UsageError(f"{file} is no idx file of unsigned bytes in {dimensions} dimensions")
    sizes = struct.unpack(f">{dimensions}I", data[4:start])
    values = np.frombuffer(data, np.uint8, offset=start)
    if len(values) != int(np.prod(sizes, dtype=object)):
        raise UsageError(f"{file} has {len(values)} values after its head, which says {' x '.join(map(str, sizes))}")
    return values.reshape(sizes).copy()  # a buffer of bytes cannot be written to, which torch warns about
