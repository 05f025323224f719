"""Which models faults are planted in: every handmade net, and small models of the libraries."""

from __future__ import annotations

from backends import sets

SMALL_IMAGE = (3, 64, 64)

LIBRARIES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys((
        "timm:test_resnet", "timm:test_efficientnet", "timm:test_efficientnet_gn", "timm:test_convnext",
        "timm:test_convnext3", "timm:test_nfnet", "timm:test_byobnet", "timm:test_mambaout",
        "torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x0_5", "torchvision:mobilenet_v3_small",
    ), SMALL_IMAGE),
    **dict.fromkeys((
        "timm:test_vit", "timm:test_vit3", "timm:test_vit_relpos",
        "transformers:albert", "transformers:bert", "transformers:convnext", "transformers:gpt-neox",
        "transformers:gpt2", "transformers:llama", "transformers:mamba", "transformers:mixtral", "transformers:resnet",
        "transformers:swin", "transformers:t5", "transformers:vit", "transformers:whisper",
    )),
}  # fmt: skip
"""Model -> input shape where it is not the record's own."""

CHECKED = (
    "handmade:conv-bn-relu", "handmade:residual", "handmade:dense-block", "handmade:concat", "handmade:layer-norm",
    "handmade:grouped-conv", "handmade:nn-transformer-encoder", "handmade:attention-separate", "handmade:conv-attention",
    "handmade:attention-talking-heads", "handmade:lstm", "handmade:tied-lm-head", "timm:test_resnet", "transformers:bert",
)  # fmt: skip
"""Models whose checks run with a fault in the engine."""


def models() -> list[str]:
    return [*sets.handmade(), *LIBRARIES]


def shape_of(spec: str) -> tuple[int, ...] | None:
    return LIBRARIES.get(spec)
