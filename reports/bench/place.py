"""Where a figure was made: hardware and commit."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path

import psutil
import torch


@functools.cache
def hardware(device: str = "cpu") -> dict[str, str]:
    """Processor, cores and memory, threads of torch, and the accelerator where one is used."""
    found = {
        "cpu": _processor(),
        "cores": str(psutil.cpu_count(logical=True)),
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.0f}",
        "threads": str(torch.get_num_threads()),
        "device": device,
        "system": platform.system(),
    }
    if device.startswith("cuda"):
        found["accelerator"] = torch.cuda.get_device_name(torch.device(device))
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """The commit of the project's checkout, with + where files differ from it; empty outside one."""
    root = Path(__file__).resolve().parents[2]
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20)  # noqa: S603, S607
    return done.stdout.strip()
