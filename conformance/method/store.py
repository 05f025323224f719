"""Trees of tensors, numbers and text in one safetensors file, with nothing pickled."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from conformance.errors import UsageError, sentence
from conformance.report.files import write_together

VERSION = 1
Tree = Any
"""Nested dicts (keys text or whole numbers), lists, tuples; tensors, numbers, text, bool, bytes and None inside."""


def save_tree(path: Path, tree: Tree) -> None:
    """Write one file, whole or not at all. Raises TypeError for what a tree cannot hold."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_packed(tree, tensors))
    metadata = {"version": str(VERSION), "tree": text}
    write_together(path.parent, {path.name: lambda file: save_file(tensors, file, metadata=metadata)})


def load_tree(path: Path) -> Tree:
    """What `save_tree` wrote. Raises UsageError for a file that is missing, damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("version") != str(VERSION) or "tree" not in metadata:
                raise UsageError(f"{path} is no saved state of version {VERSION}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return _unpacked(json.loads(metadata["tree"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read: {sentence(error)}") from error


def _packed(tree: Tree, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        key = str(len(tensors))
        # safetensors refuses tensors that share memory; a scalar keeps its shape.
        tensors[key] = tree.detach().cpu().clone().contiguous()
        return {"t": key}
    if isinstance(tree, dict):
        if not all(isinstance(key, (str, int)) for key in tree):
            raise TypeError("keys of a saved tree are text or whole numbers")
        return {"d": [[key, _packed(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"l" if isinstance(tree, list) else "u": [_packed(value, tensors) for value in tree]}
    if isinstance(tree, bytes):
        return {"b": base64.b64encode(tree).decode()}
    if isinstance(tree, float):
        return {"f": tree.hex()}  # JSON has no inf, nan, and no promise of every bit
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    raise TypeError(f"a saved tree cannot hold a {type(tree).__name__}")


def _unpacked(node: Any, tensors: dict[str, torch.Tensor]) -> Tree:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "t":
        return tensors[value]
    if kind == "d":
        return {key: _unpacked(item, tensors) for key, item in value}
    if kind == "b":
        return base64.b64decode(value)
    if kind == "f":
        return float.fromhex(value)
    items = [_unpacked(item, tensors) for item in value]
    return items if kind == "l" else tuple(items)
