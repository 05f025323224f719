"""Made-up CIFAR in the format of its binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backends.tasks import cifar


def cifar_records(layout: cifar.Layout, count: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    labels = np.zeros((count, layout.labels), np.uint8)
    labels[:, 0] = 255 if layout.labels == 2 else 0  # the coarse class is read by nobody
    labels[:, -1] = np.arange(count) % layout.classes
    return np.concatenate([labels, random.integers(256, size=(count, 3072), dtype=np.uint8)], 1).tobytes()


def write_cifar(folder: Path, layout: cifar.Layout, count: int = 100) -> Path:
    place = folder / layout.folder
    place.mkdir(parents=True)
    for seed, name in enumerate((*layout.training, layout.testing)):
        (place / name).write_bytes(cifar_records(layout, count, seed))
    return place
