"""What a run depended on: versions, machine, threads, device."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "pruning-conformance"
_PACKAGES = (
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "scipy",
    "safetensors",
    "torch-pruning",
    "torch-kirigami",
    "mlflow",
)
_DECIDING = ("torch", "torchvision", "timm", "transformers")


def tool_version() -> str:
    """Our own version, `unknown` when the package is run without being installed."""
    return installed(DISTRIBUTION) or "unknown"


def installed(package: str) -> str:
    """The installed version of a distribution, empty when it is not there. Imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def deciding_versions() -> dict[str, str]:
    """The versions that decide what a model is and how it is checked; empty for what is not there."""
    return {DISTRIBUTION: tool_version(), **{name: installed(name) for name in _DECIDING}}


@functools.cache
def engine_digest() -> str:
    """12 hex digits over the engine's source, so that results of different states can be told apart."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def environment(device: str = "cpu", threads: int = 0) -> dict[str, str]:
    """Name -> value of all that a reader needs to repeat the run. threads 0: torch's own choice."""
    import torch

    found = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "torch": torch.__version__,
        "engine": engine_digest(),
        "platform": platform.platform(),
        "processors": str(os.cpu_count() or "unknown"),
        "threads": str(threads or torch.get_num_threads()),
        "device": device,
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        found["device"] = f"{device} ({torch.cuda.get_device_name(torch.device(device))})"
    return found | {name: number for name in _PACKAGES if (number := installed(name))}
