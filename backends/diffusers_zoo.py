"""Small denoisers and autoencoders of diffusers, with random weights: `diffusers:NAME`.

To add one, append a line to the table: the name of its class, its config, its inputs.
"""

from __future__ import annotations

from typing import Any

import torch

from backends.common import Draw, require
from backends.listed import Listed, ListedCollection

require("diffusers", "third-party")

_STEP = Draw((), "timestep", "token", 1000)
_TEXT = Draw((7, 20), "encoder_hidden_states")


def _listed(name: str, config: dict[str, Any], draws: tuple[Draw, ...], *tags: str) -> Listed:
    def build() -> torch.nn.Module:
        import diffusers

        model: torch.nn.Module = getattr(diffusers, name)(**config)
        return model

    return Listed(build, draws, f"diffusers.{name}", "diffusion", ("vision", *tags))


_UNET = {"layers_per_block": 1, "block_out_channels": (16, 24), "norm_num_groups": 4}
_CODER = {
    "block_out_channels": (12, 20), "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
_TRANSFORMER = {"num_attention_heads": 4, "attention_head_dim": 10, "num_layers": 2}

RECORDS = {
    "unet-2d": _listed("UNet2DModel", {
        **_UNET, "sample_size": 16, "attention_head_dim": 6, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }, (Draw((3, 16, 16)), _STEP), "cnn", "attention"),
    "unet-2d-condition": _listed("UNet2DConditionModel", {
        **_UNET, "sample_size": 16, "attention_head_dim": 2, "cross_attention_dim": 20,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }, (Draw((4, 16, 16)), _STEP, _TEXT), "cnn", "attention"),
    "autoencoder-kl": _listed("AutoencoderKL", {**_CODER, "latent_channels": 4}, (Draw((3, 16, 16)),), "cnn"),
    "autoencoder-tiny": _listed("AutoencoderTiny", {
        "encoder_block_out_channels": (12, 12, 12, 12), "decoder_block_out_channels": (12, 12, 12, 12),
        "num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1),
    }, (Draw((3, 16, 16)),), "cnn"),
    "vq": _listed("VQModel", {**_CODER, "latent_channels": 3, "num_vq_embeddings": 16}, (Draw((3, 16, 16)),), "cnn"),
    "dit": _listed("DiTTransformer2DModel", {
        **_TRANSFORMER, "in_channels": 4, "out_channels": 4, "sample_size": 8, "patch_size": 2, "norm_num_groups": 4,
        "num_embeds_ada_norm": 11,
    }, (Draw((4, 8, 8)), _STEP, Draw((), "class_labels", "token", 11)), "transformer", "attention"),
    "sd3": _listed("SD3Transformer2DModel", {
        **_TRANSFORMER, "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4,
        "joint_attention_dim": 20, "caption_projection_dim": 40, "pooled_projection_dim": 16, "pos_embed_max_size": 12,
    }, (Draw((4, 8, 8)), _STEP, _TEXT, Draw((16,), "pooled_projections")), "transformer", "attention"),
    "prior": _listed("PriorTransformer", {
        **_TRANSFORMER, "embedding_dim": 20, "num_embeddings": 7, "additional_embeddings": 4,
    }, (Draw((20,)), _STEP, Draw((20,), "proj_embedding"), _TEXT), "transformer", "attention"),
}  # fmt: skip

collection = ListedCollection("diffusers", RECORDS)
