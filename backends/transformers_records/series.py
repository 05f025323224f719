"""Time series, and sequences of states and actions."""

from __future__ import annotations

from backends.common import Draw
from backends.transformers_records.record import Record

_TAGS = ("transformer", "attention", "series")
_SERIES = {
    "prediction_length": 4, "context_length": 9, "lags_sequence": [1, 2, 3], "num_time_features": 2, "d_model": 40,
    "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 5,
    "encoder_ffn_dim": 52, "decoder_ffn_dim": 60,
}  # fmt: skip
# The past is as long as the context and the longest lag.
_PAST = (
    Draw((12,), "past_values"), Draw((12, 2), "past_time_features"), Draw((12,), "past_observed_mask", "mask"),
    Draw((4,), "future_values"), Draw((4, 2), "future_time_features"),
)  # fmt: skip
_PATCHES = {"num_input_channels": 3, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 4}

RECORDS = [
    Record("time-series-transformer", "TimeSeriesTransformerModel", _SERIES, _PAST, "forecasting", tags=_TAGS),
    Record("informer", "InformerModel", {**_SERIES, "attention_type": "prob"}, _PAST, "forecasting", tags=_TAGS),
    Record("autoformer", "AutoformerModel", {**_SERIES, "label_length": 3, "moving_average": 3}, _PAST, "forecasting",
           tags=_TAGS),
    Record("patchtst", "PatchTSTForPrediction", {
        **_PATCHES, "d_model": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 52, "loss": "mse",
    }, (Draw((16, 3), "past_values"),), "forecasting", tags=_TAGS),
    Record("patchtsmixer", "PatchTSMixerForPrediction", {
        **_PATCHES, "d_model": 20, "num_layers": 2, "expansion_factor": 2, "loss": "mse",
    }, (Draw((16, 3), "past_values"),), "forecasting", tags=("mixer", "series")),
    Record("decision-transformer", "DecisionTransformerModel", {
        "state_dim": 6, "act_dim": 3, "hidden_size": 40, "n_layer": 2, "n_head": 4, "n_inner": 72, "n_positions": 64,
        "max_ep_len": 20,
    }, (Draw((5, 6), "states"), Draw((5, 3), "actions"), Draw((5, 1), "rewards"), Draw((5, 1), "returns_to_go"),
        Draw((5,), "timesteps", "token", 20), Draw((5,), "attention_mask", "mask")), "control", tags=_TAGS),
]  # fmt: skip
