"""Retrieval: of pairs of texts, the one embedded is to find the other. In-batch contrast trains, ranks measure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from backends.tasks.images import index_batches
from backends.tasks.scoring import untouched
from backends.tasks.splits import stream
from conformance.errors import UsageError
from conformance.method.task import Batch, Split

Tokens = tuple[int, ...]
CUTOFF = 10


@dataclass(frozen=True)
class TokenPairs:
    """Pair i is queries[i] and bodies[i], each the numbers of its tokens."""

    queries: tuple[Tokens, ...]
    bodies: tuple[Tokens, ...]


@dataclass(frozen=True)
class RetrievalTask:
    """A `Task` on pairs of texts for a model that gives one vector a text.

    A sample is a pair, and one forward call embeds both of its texts: a batch of n pairs has 2n rows, row 2i the
    query and row 2i + 1 the body of one pair (so equal shares of a batch are whole pairs). target holds the
    number of the pair for each row. Texts are padded to the longest of the batch, at most `length`.
    """

    name: str
    splits: Mapping[Split, TokenPairs]
    length: int
    padding: int
    temperature: float = 0.05
    classes: int = 0
    metric: str = "mrr_at_10"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one text, at its longest."""
        return (self.length,)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every split's tokens, the padding, and the loss's temperature."""
        settings = (self.length, self.padding, self.temperature)
        parts = [(name, part.queries, part.bodies) for name, part in sorted(self.splits.items())]
        return hashlib.sha256(repr((settings, parts)).encode()).hexdigest()

    def count(self, split: Split) -> int:
        """Pairs in a split."""
        return len(self.splits[split].queries)

    def batches(self, split: Split, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Batches of `size` pairs: input_ids and attention_mask, int64 of shape (2 size, tokens), by keyword.

        target is int64 of shape (2 size,). Raises UsageError for a size below one, or above what is shuffled.
        """
        part, order = self.splits[split], None
        if seed is not None:
            generator = stream("batches", split, seed, epoch)
            order = torch.randperm(self.count(split), generator=generator, device="cpu")
        for indices in index_batches(self.count(split), size, order):
            rows = [text for pair in indices.tolist() for text in (part.queries[pair], part.bodies[pair])]
            yield Batch((), padded(rows, self.padding), indices.repeat_interleave(2))

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean of both directions' cross-entropy over the batch's cosine similarities divided by the temperature.

        output is float of shape (2 pairs, width), of any norm. Raises UsageError for another one, and for a
        target whose rows are no pairs.
        """
        found = embeddings(output, len(target))
        if len(target) % 2 or not torch.equal(target[::2], target[1::2]):
            raise UsageError("a batch of pairs has the query and the body of one pair in every two rows")
        # Cosines in half precision, divided by 0.05, would be off by more than neighbours differ.
        with torch.autocast(found.device.type, enabled=False):
            wide = found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
            unit = fn.normalize(wide, dim=-1)
            scores = unit[::2] @ unit[1::2].T / self.temperature
            right = torch.arange(len(scores), device=scores.device)
            return (fn.cross_entropy(scores, right) + fn.cross_entropy(scores.T, right)) / 2

    def evaluate(self, model: nn.Module, split: Split = "test", size: int = 256) -> dict[str, float]:
        """mrr_at_10 and recall_at_1 of each query among the bodies of its split, both in [0, 1].

        The model embeds `size` texts at a time in eval mode, on the device of its first parameter; modes and
        generators are as before afterwards. Raises UsageError for an empty split and for an output that is
        no embedding.
        """
        part = self.splits[split]
        if not part.queries:
            raise UsageError(f"the task {self.name} has no {split} samples to evaluate on")
        device = next((found.device for found in model.parameters()), torch.device("cpu"))
        with untouched(model, device):
            queries, bodies = (self._embedded(model, texts, size, device) for texts in (part.queries, part.bodies))
        return figures(ranks(queries @ bodies.T))

    def _embedded(self, model: nn.Module, texts: Sequence[Tokens], size: int, device: torch.device) -> Tensor:
        """Unit vectors of all texts, float64 of shape (texts, width) on the CPU."""
        # Texts of one length together: little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found = []
        for indices in torch.split(torch.tensor(order), size):
            inputs = padded([texts[number] for number in indices.tolist()], self.padding)
            output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
            found.append(embeddings(output, len(indices)).cpu().double())
        return fn.normalize(torch.cat(found)[torch.tensor(order).argsort()], dim=-1)


def padded(rows: Sequence[Tokens], padding: int) -> dict[str, Tensor]:
    """input_ids and attention_mask, int64 of shape (rows, longest); the mask is 0 at the padding."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), padding, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[number, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def embeddings(output: Any, count: int) -> Tensor:
    """The output, where it is one vector a text. Raises UsageError where it is not."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise UsageError(f"its output is of type {type(output).__name__}, no tensor of embeddings")
    if output.ndim != 2 or len(output) != count:
        raise UsageError(f"its output has the shape {tuple(output.shape)}, not {count} vectors")
    return output


def ranks(scores: Tensor) -> Tensor:
    """The place of the diagonal in each row of a square of scores, 1 the best; int64 of shape (rows,).

    What is not lower comes first: a model that gives all texts one vector, or NaN, finds nothing.
    """
    return (~(scores < scores.diagonal()[:, None])).sum(1)


def figures(places: Tensor) -> dict[str, float]:
    """Mean reciprocal rank, 0 past the tenth place, and the share of first places."""
    reciprocal = torch.where(places <= CUTOFF, 1 / places.double(), 0.0)
    return {"mrr_at_10": float(reciprocal.mean()), "recall_at_1": float((places == 1).double().mean())}
