"""Which sample is in which split: draws with the classes' shares kept, and random streams named by words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from conformance.errors import UsageError
from conformance.method.task import Split


def stream(*words: object) -> torch.Generator:
    """A generator on the CPU that depends on the words alone."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def stratified(labels: Tensor, count: int, *words: object) -> Tensor:
    """Indices of `count` samples, sorted, drawn by `words`; each class has its share, rounded by largest remainder.

    labels: int64 of shape (samples,). Raises UsageError when there are not so many samples.
    """
    if not 0 <= count <= len(labels):
        raise UsageError(f"{count} samples cannot be drawn from {len(labels)}")
    numbers = torch.bincount(labels)
    exact = numbers * count  # over len(labels): kept whole, so that no rounding decides a tie
    shares, rest = exact // max(len(labels), 1), exact % max(len(labels), 1)
    shares[rest.argsort(descending=True, stable=True)[: count - int(shares.sum())]] += 1
    generator = stream(*words)
    picked = []
    for label, share in enumerate(shares.tolist()):
        members = (labels == label).nonzero()[:, 0]
        picked.append(members[torch.randperm(len(members), generator=generator, device="cpu")[:share]])
    return torch.cat(picked).sort().values if picked else torch.empty(0, dtype=torch.int64)


def without(count: int, taken: Tensor) -> Tensor:
    """The indices below count that are not taken, sorted."""
    left = torch.ones(count, dtype=torch.bool)
    left[taken] = False
    return left.nonzero()[:, 0]


def split(
    name: str, training: Tensor, testing: Tensor, *, train: int | None, validation: int | None, test: int | None
) -> Mapping[Split, Tensor]:
    """Indices of each split: `train` and `validation` into the training labels, `test` into the test labels.

    validation (None: a tenth) is drawn off the training data first and so does not depend on train; train and
    test (None: all that is left) draw a subset. The draws depend on the name of the data set alone.
    Raises UsageError when a number is negative, there are not so many samples, or none to train or test on.
    """
    held = _drawn(name, "validation", training, len(training) // 10 if validation is None else validation)
    left = without(len(training), held)
    found: dict[Split, Tensor] = {
        "train": left[_drawn(name, "train", training[left], len(left) if train is None else train)],
        "validation": held,
        "test": _drawn(name, "test", testing, len(testing) if test is None else test),
    }
    for part in ("train", "test"):
        if not len(found[part]):
            raise UsageError(f"the task {name} would have no samples for {part}")
    return found


def _drawn(name: str, part: str, labels: Tensor, count: int) -> Tensor:
    if not 0 <= count <= len(labels):
        raise UsageError(f"the task {name} has {len(labels)} samples for {part}, {count} were asked for")
    return stratified(labels, count, name, part)
