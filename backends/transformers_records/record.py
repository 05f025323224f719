"""The shape of a record, and the usual inputs and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.common import Draw

VOCAB = 101
LENGTH = 11

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One architecture: the model class of transformers, what its config says, and its inputs.

    config holds the keyword arguments of the model's config class; a nested mapping becomes the
    nested config of that name.
    """

    name: str
    model: str
    config: Config
    draws: tuple[Draw, ...]
    task: str = "classification"
    size: str = "tiny"
    tags: tuple[str, ...] = ()


def text(length: int = LENGTH, vocab: int = VOCAB) -> tuple[Draw, ...]:
    """Token ids of shape (batch, length)."""
    return (Draw((length,), "input_ids", "token", vocab),)


def pairs(length: int = LENGTH, vocab: int = VOCAB, encoder: str = "input_ids") -> tuple[Draw, ...]:
    """Token ids for an encoder and shorter ones for its decoder."""
    return (
        Draw((length,), encoder, "token", vocab),
        Draw((length - 4,), "decoder_input_ids", "token", vocab),
    )


def pixels(size: int = 32, channels: int = 3) -> tuple[Draw, ...]:
    """Square images of shape (batch, channels, size, size)."""
    return (Draw((channels, size, size), "pixel_values"),)


def encoder(**changes: Any) -> Config:
    """The sizes of a small BERT-like encoder: 4 heads of 10, feed-forward 72."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 72,
        "max_position_embeddings": 64,
        "num_labels": 5,
        "pad_token_id": 0,
    }
    return sizes | changes


def decoder(**changes: Any) -> Config:
    """The sizes of a small Llama-like decoder: 4 query heads of 12 on 2 key/value heads, feed-forward 72."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "intermediate_size": 72,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return sizes | changes


def vit(**changes: Any) -> Config:
    """The sizes of a small ViT: 16 patches of 8x8, 4 heads of 10, feed-forward 72."""
    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "num_channels": 3,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 72,
        "num_labels": 5,
    }
    return sizes | changes
