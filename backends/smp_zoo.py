"""Decoders of segmentation-models-pytorch on a small encoder, with random weights: `smp:NAME`.

To add one, append a line to the table: the name of its class, and what it needs besides the encoder.
"""

from __future__ import annotations

from typing import Any

import torch

from backends.common import Draw, require
from backends.listed import Listed, ListedCollection

require("segmentation_models_pytorch", "third-party")


def _listed(decoder: str, encoder: str = "mobilenet_v2", **changes: Any) -> Listed:
    def build() -> torch.nn.Module:
        import segmentation_models_pytorch as smp

        model: torch.nn.Module = getattr(smp, decoder)(encoder, encoder_weights=None, classes=5, **changes)
        return model

    source = f"segmentation_models_pytorch.{decoder}"
    return Listed(build, (Draw((3, 64, 64)),), source, "segmentation", ("cnn", "vision", "segmentation"))


_NARROW = (48, 32, 24, 20, 16)

RECORDS = {
    "unet": _listed("Unet", decoder_channels=_NARROW),
    "unet-scse": _listed("Unet", decoder_attention_type="scse", decoder_channels=_NARROW),
    "unet-resnet18": _listed("Unet", "resnet18", decoder_channels=_NARROW),
    "unetplusplus": _listed("UnetPlusPlus", decoder_channels=_NARROW),
    "linknet": _listed("Linknet"),
    "fpn": _listed("FPN", decoder_pyramid_channels=40, decoder_segmentation_channels=32),
    "pspnet": _listed("PSPNet", psp_out_channels=44),
    "deeplabv3": _listed("DeepLabV3", decoder_channels=36),
    "deeplabv3plus": _listed("DeepLabV3Plus", decoder_channels=36),
    "upernet": _listed("UPerNet", decoder_channels=36),
    "segformer": _listed("Segformer", decoder_segmentation_channels=36),
}

collection = ListedCollection("smp", RECORDS)
