"""Image models."""

from __future__ import annotations

from backends.common import Draw
from backends.transformers_records.record import Config, Record, pixels, vit

_VIT = ("transformer", "attention", "vision")
_CNN = ("cnn", "vision")


def _classifier(name: str, model: str, config: Config, tags: tuple[str, ...] = _VIT, size: int = 32) -> Record:
    return Record(name, f"{model}ForImageClassification", config, pixels(size), tags=tags)


_DINO = {key: value for key, value in vit(mlp_ratio=2).items() if key != "intermediate_size"}
_SWIN = {
    "image_size": 32, "patch_size": 4, "num_channels": 3, "embed_dim": 20, "depths": [2, 2],
    "num_heads": [2, 5], "window_size": 4, "mlp_ratio": 1.5, "num_labels": 5,
}  # fmt: skip
_RESNET = {
    "embedding_size": 12, "hidden_sizes": [20, 28, 36, 44], "depths": [1, 2, 1, 1],
    "layer_type": "bottleneck",
}  # fmt: skip
_DETR = {
    "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 52, "decoder_ffn_dim": 60, "num_queries": 7,
    "num_labels": 5, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "backbone_config": {"model_type": "resnet", **_RESNET, "out_features": ["stage4"]},
}  # fmt: skip
_CLIP = (Draw((3, 3, 32, 32), "pixel_values"),)
_FRAMES = (Draw((4, 3, 32, 32), "pixel_values"),)

