"""Small architectures of vit-pytorch, with random weights: `vit-pytorch:NAME`.

To add one, append a line to the table: its module and class in vit_pytorch, its sizes, its input shape.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from backends.common import Draw, require
from backends.listed import Listed, ListedCollection

require("vit_pytorch", "third-party")

_PLAIN = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 40, "depth": 2, "heads": 4, "mlp_dim": 72}
_HEADED = {**_PLAIN, "dim_head": 12}
_IMAGE, _LARGER = (3, 32, 32), (3, 64, 64)


def _listed(module: str, name: str, sizes: dict[str, Any], shape: tuple[int, ...] = _IMAGE, *tags: str) -> Listed:
    def build() -> torch.nn.Module:
        model: torch.nn.Module = getattr(importlib.import_module(f"vit_pytorch.{module}"), name)(**sizes)
        return model

    source = f"vit_pytorch.{module}:{name}"
    return Listed(build, (Draw(shape),), source, tags=("transformer", "attention", "vision", *tags))


RECORDS = {
    "vit": _listed("vit", "ViT", _HEADED),
    "vit-1d": _listed("vit_1d", "ViT", {
        "seq_len": 32, "patch_size": 4, **{k: v for k, v in _HEADED.items() if k not in ("image_size", "patch_size")},
    }, (3, 32)),
    "vit-parallel": _listed("parallel_vit", "ViT", {**_HEADED, "num_parallel_branches": 2}),
    "vit-patch-merger": _listed("vit_with_patch_merger", "ViT", {
        **_HEADED, "patch_merge_layer": 1, "patch_merge_num_tokens": 6,
    }),
    "vit-small-dataset": _listed("vit_for_small_dataset", "ViT", _HEADED),
    "simple-vit": _listed("simple_vit", "SimpleViT", _HEADED),
    "simple-vit-registers": _listed("simple_vit_with_register_tokens", "SimpleViT", {
        **_HEADED, "num_register_tokens": 3,
    }),
    "simple-vit-qk-norm": _listed("simple_vit_with_qk_norm", "SimpleViT", _HEADED),
    "deepvit": _listed("deepvit", "DeepViT", _HEADED),
    "cait": _listed("cait", "CaiT", {**_HEADED, "cls_depth": 1}),
    "xcit": _listed("xcit", "XCiT", {**_HEADED, "cls_depth": 1}),
    "pit": _listed("pit", "PiT", {**_HEADED, "depth": (1, 1)}, _IMAGE, "cnn"),
    "nest": _listed("nest", "NesT", {
        "image_size": 32, "patch_size": 4, "num_classes": 5, "dim": 16, "heads": 2, "num_hierarchies": 2,
        "block_repeats": (1, 1), "dim_head": 12,
    }, _IMAGE, "cnn"),
    "cvt": _listed("cvt", "CvT", {
        "num_classes": 5, "s1_emb_dim": 12, "s1_mlp_mult": 2, "s2_emb_dim": 20, "s2_heads": 2, "s2_depth": 1,
        "s2_mlp_mult": 2, "s3_emb_dim": 28, "s3_heads": 2, "s3_depth": 1, "s3_mlp_mult": 2,
    }, _LARGER, "cnn"),
    "levit": _listed("levit", "LeViT", {
        "image_size": 64, "num_classes": 5, "dim": (24, 32), "depth": 1, "heads": (2, 3), "mlp_mult": 2, "stages": 2,
        "dim_key": 8, "dim_value": 12,
    }, _LARGER, "cnn"),
    "cross-vit": _listed("cross_vit", "CrossViT", {
        "image_size": 32, "num_classes": 5, "depth": 1, "sm_dim": 24, "lg_dim": 40, "sm_patch_size": 8,
        "sm_enc_depth": 1, "sm_enc_heads": 2, "sm_enc_mlp_dim": 36, "sm_enc_dim_head": 12, "lg_patch_size": 16,
        "lg_enc_depth": 1, "lg_enc_heads": 3, "lg_enc_mlp_dim": 52, "lg_enc_dim_head": 12, "cross_attn_depth": 1,
        "cross_attn_heads": 2, "cross_attn_dim_head": 12,
    }),
}  # fmt: skip

collection = ListedCollection("vit-pytorch", RECORDS)
