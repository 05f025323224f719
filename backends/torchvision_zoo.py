"""Every model torchvision lists, with random weights: `torchvision:NAME`.

Inputs are small. The size comes from what the model's builder and its weights' metadata say about
the smallest input they take; a vision transformer is built for the small image. Detectors resize to
what they are given and report their ten best boxes whatever the score, since random weights never
reach a useful one and an empty answer would show nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from backends.common import Draw, Drawn, require, reshaped, tagged
from conformance.backend import Backend, Inputs, unknown_name
from conformance.errors import UsageError

require("torchvision", "zoo")

_SMALL = 64
_FLOW = 128
_VIDEO = 112
_FRAMES = 4
_TASKS = {"optical_flow": "optical-flow", "quantization": "classification"}


@dataclass(frozen=True)
class ImageList:
    """The inputs of a detector: one list of images of shape (3, height, width), values in [0, 1)."""

    shape: tuple[int, ...]

    def __call__(self, batch: int, generator: torch.Generator) -> Inputs:
        images = torch.rand((batch, *self.shape), generator=generator, device=torch.device("cpu"))
        return (list(images.unbind(0)),), {}


class TorchvisionCollection:
    """The torchvision collection."""

    prefix = "torchvision"

    def names(self) -> list[str]:
        """Every registered model, detection and quantised ones included, sorted."""
        import torchvision

        return sorted(torchvision.models.list_models())

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The backend of a registered model; input_shape (without the batch) replaces the default one.

        Raises UsageError for an unknown name, another number of dimensions, or channels other than 3.
        """
        return self._record(name, input_shape, {})

    def adapted(self, name: str, shape: tuple[int, ...], classes: int) -> Backend:
        """The backend of a registered model with so many classes, for images of `shape` (3, height, width).

        Raises UsageError as `get` does.
        """
        return self._record(name, shape, {"num_classes": classes})

    def _record(self, name: str, input_shape: tuple[int, ...] | None, changes: dict[str, Any]) -> Backend:
        import torchvision

        names = self.names()
        if name not in names:
            raise unknown_name(self.prefix, name, names)
        spec = f"{self.prefix}:{name}"
        builder = torchvision.models.get_model_builder(name)
        kind = module_of(builder)
        draws = reshaped(spec, default_draws(name, kind), input_shape)
        shape = draws[0].shape
        if shape[0] != 3:
            raise UsageError(f"{spec} takes 3 channels, not {shape[0]}")
        arguments = build_arguments(name, kind, builder, shape) | changes

        def build() -> torch.nn.Module:
            model: torch.nn.Module = builder(**arguments)
            return model

        return Backend(
            name=spec,
            build=build,
            inputs=ImageList(shape) if kind == "detection" else Drawn(draws),
            source=f"{builder.__module__}:{builder.__name__}",
            task=_TASKS.get(kind, kind),
            size="full",
            tags=tagged(("torchvision", kind), ("quantized",) if kind == "quantization" else ()),
        )


def module_of(builder: Callable[..., Any]) -> str:
    """The part of torchvision.models a builder lives in; `classification` for the top level."""
    parts = builder.__module__.split(".")
    return parts[2] if len(parts) > 3 else "classification"


def default_draws(name: str, kind: str) -> tuple[Draw, ...]:
    """The small default inputs of a model, as positional arguments."""
    facts = _facts(name)
    least = max(facts.get("min_size", (1, 1)))
    if kind == "optical_flow":
        side = max(_FLOW, least)
        return (Draw((3, side, side)), Draw((3, side, side)))
    if kind == "video":
        frames = max(_FRAMES, facts.get("min_temporal_size", 1))
        side = max(_VIDEO, least)
        return (Draw((3, frames, side, side)),)
    if name.startswith("vit_"):
        # Whole patches, and more than one of them.
        patch = int(name.rsplit("_", maxsplit=1)[-1])
        side = patch * max(2, _SMALL // patch)
    elif name.startswith("maxvit"):
        # Its 7x7 windows have to fit at every scale, so its own size is its smallest.
        side = 224
    else:
        side = max(_SMALL, least)
    return (Draw((3, side, side)),)


def _facts(name: str) -> dict[str, Any]:
    """What the metadata of the model's default weights says; nothing is downloaded. {} without weights."""
    import torchvision

    try:
        weights = list(torchvision.models.get_model_weights(name))
    except ValueError:
        return {}
    return dict(weights[-1].meta) if weights else {}


def build_arguments(name: str, kind: str, builder: Callable[..., Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments of the builder: no weights at all, and what the input size asks for."""
    parameters = inspect.signature(builder).parameters
    arguments: dict[str, Any] = {"weights": None, "progress": False}
    if "weights_backbone" in parameters:
        arguments["weights_backbone"] = None
    if "googlenet" in name or "inception" in name:
        # Their own initialisation draws from a truncated normal on the CPU and takes most of a minute.
        arguments["init_weights"] = False
    if name.startswith("vit_"):
        if shape[1] != shape[2]:
            raise UsageError(f"torchvision:{name} takes square images, not {shape[1]}x{shape[2]}")
        arguments["image_size"] = shape[1]
    if kind == "quantization":
        arguments["quantize"] = True
    if kind == "detection":
        arguments.update(_detector_arguments(name, shape))
    return arguments


def _detector_arguments(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    if "rcnn" in name:
        best = {"box_score_thresh": 0.0, "box_detections_per_img": 10}
    else:
        best = {"score_thresh": 0.0, "detections_per_img": 10}
    if name.startswith("ssd"):
        return best
    return best | {"min_size": min(shape[1:]), "max_size": max(shape[1:])}


collection = TorchvisionCollection()
