"""The traced graph: every ATen operation one forward pass dispatched, in order.

A value is a tensor that existed during the pass; values are numbered from 0. Operations refer to
values by `Ref`, so the tape holds no tensor data and a 70 B model's tape is a few megabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for value `index` of the tape inside an operation's arguments."""

    index: int


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the pass. kind: parameter, buffer, input, constant or result (of an operation)."""

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def floating(self) -> bool:
        return self.dtype.is_floating_point or self.dtype.is_complex


_SHAPED_BY_VALUES = frozenset(("torchvision::nms",))
"""Operations that do not say so by torch's own tag."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where in the model's code an operation came from."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.sep.join(self.file.split(os.path.sep)[-3:])}:{self.line}"


@dataclass(frozen=True, slots=True)
class Node:
    """One dispatched operation.

    args and kwargs hold `Ref`s in place of tensors; outputs is the result with `Ref`s likewise.
    module is the dotted path of the innermost module running; stale lists values that share
    memory with one this operation wrote to and that later operations still read.
    """

    index: int
    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    module: str
    source: Source | None
    stale: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Operation name with its overload, such as `aten.add.Tensor`."""
        return str(self.op)

    @property
    def where(self) -> str:
        """`aten.add.Tensor in layer1.0 (models/resnet.py:102)`, for messages."""
        text = self.name.removesuffix(".default")
        if self.module:
            text += f" in {self.module}"
        if self.source is not None:
            text += f" ({self.source})"
        return text


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module during the pass.

    number counts the calls of this module from 0. Nodes first <= i < last ran inside it, those of calls
    within it too; parent is the index of the call around it, -1 for none. inputs (positional ones) and
    outputs are the value numbers of the tensors it was given and gave, in order; -1 for one not on the tape.
    """

    module: str
    number: int
    first: int
    last: int
    parent: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """What one forward pass of a model computed, and the example inputs it was given.

    model is the caller's own module, unchanged. names maps each parameter and buffer name to its
    value (tied names share one). device is where the pass ran: `meta` when no data was needed. calls are
    the module calls that came to an end, in the order they began. reads says which values the model's code
    looked at: (how many nodes there were before, value).
    """

    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    names: dict[str, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_tree: Any
    device: str
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    reads: tuple[tuple[int, int], ...] = ()

    def owners(self) -> dict[int, list[str]]:
        """Every name under which each parameter or buffer value is known."""
        found: dict[int, list[str]] = {}
        for name, index in self.names.items():
            found.setdefault(index, []).append(name)
        return found

    def shaped_by_values(self, node: Node) -> bool:
        """Whether the operation's result has as many positions as values say: boxes kept, places that are not zero."""
        name = node.op._schema.name
        if name == "aten::index":  # by numbers it has their shape, by a mask as many as are true
            masks = (torch.bool, torch.uint8)
            return any(self.values[index].dtype in masks for index in refs(node.args[1]))
        return torch.Tag.dynamic_output_shape in node.op.tags or name in _SHAPED_BY_VALUES

    @cached_property
    def first_by_values(self) -> int:
        """The first node that other weights may give another shape or other numbers; as many as nodes for none.

        That is the first one shaped by values, or the first after code has read a value that follows from weights.
        """
        shaped = next((node.index for node in self.nodes if self.shaped_by_values(node)), len(self.nodes))
        if not self.reads:
            return shaped
        kinds = ("parameter", "buffer")
        weighed = {at for at, value in enumerate(self.values) if value.kind in kinds and value.floating}
        for node in self.nodes:
            if not weighed.isdisjoint(refs((node.args, node.kwargs))):
                weighed.update(refs(node.outputs))
        return min([shaped, *(before for before, index in self.reads if index in weighed)])

    def operations(self) -> dict[str, int]:
        """How often each operation occurs."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            counts[node.name] = counts.get(node.name, 0) + 1
        return counts


def refs(tree: Any) -> Iterator[int]:
    """The value numbers mentioned anywhere in an argument or result structure."""
    if isinstance(tree, Ref):
        yield tree.index
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from refs(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from refs(item)


def replace(tree: Any, function: Callable[[Ref], Any]) -> Any:
    """The structure with every `Ref` replaced by `function(ref)`."""
    if isinstance(tree, Ref):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        items = [replace(item, function) for item in tree]
        return type(tree)(items) if type(tree) in (tuple, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: replace(item, function) for key, item in tree.items()}
    return tree


def as_arguments(args: Any) -> tuple[Any, ...]:
    """Positional arguments as a tuple; one tensor, or anything else, stands for itself."""
    return args if isinstance(args, tuple) else (args,)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """The tensors of any pytree (dataclass outputs of transformers included), in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
