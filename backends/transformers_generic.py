"""The fallback of the transformers collection: any model type, with sizes shrunk by attribute name.

The config class is asked for its defaults, every attribute with a known meaning gets a small
value, nested configs likewise, and `AutoModel`'s class for the type is built from it. There is no
promise that every model type accepts these sizes; one that does not says so when it is built.
"""

from __future__ import annotations

import inspect
from typing import Any

from backends.common import Draw
from conformance.errors import UsageError

_WIDTHS = (12, 20, 28, 36, 44, 52)

_SIZES: dict[str, int] = {
    "vocab_size": 101,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "encoder_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers"), 2),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_encoder_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size"), 12),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner", "ffn_hidden_size"), 72),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "encoder_feedforward_dim"), 72),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_dim"), 28),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "context_length"), 64),
    **dict.fromkeys(("embedding_size", "projection_dim", "projection_size", "word_embed_proj_dim"), 48),
    **dict.fromkeys(("image_size", "img_size"), 32),
    "patch_size": 8,
    "num_mel_bins": 10,
    "max_source_positions": 12,
    "state_size": 6,
    "num_queries": 7,
    "type_vocab_size": 2,
    "global_attn_every_n_layers": 2,
}
_LISTS: dict[str, tuple[int, ...]] = {
    "depths": (1,) * len(_WIDTHS),
    "hidden_sizes": _WIDTHS,
    "embed_dims": _WIDTHS,
    "num_attention_heads": (2,) * len(_WIDTHS),
    "num_heads": (2,) * len(_WIDTHS),
}
_SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "cls_token_id",
                   "sep_token_id", "mask_token_id", "image_token_id", "video_token_id",
                   "audio_token_id")  # fmt: skip


SHRUNK = (
    "aimv2_vision_model", "altclip", "apertus", "arcee", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt",
    "bitnet", "blenderbot", "blenderbot-small", "blip", "chinese_clip", "clipseg", "cohere2", "data2vec-text",
    "diffllama", "dinov2_with_registers", "dinov3_convnext", "doge", "dpr", "dpt", "ernie", "ernie4_5", "eurobert",
    "exaone4", "falcon_mamba", "flava", "git", "glm", "glm4", "gpt_neox_japanese", "gpt_oss", "granitemoe", "groupvit",
    "gte", "helium", "ibert", "imagegpt", "jamba", "jetmoe", "jina_embeddings_v3", "layoutlm", "lfm2", "lilt",
    "llama4_text", "longt5", "m2m_100", "megatron-bert", "metaclip_2", "minimax", "mlcd_vision_model", "mobilebert",
    "mra", "mvp", "nanochat", "nllb-moe", "nomic_bert", "nystromformer", "olmo", "olmo3", "olmoe", "openai-gpt",
    "owlv2", "owlvit", "pegasus_x", "persimmon", "phimoe", "pixio", "plbart", "prophetnet", "qwen3_moe",
    "recurrent_gemma", "rembert", "roberta-prelayernorm", "seed_oss", "smollm3", "splinter", "swiftformer", "swin2sr",
    "switch_transformers", "t5gemma", "tapas", "umt5", "vaultgemma", "visual_bert", "vit_msn", "vitdet", "xglm",
    "xlm-roberta-xl", "xlnet", "xlstm", "yoso",
)  # fmt: skip
"""Model types that are small and run at these sizes: the set `transformers` holds them beside the records."""


def small_arguments(config_class: Any, image_size: int | None = None) -> dict[str, Any]:
    """Keyword arguments for config_class that make it small; nested configs become nested mappings."""
    default = config_class()
    values: dict[str, Any] = dict(vars(default))
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        small = _small(key, value)
        if small is not None:
            chosen[key] = small
    if image_size is not None and "image_size" in chosen:
        chosen["image_size"] = [image_size] * 2 if isinstance(values["image_size"], list) else image_size
    for key in _SPECIAL_TOKENS:
        if isinstance(values.get(key), int) and values[key] >= 100:
            chosen[key] = 90 + _SPECIAL_TOKENS.index(key)
    for key, nested in getattr(config_class, "sub_configs", {}).items():
        own = type(values[key]) if values.get(key) is not None else nested
        if "Auto" not in own.__name__:
            chosen[key] = small_arguments(own, image_size)
            if isinstance(values.get(key), object) and hasattr(own, "model_type") and "Auto" in nested.__name__:
                chosen[key]["model_type"] = own.model_type
    return chosen


def _small(key: str, value: object) -> int | list[int] | None:
    """The small stand-in for one config attribute, or None when it stays as it is."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int) and key in _SIZES:
        return min(value, _SIZES[key]) if value > 0 else None
    if isinstance(value, list | tuple) and key in _LISTS and all(isinstance(item, int) for item in value):
        return list(_LISTS[key][: len(value)])
    if key == "image_size" and isinstance(value, list | tuple):
        return [32, 32]
    return None


def draws_of(name: str, model_class: Any, config: Any) -> tuple[Draw, ...]:
    """The arguments a model class cannot run without, as draws.

    Raises UsageError naming an argument this collection cannot invent.
    """
    parameters = inspect.signature(model_class.forward).parameters
    required = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and key != "self"
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    main = getattr(model_class, "main_input_name", "input_ids")
    wanted = [main, *(key for key in required if key != main)]
    if _reads_both(config):
        wanted += [key for key in ("input_ids", "pixel_values") if key in parameters]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        wanted.append("decoder_input_ids")
    return tuple(_draw(name, key, config) for key in dict.fromkeys(wanted))


def _reads_both(config: Any) -> bool:
    """Whether a model has a text and an image tower side by side.

    One with a token that stands for an image puts features in its place: it reads text alone as well.
    """
    towers = hasattr(config, "vision_config") and hasattr(config, "text_config")
    return towers and not any(hasattr(config, key) for key in ("image_token_id", "image_token_index"))


def _draw(name: str, key: str, config: Any) -> Draw:
    text = getattr(config, "text_config", None) or config
    vision = getattr(config, "vision_config", None) or config
    if key in ("input_ids", "decoder_input_ids"):
        vocab = min(getattr(text, "vocab_size", 101) or 101, 90)
        return Draw((11 if key == "input_ids" else 7,), key, "token", vocab)
    if key == "pixel_values":
        size = getattr(vision, "image_size", None) or 64
        height, width = (size, size) if isinstance(size, int) else (size[-2], size[-1])
        return Draw((getattr(vision, "num_channels", 3) or 3, height, width), key)
    if key == "input_values":
        return Draw((640,), key)
    if key == "input_features":
        return Draw((getattr(config, "num_mel_bins", 10), 2 * getattr(config, "max_source_positions", 12)), key)
    raise UsageError(f"transformers:{name} needs an argument {key!r} that cannot be made up: add a record for it")
