"""Named sets of models: what a sweep over a collection checks, and the defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from conformance.errors import UsageError

DEFAULTS = [
    "handmade:conv-bn-relu",
    "timm:test_resnet",
    "handmade:dense-block",
    "transformers:bert",
    "transformers:vit",
]
"""Five small models, one a family: a plain CNN, a ResNet, a DenseNet, a BERT, a ViT."""


METHODS = ["small:vgg11-w4", "timm:test_resnet", "small:densenet-w4", "transformers:bert"]
"""Four small models for the method contract: a VGG with batch norm, a ResNet, a DenseNet, a BERT."""


def sweep(prefix: str) -> list[str]:
    """The full specs a sweep over one collection checks, sorted. Raises UsageError for another prefix."""
    members: dict[str, Callable[[], list[str]]] = {
        "handmade": handmade,
        "timm": timm,
        "torchvision": torchvision,
        "transformers": transformers,
        "vit-pytorch": vit_pytorch,
        "smp": smp,
        "diffusers": diffusers,
        "small": small,
        "minilm": minilm,
    }
    if prefix not in members:
        raise UsageError(f"no sweep is named {prefix!r}; there are {', '.join(members)}")
    return members[prefix]()


def timm(cache: Path | None = None) -> list[str]:
    """The smallest architecture of each timm family.

    cache is the file the parameter counts are kept in (`default_cache()` when left out). Counting takes
    some minutes the first time, and again after timm was updated.
    """
    from backends.timm_families import smallest_of_each_family

    return _specs("timm", smallest_of_each_family(cache=default_cache() if cache is None else cache))


def default_cache() -> Path:
    """Where timm's parameter counts are kept: `pruning-conformance/` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pruning-conformance" / "timm-parameters.json"


def torchvision() -> list[str]:
    """Every torchvision model, detectors among them, but the quantised ones."""
    from torchvision.models import get_model_builder

    from backends.torchvision_zoo import collection, module_of

    names = (name for name in collection.names() if module_of(get_model_builder(name)) != "quantization")
    return _specs("torchvision", names)


def transformers() -> list[str]:
    """Every small record of the transformers collection, and the model types that generic sizes suit."""
    from backends.transformers_generic import SHRUNK
    from backends.transformers_records import ALL

    return _specs("transformers", [*(record.name for record in ALL.values() if record.size == "tiny"), *SHRUNK])


def vit_pytorch() -> list[str]:
    """Every record of the vit-pytorch collection. Raises ImportError where the library is not installed."""
    from backends.vit_pytorch_zoo import collection

    return _specs("vit-pytorch", collection.names())


def smp() -> list[str]:
    """Every record of the smp collection. Raises ImportError where the library is not installed."""
    from backends.smp_zoo import collection

    return _specs("smp", collection.names())


def diffusers() -> list[str]:
    """Every record of the diffusers collection. Raises ImportError where the library is not installed."""
    from backends.diffusers_zoo import collection

    return _specs("diffusers", collection.names())


def small() -> list[str]:
    """The small trainable models at their own width and at half of it."""
    from backends.small_zoo import collection

    return _specs("small", collection.names())


def minilm() -> list[str]:
    """The pretrained sentence encoder. Raises ImportError where its package is not installed."""
    from backends.minilm_zoo import collection

    return _specs("minilm", collection.names())


def handmade() -> list[str]:
    """Every handmade net."""
    from backends.handmade import collection

    return _specs("handmade", collection.names())


def _specs(prefix: str, names: Iterable[str]) -> list[str]:
    return [f"{prefix}:{name}" for name in sorted(names)]
