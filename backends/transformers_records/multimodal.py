"""Encoder-decoder text models, audio models, and models that read images and text."""

from __future__ import annotations

from typing import Any

from backends.common import Draw
from backends.transformers_records.record import Config, Record, pairs, pixels, text

_SEQ2SEQ = ("transformer", "attention", "text", "encoder-decoder")
_AUDIO = ("transformer", "attention", "audio")
_PAIR = ("transformer", "attention", "text", "vision")


def _t5(**changes: Any) -> Config:
    sizes = {
        "vocab_size": 101, "d_model": 40, "d_kv": 12, "d_ff": 72, "num_layers": 2, "num_heads": 4,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    return sizes | changes


def _bart(**changes: Any) -> Config:
    sizes = {
        "vocab_size": 101, "d_model": 40, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 5, "encoder_ffn_dim": 72, "decoder_ffn_dim": 76,
        "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    }  # fmt: skip
    return sizes | changes


_CLIP_TEXT = {
    "vocab_size": 101, "hidden_size": 36, "intermediate_size": 68, "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "projection_size": 36,
}  # fmt: skip
_CLIP_VISION = {
    "image_size": 32, "patch_size": 8, "num_channels": 3, "hidden_size": 40, "intermediate_size": 72,
    "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
_CLIP = {"text_config": _CLIP_TEXT, "vision_config": _CLIP_VISION, "projection_dim": 26}
# Both towers of SigLIP end in the same width, since it has no projection of the image side.
_SIGLIP = {
    "text_config": {**_CLIP_TEXT, "hidden_size": 40, "num_attention_heads": 5, "projection_size": 40},
    "vision_config": _CLIP_VISION,
}
_SPEECH = {
    "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72,
    "conv_dim": [12, 20, 28], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "vocab_size": 31, "num_labels": 5,
    "classifier_proj_size": 26, "apply_spec_augment": False, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_WAVE = (Draw((640,), "input_values"),)
_IMAGE_AND_TEXT = (*pixels(), *text())

RECORDS = [
    Record("t5", "T5ForConditionalGeneration", _t5(), pairs(), "seq2seq", tags=_SEQ2SEQ),
    Record("t5-gated", "T5ForConditionalGeneration", _t5(feed_forward_proj="gated-gelu",
           tie_word_embeddings=False),
           pairs(), "seq2seq", tags=_SEQ2SEQ),
    Record("t5-encoder", "T5EncoderModel", _t5(), text(), "features", tags=_SEQ2SEQ),
    Record("mt5", "MT5ForConditionalGeneration", _t5(), pairs(), "seq2seq", tags=_SEQ2SEQ),
    Record("bart", "BartForConditionalGeneration", _bart(), pairs(), "seq2seq", tags=(*_SEQ2SEQ, "tied")),
    Record("mbart", "MBartForConditionalGeneration", _bart(), pairs(), "seq2seq", tags=(*_SEQ2SEQ, "tied")),
    Record("marian", "MarianMTModel", _bart(), pairs(), "seq2seq", tags=(*_SEQ2SEQ, "tied")),
    Record("pegasus", "PegasusForConditionalGeneration", _bart(), pairs(), "seq2seq", tags=(*_SEQ2SEQ,
           "tied")),
    Record("clip", "CLIPModel", _CLIP, _IMAGE_AND_TEXT, "contrastive", tags=_PAIR),
    Record("clip-vision", "CLIPVisionModelWithProjection", {**_CLIP_VISION, "projection_dim": 26}, pixels(),
           "features", tags=_PAIR),
    Record("siglip", "SiglipModel", _SIGLIP, _IMAGE_AND_TEXT, "contrastive", tags=_PAIR),
    Record("vilt", "ViltModel", {
        "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 72, "max_position_embeddings": 16, "image_size": 32, "patch_size": 8,
        "max_image_length": -1,
    }, (*pixels(), *text()), "features", tags=_PAIR),
    Record("whisper", "WhisperForConditionalGeneration", {
        **_bart(), "num_mel_bins": 10, "max_source_positions": 12, "max_target_positions": 16,
        "suppress_tokens": None, "begin_suppress_tokens": None,
    }, (Draw((10, 24), "input_features"), Draw((7,), "decoder_input_ids", "token", 101)), "seq2seq",
    tags=_AUDIO),
    Record("wav2vec2", "Wav2Vec2ForSequenceClassification", _SPEECH, _WAVE, tags=_AUDIO),
    Record("hubert", "HubertForSequenceClassification", _SPEECH, _WAVE, tags=_AUDIO),
    Record("wav2vec2-stable", "Wav2Vec2ForCTC",
           {**_SPEECH, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}, _WAVE, "speech",
           tags=_AUDIO),
    Record("wavlm", "WavLMForSequenceClassification", {**_SPEECH, "num_buckets": 16, "max_bucket_distance": 40}, _WAVE,
           tags=_AUDIO),
    Record("unispeech", "UniSpeechForSequenceClassification", _SPEECH, _WAVE, tags=_AUDIO),
    Record("unispeech-sat", "UniSpeechSatForSequenceClassification", _SPEECH, _WAVE, tags=_AUDIO),
    Record("data2vec-audio", "Data2VecAudioForSequenceClassification", {**_SPEECH, "conv_pos_kernel_size": 5}, _WAVE,
           tags=_AUDIO),
    Record("wav2vec2-conformer", "Wav2Vec2ConformerForSequenceClassification", {
        **_SPEECH, "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 5,
    }, _WAVE, tags=_AUDIO),
    Record("sew", "SEWForSequenceClassification", {**_SPEECH, "squeeze_factor": 2}, _WAVE, tags=_AUDIO),
    Record("speech-to-text", "Speech2TextForConditionalGeneration", {
        **_bart(), "input_feat_per_channel": 10, "num_conv_layers": 2, "conv_channels": 28,
        "max_source_positions": 64, "max_target_positions": 16,
    }, (Draw((24, 10), "input_features"), Draw((7,), "decoder_input_ids", "token", 101)), "seq2seq", tags=_AUDIO),
    Record("ast", "ASTForAudioClassification", {
        "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72,
        "patch_size": 4, "frequency_stride": 3, "time_stride": 3, "max_length": 18, "num_mel_bins": 10,
        "num_labels": 5,
    }, (Draw((18, 10), "input_values"),), tags=_AUDIO),
]  # fmt: skip
