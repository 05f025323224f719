"""Text decoders: causal language models, state-space models included."""

from __future__ import annotations

from typing import Any

from backends.transformers_records.record import Config, Record, decoder, text

_TAGS = ("transformer", "attention", "text", "decoder")


def _causal(name: str, model: str, config: Config, *tags: str) -> Record:
    return Record(name, f"{model}ForCausalLM", config, text(), "language-modelling", tags=(*_TAGS, *tags))


def _plain(**changes: Any) -> Config:
    """A decoder with one key/value head a query head: 4 heads of 10."""
    drop = {"num_key_value_heads", "head_dim"}
    return {key: value for key, value in decoder(**changes).items() if key not in drop}


def _merged(**changes: Any) -> Config:
    """A decoder whose head width is hidden size / heads: 4 query heads of 10 on 2 key/value heads."""
    return {key: value for key, value in decoder(**changes).items() if key != "head_dim"}


def _gpt(**changes: Any) -> Config:
    """The sizes of the decoders that follow GPT-2's names."""
    sizes = {
        "vocab_size": 101,
        "n_embd": 40,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 72,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return sizes | changes


_EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}

_DEEPSEEK = {
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 28,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_key_value_heads": 4,
}

RECORDS = [
    Record("gpt2", "GPT2LMHeadModel", _gpt(), text(), "language-modelling", tags=(*_TAGS, "tied")),
    _causal(
        "gpt-neo",
        "GPTNeo",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 72,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 6,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "tied",
    ),
    _causal("gpt-neox", "GPTNeoX", _plain(rotary_pct=0.4)),
    _causal("gptj", "GPTJ", _gpt(rotary_dim=4)),
    _causal("codegen", "CodeGen", _gpt(rotary_dim=4)),
    _causal("gpt-bigcode", "GPTBigCode", _gpt(multi_query=True), "gqa"),
    _causal(
        "opt",
        "OPT",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 72,
            "word_embed_proj_dim": 26,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "tied",
    ),
    _causal(
        "bloom",
        "Bloom",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "tied",
        "alibi",
    ),
    _causal(
        "mpt",
        "Mpt",
        {
            "vocab_size": 101,
            "d_model": 40,
            "n_layers": 2,
            "n_heads": 4,
            "expansion_ratio": 2,
            "max_seq_len": 64,
        },
        "tied",
        "alibi",
    ),
    _causal("llama", "Llama", decoder(), "gqa"),
    _causal("llama-biased", "Llama", decoder(attention_bias=True, mlp_bias=True), "gqa"),
    _causal("qwen2", "Qwen2", decoder(), "gqa"),
    _causal("qwen3", "Qwen3", decoder(), "gqa"),
    _causal("mistral", "Mistral", decoder(sliding_window=6), "gqa"),
    _causal("mixtral", "Mixtral", decoder(**_EXPERTS), "gqa", "moe"),
    _causal(
        "qwen2-moe",
        "Qwen2Moe",
        decoder(
            num_experts=3,
            num_experts_per_tok=2,
            moe_intermediate_size=28,
            shared_expert_intermediate_size=36,
        ),
        "gqa",
        "moe",
    ),
    _causal("gemma", "Gemma", decoder(), "gqa", "tied"),
    _causal("gemma2", "Gemma2", decoder(query_pre_attn_scalar=12, sliding_window=6), "gqa", "tied"),
    _causal("gemma3", "Gemma3", decoder(query_pre_attn_scalar=12, sliding_window=6), "gqa", "tied"),
    _causal("phi", "Phi", _merged(partial_rotary_factor=0.4), "gqa"),
    _causal("phi3", "Phi3", _merged(), "gqa"),
    _causal(
        "falcon",
        "Falcon",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "ffn_hidden_size": 72,
            "bias": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "gqa",
    ),
    _causal("stablelm", "StableLm", _merged(partial_rotary_factor=0.4), "gqa"),
    _causal("starcoder2", "Starcoder2", _merged(sliding_window=6), "gqa", "tied"),
    _causal("olmo2", "Olmo2", _merged(), "gqa"),
    _causal("granite", "Granite", _merged(), "gqa"),
    _causal("cohere", "Cohere", _merged(), "gqa", "tied"),
    _causal("deepseek-v2", "DeepseekV2", {**_plain(), **_DEEPSEEK}, "moe"),
    _causal("deepseek-v3", "DeepseekV3", {**_plain(), **_DEEPSEEK}, "moe"),
    Record(
        "ctrl",
        "CTRLLMHeadModel",
        {"vocab_size": 101, "n_embd": 40, "n_layer": 2, "n_head": 4, "dff": 72, "n_positions": 64},
        text(),
        "language-modelling",
        tags=(*_TAGS, "tied"),
    ),
    Record(
        "mamba",
        "MambaForCausalLM",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "state_size": 6,
            "expand": 2,
            "conv_kernel": 4,
            "time_step_rank": 5,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        text(),
        "language-modelling",
        tags=("text", "decoder", "ssm", "tied"),
    ),
    Record(
        "mamba2",
        "Mamba2ForCausalLM",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "state_size": 6,
            "expand": 2,
            "num_heads": 8,
            "head_dim": 10,
            "n_groups": 2,
            "conv_kernel": 4,
            "chunk_size": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        text(),
        "language-modelling",
        tags=("text", "decoder", "ssm"),
    ),
    Record(
        "rwkv",
        "RwkvForCausalLM",
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "attention_hidden_size": 44,
            "num_hidden_layers": 2,
            "intermediate_size": 72,
            "context_length": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        text(),
        "language-modelling",
        tags=("text", "decoder", "recurrent"),
    ),
]
