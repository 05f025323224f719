"""Records in the sizes people deploy. The largest only fit when built on the meta device."""

from __future__ import annotations

from backends.transformers_records.record import Config, Record, pixels, text

_ENCODER = ("transformer", "attention", "text", "encoder")
_DECODER = ("transformer", "attention", "text", "decoder")
_IMAGE = ("transformer", "attention", "vision")


def _bert(name: str, *, layers: int, hidden: int, heads: int, task: str = "classification") -> Record:
    """BERT in one of its published sizes: heads of 64, feed-forward four times the hidden size."""
    model = "BertForQuestionAnswering" if task == "question-answering" else "BertForSequenceClassification"
    config = {
        "vocab_size": 30522,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
    }
    return Record(name, model, config, text(64, 30522), task, "full", _ENCODER)


def _llama(name: str, *, layers: int, hidden: int, heads: int, feed_forward: int, tied: bool = False) -> Record:
    """Llama 3 in one of its published sizes; every one of them has 8 key/value heads."""
    config: Config = {
        "vocab_size": 128256,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "intermediate_size": feed_forward,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": tied,
    }
    tags = (*_DECODER, "gqa", "tied" if tied else "untied")
    return Record(name, "LlamaForCausalLM", config, text(32, 128256), "language-modelling", "full", tags)


_SWIN = {
    "image_size": 224,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "num_labels": 1000,
}
_VIT = {"image_size": 224, "patch_size": 16, "num_labels": 1000}

RECORDS = [
    _bert("bert-base", layers=12, hidden=768, heads=12),
    _bert("bert-large", layers=24, hidden=1024, heads=16),
    _bert("bert-base-qa", layers=12, hidden=768, heads=12, task="question-answering"),
    Record("vit-base", "ViTForImageClassification", _VIT, pixels(224), size="full", tags=_IMAGE),
    Record("swin-tiny", "SwinForImageClassification", _SWIN, pixels(224), size="full", tags=_IMAGE),
    Record(
        "gpt2-small",
        "GPT2LMHeadModel",
        {},
        text(64, 50257),
        "language-modelling",
        "full",
        (*_DECODER, "tied"),
    ),
    _llama("llama-1b", layers=16, hidden=2048, heads=32, feed_forward=8192, tied=True),
    _llama("llama-8b", layers=32, hidden=4096, heads=32, feed_forward=14336),
    _llama("llama-70b", layers=80, hidden=8192, heads=64, feed_forward=28672),
]
