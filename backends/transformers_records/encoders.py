"""Text encoders."""

from __future__ import annotations

from backends.common import Draw
from backends.transformers_records.record import LENGTH, Record, encoder, text

_TAGS = ("transformer", "attention", "text", "encoder")

_MASKED = (
    *text(),
    Draw((LENGTH,), "attention_mask", "mask"),
    Draw((LENGTH,), "token_type_ids", "token", 2),
)


_XLM = {
    "vocab_size": 101,
    "n_words": 101,
    "emb_dim": 40,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 64,
    "num_labels": 5,
    "pad_index": 0,
    "mask_index": 3,
}


def _classifier(name: str, model: str, **changes: object) -> Record:
    return Record(name, f"{model}ForSequenceClassification", encoder(**changes), text(), tags=_TAGS)


RECORDS = [
    _classifier("bert", "Bert"),
    Record("bert-qa", "BertForQuestionAnswering", encoder(num_labels=2), text(), "question-answering", tags=_TAGS),
    Record("bert-masked", "BertForSequenceClassification", encoder(), _MASKED, tags=_TAGS),
    Record("bert-mlm", "BertForMaskedLM", encoder(), text(), "language-modelling", tags=(*_TAGS, "tied")),
    Record(
        "distilbert",
        "DistilBertForSequenceClassification",
        {
            "vocab_size": 101,
            "dim": 40,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 72,
            "max_position_embeddings": 64,
            "num_labels": 5,
            "pad_token_id": 0,
        },
        text(),
        tags=_TAGS,
    ),
    _classifier("roberta", "Roberta"),
    _classifier("xlm-roberta", "XLMRoberta"),
    _classifier("albert", "Albert", embedding_size=26),
    _classifier("electra", "Electra", embedding_size=26),
    _classifier("deberta", "Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"], pooler_hidden_size=40),
    _classifier(
        "deberta-v2",
        "DebertaV2",
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pooler_hidden_size=40,
    ),
    _classifier("mpnet", "MPNet"),
    _classifier("camembert", "Camembert"),
    _classifier("roformer", "RoFormer", embedding_size=26),
    _classifier(
        "modernbert",
        "ModernBert",
        local_attention=6,
        global_attn_every_n_layers=2,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    _classifier("convbert", "ConvBert", embedding_size=26, head_ratio=2, conv_kernel_size=5),
    _classifier("squeezebert", "SqueezeBert", embedding_size=40),
    Record("xlm", "XLMForSequenceClassification", _XLM, text(), tags=_TAGS),
    Record("flaubert", "FlaubertForSequenceClassification", _XLM, text(), tags=_TAGS),
    Record(
        "funnel",
        "FunnelForSequenceClassification",
        {
            "vocab_size": 101,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 40,
            "n_head": 4,
            "d_head": 12,
            "d_inner": 72,
            "num_labels": 5,
        },
        text(),
        tags=_TAGS,
    ),
    _classifier("longformer", "Longformer", attention_window=4),
    Record("fnet", "FNetForSequenceClassification", encoder(), text(), tags=("text", "encoder")),
]
