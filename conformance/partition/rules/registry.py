"""The table of operation rules, and what a rule is given.

A rule is one function `(p: Pass, call: Call) -> Labelled dims`. It returns, for each tensor the
operation yields, the list of label arrays of its dimensions, after saying through `p` what the
operation ties together. Add an operation by decorating one function with `@rule("name")`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conformance.graph.tape import Node
from conformance.partition.labels import Labelled, Labels, Pass, fixed

Dims = list[Labels]
Rule = Callable[[Pass, "Call"], Any]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register one function as the rule of these ATen operations (in-place forms included)."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for {name}")
            RULES[name] = function
        return function

    return register


def base_name(op: Any) -> str:
    """`aten::add_` -> `add`: one rule serves the in-place form; other namespaces keep theirs."""
    namespace, name = op._schema.name.split("::")
    if not name.startswith("__"):
        name = name.rstrip("_") if name.endswith("_") and not name.endswith("__") else name
    return name if namespace == "aten" else f"{namespace}::{name}"


@dataclass
class Call:
    """One operation with its tensor arguments as `Labelled`; arguments are found by schema name."""

    node: Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out_shapes: tuple[tuple[int, ...], ...]
    unmarked: frozenset[int] = frozenset()

    @cached_property
    def _bound(self) -> dict[str, Any]:
        bound: dict[str, Any] = {}
        for position, argument in enumerate(self.node.op._schema.arguments):
            if position < len(self.args):
                bound[argument.name] = self.args[position]
            elif argument.name in self.kwargs:
                bound[argument.name] = self.kwargs[argument.name]
            elif argument.has_default_value():
                bound[argument.name] = argument.default_value
        return bound

    def get(self, name: str, default: Any = None) -> Any:
        """The argument of that name, its schema default, or `default`."""
        return self._bound.get(name, default)

    def __getitem__(self, name: str) -> Any:
        return self._bound[name]

    @property
    def tensors(self) -> list[Labelled]:
        """Every tensor argument, lists flattened, in order."""
        found: list[Labelled] = []

        def visit(tree: Any) -> None:
            if isinstance(tree, Labelled):
                found.append(tree)
            elif isinstance(tree, (tuple, list)):
                for item in tree:
                    visit(item)

        visit(self.args)
        visit(list(self.kwargs.values()))
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.out_shapes[0]

    def not_a_weight(self, *tensors: Labelled | None) -> None:
        """These parameters or buffers neither produce nor read a structure (running statistics)."""
        self.unmarked |= {tensor.index for tensor in tensors if tensor is not None}


def hold_all(p: Pass, call: Call, reason: str) -> list[Dims]:
    """Fix everything the operation touches."""
    for tensor in call.tensors:
        for labels in tensor.dims:
            p.fix(labels, reason)
    return [[fixed(size) for size in shape] for shape in call.out_shapes]


def hold_dims(p: Pass, tensor: Labelled, dims: list[int], reason: str) -> None:
    """Fix some dimensions of one tensor."""
    for dim in dims:
        p.fix(tensor.dims[tensor.axis(dim)], reason)
