"""Put in place of a norm module whose tensors got smaller: the operations it ran, at the original width."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from conformance.errors import ExtractionError
from conformance.graph.tape import Graph, Node, Ref, refs, replace, tensors_in
from conformance.graph.trace import shadow
from conformance.partition.rules import base_name
from conformance.partition.selection import Selection
from conformance.subnet import whole_width
from conformance.subnet.resize import RESIZES
from conformance.subnet.tape_module import _bind, steps_of

_BATCH_FREE = frozenset(("slice", "narrow", "constant_pad_nd", "pad", "split_with_sizes", "convolution"))
_WITH_SIZES = (frozenset(RESIZES) - _BATCH_FREE) | {"view", "_unsafe_view", "view_copy", "_reshape_alias"}
"""Operations that carry whole shapes as numbers, the batch among them: they fit the traced batch only."""


@dataclass(frozen=True)
class Call:
    """One call of a norm: names of its state by value number, steps, the value it takes and the one it gives."""

    state: dict[int, str]
    steps: list[Any]
    taken: int
    given: int


class WholeWidth(torch.nn.Module):
    """Runs what a norm module ran when traced, over fewer positions but counting the original ones.

    Parameters and buffers keep their names. Takes one tensor, of any batch, and returns one.
    """

    def __init__(self, norm: torch.nn.Module, call: Call, traced: Call | None = None) -> None:
        super().__init__()
        self.stands_for: str = norm.stands_for if isinstance(norm, WholeWidth) else type(norm).__name__
        # What the full model's norm ran, with the numbers it had in the traced dtype.
        self.traced: Call = norm.traced if isinstance(norm, WholeWidth) else traced or call
        for name, parameter in norm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in norm._non_persistent_buffers_set)
        self.call = call
        self.training = norm.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor)  # the usual call, without a search
        (x,) = args if plain else tensors_in((args, kwargs))
        env: dict[int, Any] = {self.call.taken: x}
        env |= {index: getattr(self, name) for index, name in self.call.state.items()}
        for function, step_args, step_kwargs, outputs in self.call.steps:
            real_args, real_kwargs = replace((step_args, step_kwargs), lambda ref: env[ref.index])
            if real_kwargs.get("device") is not None:
                real_kwargs = {**real_kwargs, "device": x.device}
            _bind(env, outputs, function(*real_args, **real_kwargs))
        return env[self.call.given]

    def extra_repr(self) -> str:
        return f"in place of {self.stands_for}"


def counting(graph: Graph, choice: Selection) -> list[str]:
    """Paths of the modules in whose own code positions are counted that the selection removes."""
    found = (node.module for node in graph.nodes if whole_width.replaced(graph, choice, node) is not None)
    return list(dict.fromkeys(found))


def put_whole_widths(model: torch.nn.Module, graph: Graph, choice: Selection, paths: Sequence[str]) -> None:
    """Replace the modules at `paths` (of an already sliced copy) wherever the model holds them.

    Raises ExtractionError where a module does more than a norm does.
    """
    if not paths:
        return
    runs: dict[str, list[list[Node]]] = {}
    for path, nodes in itertools.groupby(graph.nodes, lambda node: node.module):
        runs.setdefault(path, []).append(list(nodes))
    readers: dict[int, list[int]] = {index: [-1] for index in graph.outputs}
    for node in graph.nodes:
        for index in refs((node.args, node.kwargs)):
            readers.setdefault(index, []).append(node.index)
    for path in paths:
        norm = model.get_submodule(path)
        if any(other.startswith(f"{path}.") for other in runs) or not path:
            raise ExtractionError(f"{path or 'the model'} calls other modules")
        calls = [call for run in runs[path] for call in _calls(run, graph, choice)]
        programs = [_program(call, graph, choice, path, readers) for call in calls]
        if len({_text(program) for program in programs}) != 1:
            raise ExtractionError(f"{path} does not run the same operations in all of its calls")
        traced = _program(calls[0], graph, choice.groups.select([]), path, readers)
        _put(model, norm, WholeWidth(norm, programs[0], traced))


def _put(model: torch.nn.Module, old: torch.nn.Module, new: torch.nn.Module) -> None:
    aliases = [name for name, module in model.named_modules(remove_duplicate=False) if module is old]
    for name in aliases:
        model.set_submodule(name, new)


def with_traced_norms(full: torch.nn.Module, subnet: torch.nn.Module) -> torch.nn.Module:
    """The full model with the norms as traced where the subnet has WholeWidths, sharing parameters.

    A tape holds numbers of the traced dtype (an eps that depends on it): in another dtype so must the reference.
    """
    found = {name: module for name, module in subnet.named_modules() if isinstance(module, WholeWidth)}
    if not found:
        return full
    twin = shadow(full)
    for name, module in found.items():
        norm = twin.get_submodule(name)
        if not isinstance(norm, WholeWidth):  # else it is a subnet itself, and runs what was traced already
            _put(twin, norm, WholeWidth(norm, module.traced))
    return twin


def _calls(run: list[Node], graph: Graph, choice: Selection) -> list[list[Node]]:
    """Operations of one module in a row: one call, or the same call several times, each with its own count."""
    names = [node.name for node in run]
    for length in range(1, len(run) // 2 + 1):
        parts = [run[at : at + length] for at in range(0, len(run), length)]
        if names == names[:length] * (len(run) // length) and all(
            any(whole_width.replaced(graph, choice, node) for node in part) for part in parts
        ):
            return parts
    return [run]


def _program(nodes: list[Node], graph: Graph, choice: Selection, path: str, readers: dict[int, list[int]]) -> Call:
    """One call of the module at `path`."""
    inside = {node.index for node in nodes}
    made = {index for node in nodes for index in refs(node.outputs)}
    outside = {index for node in nodes for index in refs((node.args, node.kwargs))} - made
    owners = graph.owners()
    state = {}
    for index in outside & owners.keys():
        own = [name.removeprefix(f"{path}.") for name in owners[index] if name.rpartition(".")[0] == path]
        if not own:
            raise ExtractionError(f"{path} uses state of another module")
        state[index] = own[0]
    taken = outside - state.keys()
    given = {index for index in made if any(reader not in inside for reader in readers.get(index, ()))}
    if len(taken) != 1 or len(given) != 1:
        raise ExtractionError(f"{path} takes {len(taken)} tensors and gives {len(given)}, a norm one and one")
    steps = steps_of(graph, choice, nodes)
    free = [whole_width.of_any_batch(graph, choice, node) for node in nodes]
    steps = [(*new, {}, old[3]) if new else old for new, old in zip(free, steps, strict=True)]
    if any(isinstance(step[0], torch._ops.OpOverload) and base_name(step[0]) in _WITH_SIZES for step in steps):
        raise ExtractionError(f"{path} writes sizes into its operations")
    return Call(state, steps, taken.pop(), given.pop())


def _text(call: Call) -> str:
    """The call with its values renumbered: equal for two calls of one module."""
    number: dict[int, str] = {**call.state, call.taken: "x"}

    def name(ref: Ref) -> str:
        return number.setdefault(ref.index, f"t{len(number)}")

    lines = [str((function, *replace((args, kwargs, outputs), name))) for function, args, kwargs, outputs in call.steps]
    return "\n".join([*lines, number[call.given]])
