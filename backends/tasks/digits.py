"""scikit-learn's handwritten digits, 1797 images of 8 x 8: they come with the library, nothing is looked for."""

from __future__ import annotations

from pathlib import Path

import torch

from backends.tasks.images import ImageTask, Pixels, Scaling, image_task
from backends.tasks.splits import stratified, without

TESTED = 360
SCALING = Scaling(16.0, (0.3053,), (0.3760,))


def make(
    folder: Path | None = None,  # noqa: ARG001 - every task takes one; this one reads nothing
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> ImageTask:
    """Ten classes, shape (1, 8, 8): 360 test samples, drawn once and for all; 143 to validate on, 1294 to train on.

    train, validation and test limit the splits. Raises UsageError when there are not so many samples.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    samples = Pixels(
        torch.from_numpy(found.images).to(torch.uint8)[:, None], torch.from_numpy(found.target).to(torch.int64)
    )
    tested = stratified(samples.labels, TESTED, "digits", "held out")
    trained = without(len(samples.labels), tested)
    return image_task(
        "digits",
        samples.at(trained),
        samples.at(tested),
        SCALING,
        classes=10,
        train=train,
        validation=validation,
        test=test,
    )
