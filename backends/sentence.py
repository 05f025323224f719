"""One unit vector a text: a transformer, the mean over its tokens, a linear layer, L2 normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from conformance.errors import UsageError, sentence

UNUSED = ("pooler.", "embeddings.position_ids")
"""Entries of a published BERT that a mean over tokens does not read."""


class SentenceEncoder(nn.Module):
    """Embeds texts with a transformer whose output has a `last_hidden_state` of `width` channels.

    The output layer begins as the identity, so a new encoder computes what it would without one, to the bit. It is
    there because an embedding keeps its size when the model is pruned: without it the hidden channels would
    be the embedding, and none of them could leave.
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.output.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings of norm 1, float of shape (batch, width).

        Both arguments are int64 of shape (batch, tokens); the mask is 1 where there is a token, 0 at padding.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.to(hidden.dtype)[:, :, None]
        # A text without a token has the mean 0, not a division by 0.
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return nn.functional.normalize(self.output(mean), dim=-1)


def load_encoder(folder: Path) -> SentenceEncoder:
    """The BERT in a folder with `config.json` and `model.safetensors`, float32, in train mode as every new module.

    Nothing else of the folder is read, and nothing in it is run. Raises UsageError for files that are missing,
    damaged, of another architecture, or do not hold exactly the weights of the config.
    """
    import transformers

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{folder} holds no weights that can be read: {sentence(error)}") from error
    if config.get("model_type") != "bert":
        raise UsageError(f"{folder} holds a model of type {config.get('model_type')!r}, not bert")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
    encoder = transformers.BertModel(transformers.BertConfig(**config), add_pooling_layer=False)
    if wrong := _difference({name: tensor.shape for name, tensor in encoder.state_dict().items()}, weights):
        raise UsageError(f"the weights in {folder} are not those of its config: {wrong}")
    encoder.load_state_dict(weights)
    return SentenceEncoder(encoder, encoder.config.hidden_size)


def _difference(wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor]) -> str:
    """The first entry that is missing, too many or of another shape, in words; empty when there is none."""
    for name in sorted({*wanted, *given}):
        if name not in given:
            return f"{name} is missing"
        if name not in wanted:
            return f"there is no {name} in it"
        if given[name].shape != wanted[name]:
            return f"{name} has the shape {tuple(given[name].shape)}, not {tuple(wanted[name])}"
    return ""