RECORDS = [
    _classifier("vit", "ViT", vit()),
    _classifier("deit", "DeiT", vit()),
    _classifier("beit", "Beit", vit(use_relative_position_bias=True, layer_scale_init_value=0.1)),
    _classifier("beit-shared-bias", "Beit", vit(use_shared_relative_position_bias=True)),
    _classifier("data2vec-vision", "Data2VecVision", vit(use_relative_position_bias=True)),
    _classifier("dinov2", "Dinov2", _DINO),
    _classifier("dinov2-swiglu", "Dinov2", {**_DINO, "use_swiglu_ffn": True}),
    Record("dinov3", "DINOv3ViTModel", vit(hidden_size=48, num_register_tokens=2), pixels(), "features",
           tags=_VIT),
    # Patches are shuffled by noise, which is random unless it is given.
    Record("vit-mae", "ViTMAEModel", vit(mask_ratio=0.5), (*pixels(), Draw((16,), "noise")), "features", tags=_VIT),
    _classifier("ijepa", "IJepa", vit()),
    _classifier("swin", "Swin", _SWIN, size=32),
    _classifier("swinv2", "Swinv2", _SWIN, size=32),
    _classifier("convnext", "ConvNext",
                {"hidden_sizes": [12, 20, 28, 36], "depths": [1, 2, 1, 1], "num_labels": 5},
                _CNN, 64),
    _classifier("convnextv2", "ConvNextV2",
                {"hidden_sizes": [12, 20, 28, 36], "depths": [1, 2, 1, 1], "num_labels": 5}, _CNN, 64),
    _classifier("resnet", "ResNet", {**_RESNET, "num_labels": 5}, _CNN, 64),
    _classifier("regnet", "RegNet", {
        "embedding_size": 12, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1], "groups_width": 8,
        "num_labels": 5,
    }, _CNN, 64),
    _classifier("mobilenet-v1", "MobileNetV1", {"depth_multiplier": 0.25, "num_labels": 5}, _CNN, 64),
    _classifier("mobilenet-v2", "MobileNetV2", {"depth_multiplier": 0.25, "num_labels": 5}, _CNN, 64),
    _classifier("efficientnet", "EfficientNet", {
        "image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320,
        "num_labels": 5,
    }, _CNN, 64),
    _classifier("mobilevit", "MobileViT", {
        "image_size": 64, "hidden_sizes": [20, 28, 36], "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 56],
        "num_attention_heads": 4, "num_labels": 5,
    }, (*_VIT, "cnn"), 64),
    _classifier("mobilevitv2", "MobileViTV2", {
        "image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1],
        "base_attn_unit_dims": [32, 48, 64],
        "num_labels": 5,
    }, (*_VIT, "cnn"), 64),
    _classifier("poolformer", "PoolFormer", {
        "hidden_sizes": [12, 20, 28, 36], "depths": [1, 1, 1, 1], "mlp_ratio": 2.0, "num_labels": 5,
    }, ("cnn", "vision", "group-norm"), 64),
    _classifier("pvt", "Pvt", {
        "image_size": 64, "hidden_sizes": [12, 20, 30, 44], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [3, 3, 2, 2], "num_labels": 5,
    }, _VIT, 64),
    _classifier("pvt-v2", "PvtV2", {
        "image_size": 64, "hidden_sizes": [12, 20, 30, 44], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [3, 3, 2, 2], "num_labels": 5,
    }, _VIT, 64),
    _classifier("cvt", "Cvt", {
        "embed_dim": [12, 20, 30], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "mlp_ratio": [3.0, 2.0, 2.0],
        "num_labels": 5,
    }, (*_VIT, "cnn"), 64),
    _classifier("levit", "Levit", {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
        "key_dim": [6, 6, 6], "mlp_ratio": [2, 2, 2], "attention_ratio": [2, 2, 2], "num_labels": 5,
        "down_ops": [["Subsample", 6, 2, 4, 2, 2], ["Subsample", 6, 4, 4, 2, 2]],
    }, _VIT, 64),
    _classifier("focalnet", "FocalNet", {
        "image_size": 32, "patch_size": 4, "embed_dim": 20, "hidden_sizes": [20, 40], "depths": [1, 2],
        "focal_levels": [2, 2], "focal_windows": [3, 3], "mlp_ratio": 1.5, "num_labels": 5,
    }, (*_CNN, "modulation"), 32),
    _classifier("bit", "Bit", {
        "embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "num_groups": 4,
        "num_labels": 5,
    }, (*_CNN, "group-norm"), 64),
    Record("segformer", "SegformerForSemanticSegmentation", {
        "hidden_sizes": [12, 20, 30, 44], "depths": [1, 1, 2, 1], "num_attention_heads": [1, 2, 3, 4],
        "mlp_ratios": [3, 3, 2, 2], "decoder_hidden_size": 26, "num_labels": 5,
    }, pixels(64), "segmentation", tags=_VIT),
    Record("glpn", "GLPNForDepthEstimation", {
        "hidden_sizes": [12, 20, 30, 44], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
        "mlp_ratios": [3, 3, 2, 2], "decoder_hidden_size": 26,
    }, pixels(64), "depth", tags=_VIT),
    Record("detr", "DetrForObjectDetection", _DETR, pixels(64), "detection", tags=(*_VIT, "cnn",
           "detection")),
    Record("conditional-detr", "ConditionalDetrForObjectDetection", _DETR, pixels(64), "detection",
           tags=(*_VIT, "cnn", "detection")),
    Record("table-transformer", "TableTransformerForObjectDetection", _DETR, pixels(64), "detection",
           tags=(*_VIT, "cnn", "detection")),
    Record("dab-detr", "DabDetrForObjectDetection", {
        **_DETR, "hidden_size": 24, "normalize_before": False,
    }, pixels(64), "detection", tags=(*_VIT, "cnn", "detection")),
    Record("timesformer", "TimesformerForVideoClassification", vit(num_frames=3), _CLIP, "video", tags=_VIT),
    Record("videomae", "VideoMAEForVideoClassification", vit(num_frames=4, tubelet_size=2, use_mean_pooling=True),
           _FRAMES, "video", tags=_VIT),
    Record("vivit", "VivitForVideoClassification", vit(num_frames=4, tubelet_size=[2, 8, 8]), _FRAMES, "video",
           tags=_VIT),
    Record("yolos", "YolosForObjectDetection", vit(image_size=[32, 32], num_detection_tokens=7), pixels(),
           "detection", tags=(*_VIT, "detection")),
    Record("mask2former", "Mask2FormerForUniversalSegmentation", {
        "backbone_config": {
            "model_type": "swin", **{key: value for key, value in _SWIN.items() if key != "num_labels"},
            "image_size": 64, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4], "window_size": 2,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 52,
        "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 60,
        "num_queries": 7, "num_labels": 5, "use_pretrained_backbone": False,
    }, pixels(64), "segmentation", tags=(*_VIT, "segmentation")),
]  # fmt: skip
