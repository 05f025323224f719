"""Run a model and keep the values at every point where it can be compared with another.

A `Watched` model runs in whatever arithmetic an oracle uses; a dispatch mode above that arithmetic sees the
operations as the model's code calls them. Values are kept up to a limit of memory, beginning with any point,
so that a long run can be looked at in several passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from conformance.graph.calls import follow
from conformance.graph.tape import Ref, refs, tensors_in
from conformance.partition.rules import base_name
from conformance.subnet.extract import LAYOUT
from conformance.subnet.tape_module import GraphSubnet, tape_of

ENTER, OPERATION, LEAVE = "enter", "operation", "leave"
_UNCOMPARED = LAYOUT | {"as_strided", "empty_like", "empty_strided", "new_empty_strided"}
"""Operations that may be there or not without changing what is computed, or whose result is arbitrary."""


def compared(name: str) -> bool:
    """Whether two runs of the same function have this operation (its base name) in common, with its result."""
    return name not in _UNCOMPARED


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a run: a module call begins or ends, or an operation has run inside it.

    path and number say which call (number counts the calls of that module from 0); name is the operation's.
    node is its number where the run replays a tape, else -1.
    """

    kind: str
    path: str
    number: int
    name: str = ""
    node: int = -1


class Watch:
    """The moments of a run and, from moment `first` on, the floating values there until `room` bytes are full.

    end is the first moment whose values were not kept for want of room, None when all were. Copies of a
    watched model share its watch.
    """

    def __init__(self, first: int = 0, room: int = 1 << 28) -> None:
        self.first, self.room = first, room
        self.end: int | None = None
        self.moments: list[Moment] = []
        self.values: dict[int, list[torch.Tensor | None]] = {}
        self.open: list[tuple[str, int]] = []
        self._counts: dict[str, int] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return self

    def enter(self, path: str | None, args: Any) -> None:
        """A module call begins."""
        if path is None:
            return
        number = self._counts.get(path, 0)
        self._counts[path] = number + 1
        self.open.append((path, number))
        self.note(Moment(ENTER, path, number), tensors_in(args))

    def leave(self, path: str | None, output: Any) -> None:
        """A module call ends; calls within it that ended in an exception are forgotten."""
        if path is None:
            return
        call = self.open.pop()
        while call[0] != path:
            call = self.open.pop()
        self.note(Moment(LEAVE, *call), tensors_in(output))

    def operation(self, name: str, results: list[torch.Tensor]) -> None:
        """An operation has run in the innermost call."""
        if compared(name):
            self.note(Moment(OPERATION, *(self.open[-1] if self.open else ("", 0)), name), results)

    def note(self, moment: Moment, tensors: list[torch.Tensor]) -> None:
        """Keep a moment, and copies of its values if they are wanted and there is room."""
        index = len(self.moments)
        self.moments.append(moment)
        if index < self.first or self.end is not None:
            return
        size = sum(leaf.numel() * leaf.element_size() for leaf in tensors if leaf.is_floating_point())
        if size > self.room and self.values:
            self.end = index
            return
        self.room -= size
        with _disable_current_modes():
            self.values[index] = [leaf.detach().clone() if leaf.is_floating_point() else None for leaf in tensors]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = tensors_in(result)
        if results or func._schema.is_mutable:  # as the tape has it
            self.watch.operation(base_name(func), results)
        return result


class Watched(torch.nn.Module):
    """Runs `inner` as it is and tells the watch."""

    def __init__(self, inner: torch.nn.Module, watch: Watch) -> None:
        super().__init__()
        self.inner, self.watch = inner, watch

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with follow(self.inner, self.watch.enter, self.watch.leave), _Operations(self.watch):
            return self.inner(*args, **kwargs)


Visit = Callable[[int, dict[int, Any]], None]


class Visitor:
    """A function of (node, live values by number), which copies of a replay share."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit

    def __deepcopy__(self, memo: dict[int, Any]) -> Visitor:
        return self


class Replayed(torch.nn.Module):
    """Replays a tape and calls the visitor after each node, first with node -1: state and inputs are there.

    Values that nothing reads later are gone by then.
    """

    def __init__(self, inner: GraphSubnet, visitor: Visitor) -> None:
        super().__init__()
        self.inner, self.visitor = inner, visitor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        env: dict[int, Any] = {}
        step = -1
        for step, _ in self.inner.replay(env, *args, **kwargs):
            self.visitor.visit(step - 1, env)
        self.visitor.visit(step, env)
        return pytree.tree_map_only(Ref, lambda ref: env[ref.index], self.inner._output_tree)


def watched(model: torch.nn.Module, watch: Watch) -> torch.nn.Module:
    """The model, told on by the watch; the moments of a graph subnet are the nodes of its tape."""
    if not isinstance(model, GraphSubnet):
        return Watched(model, watch)
    nodes = tape_of(model)[0].nodes

    def visit(step: int, env: dict[int, Any]) -> None:
        if step >= 0:
            node = nodes[step]
            results = [env.get(index) for index in refs(node.outputs)]
            there = [leaf if isinstance(leaf, torch.Tensor) else torch.empty(0, dtype=torch.int) for leaf in results]
            watch.note(Moment(OPERATION, node.module, 0, base_name(node.op), step), there)

    return Replayed(model, Visitor(visit))
