"""A subnet that replays the traced graph with smaller sizes: works where the class cannot.

State keeps its dotted names, so the state_dict has the full model's keys. Sizes are those of the
example inputs (batch included): a graph subnet runs on inputs of the traced shapes only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.errors import ExtractionError
from conformance.graph.tape import Graph, Node, Ref, refs, replace, tensors_in
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection
from conformance.subnet import whole_width
from conformance.subnet.resize import resized
from conformance.subnet.state import sliced, tensor_at

_SPLIT, _UNSAFE_SPLIT = torch.ops.aten.split_with_sizes.default, torch.ops.aten.unsafe_split_with_sizes.default
_SPLITS = {
    **dict.fromkeys(("aten::split", "aten::chunk", "aten::tensor_split", "aten::split_copy"), _SPLIT),
    # Their pieces may be written to in place also where gradients are recorded.
    **dict.fromkeys(("aten::unsafe_split", "aten::unsafe_chunk"), _UNSAFE_SPLIT),
}
_VIEWS = {"aten::view", "aten::_unsafe_view", "aten::view_copy", "aten::_reshape_alias"}
_RESHAPE = torch.ops.aten.reshape.default
_SQUEEZE = torch.ops.aten.squeeze.dims


class _Holder(torch.nn.Module):
    """A module that only owns state, so that dotted names survive."""


class GraphSubnet(torch.nn.Module):
    """Replays a tape. forward takes the same arguments as the traced call."""

    def __init__(self, graph: Graph, choice: Selection) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        source = graph.model
        for index, names in graph.owners().items():
            original = tensor_at(source, names[0])
            tensor = sliced(original, choice, index)
            kept: torch.Tensor = tensor
            if isinstance(original, torch.nn.Parameter):
                kept = torch.nn.Parameter(tensor, requires_grad=original.requires_grad)
            for name in names:
                _place(self, name, kept)
            self._names[index] = names[0]
        self._constants = {index: tensor.clone() for index, tensor in graph.constants.items()}
        self._inputs = graph.inputs
        self._input_shapes = tuple(graph.values[index].shape for index in graph.inputs)
        self._output_tree = graph.output_tree
        self._on_meta = graph.device == "meta"
        self._tape = _Shared(dataclasses.replace(graph, model=_Holder(), args=(), kwargs={}), choice)
        self._program = _program(graph, choice)
        self._last_use = _last_use(self._program, graph)
        self.train(False)

    def train(self, mode: bool = True) -> GraphSubnet:
        """The graph was recorded in evaluation mode and stays in it."""
        return super().train(False) if mode else super().train(mode)

    # Names without an underscore belong to the model's own modules.
    @property
    def _groups(self) -> Groups:
        """The partition of the model it was cut from."""
        return self._tape.choice.groups

    @property
    def _read_values(self) -> bool:
        """Whether the traced pass needed data: then its way may depend on them."""
        return not self._on_meta

    def whole(self, model: torch.nn.Module) -> GraphSubnet:
        """The same tape at full size with the state of `model`: what this subnet is a part of."""
        choice = self._tape.choice
        return GraphSubnet(dataclasses.replace(self._tape.graph, model=model), choice.groups.select([]))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        env: dict[int, Any] = {}
        for _ in self.replay(env, *args, **kwargs):
            pass
        return pytree.tree_map_only(Ref, lambda ref: env[ref.index], self._output_tree)

    def replay(self, env: dict[int, Any], *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """Run step by step, yielding (node number, its arguments); `env` holds the live values."""
        leaves = tensors_in((args, kwargs))
        shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        if shapes != self._input_shapes:
            raise ExtractionError(f"a graph subnet runs on inputs of shapes {self._input_shapes}, got {shapes}")
        device = next((leaf.device for leaf in leaves), torch.device("cpu"))
        env.update(zip(self._inputs, leaves, strict=True))
        env |= {index: tensor_at(self, name) for index, name in self._names.items()}
        env |= {index: tensor.to(device) for index, tensor in self._constants.items()}
        for step, (op, step_args, step_kwargs, outputs) in enumerate(self._program):
            real_args, real_kwargs = replace((step_args, step_kwargs), lambda ref: env[ref.index])
            yield step, real_args
            _bind(env, outputs, op(*real_args, **self._on(device, real_kwargs)))
            for index in self._last_use.get(step, ()):
                env.pop(index, None)

    def _on(self, device: torch.device, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What was made where the pass ran is made where the inputs are; what was asked for elsewhere stays there."""
        made = kwargs.get("device")
        if made is None or (self._on_meta and torch.device(made).type != "meta"):
            return kwargs
        return {**kwargs, "device": device}


def tape_of(subnet: GraphSubnet) -> tuple[Graph, Selection]:
    """The tape (without the model it was made from) and what was removed. Outside, so that state may have any name."""
    return subnet._tape.graph, subnet._tape.choice


class _Shared:
    """The immutable tape and choice behind a subnet: copies of the subnet refer to the same one."""

    def __init__(self, graph: Graph, choice: Selection) -> None:
        self.graph = graph
        self.choice = choice

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _bind(env: dict[int, Any], outputs: Any, result: Any) -> None:
    if isinstance(outputs, Ref):
        env[outputs.index] = result
    elif isinstance(outputs, (tuple, list)):
        for output, item in zip(outputs, result, strict=True):
            _bind(env, output, item)


def _place(root: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = root
    for part in path.split(".") if path else []:
        if part not in owner._modules:
            owner.add_module(part, _Holder())
        owner = owner._modules[part]  # type: ignore[assignment]
    if isinstance(tensor, torch.nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor)


def _program(graph: Graph, choice: Selection) -> list[tuple[Any, Any, Any, Any]]:
    return steps_of(graph, choice, graph.nodes)


def steps_of(graph: Graph, choice: Selection, nodes: Sequence[Node]) -> list[tuple[Any, Any, Any, Any]]:
    """For each node what to call on the smaller tensors: (function, args, kwargs, outputs) with Refs."""
    program: list[tuple[Any, Any, Any, Any]] = []
    for node in nodes:
        replaced = _replaced(graph, choice, node)
        if replaced is not None:
            program.append((*replaced, {}, node.outputs))
            continue
        bound = resized(graph, choice, node)
        if bound is None:
            program.append((node.op, node.args, node.kwargs, node.outputs))
            continue
        positional = []
        schema = node.op._schema.arguments
        named = {argument.name for argument in schema if argument.kwarg_only}
        for argument in schema:
            if argument.name in named:
                continue
            if argument.name not in bound:
                break
            positional.append(bound[argument.name])
        program.append((node.op, tuple(positional), {k: v for k, v in bound.items() if k in named}, node.outputs))
    return program


def _replaced(graph: Graph, choice: Selection, node: Node) -> tuple[Any, tuple[Any, ...]] | None:
    """Another operation, and its arguments, for those that mean something else on smaller tensors."""
    counted = whole_width.replaced(graph, choice, node)
    if counted is not None:
        return counted
    name = node.op._schema.name
    if name in _SPLITS:
        return _as_sizes(choice, node)
    if name in _VIEWS and "dtype" not in node.name:
        # Smaller tensors may come out with other strides, on which `view` is stricter than needed.
        return _RESHAPE, (node.args[0], list(choice.shape(next(refs(node.outputs)))))
    if name == "aten::view_as_complex":
        return _as_complex, (node.args[0],)
    if name == "aten::squeeze":
        # A dimension that only becomes 1 by the selection must not go.
        shape = graph.values[node.args[0].index].shape
        dims = [dim % max(len(shape), 1) for dim in _dims(node, len(shape))]
        return _SQUEEZE, (node.args[0], [dim for dim in dims if shape and shape[dim] == 1])
    return None


def _as_complex(pairs: torch.Tensor) -> torch.Tensor:
    """A view wants pairs at even places, and cut from an odd number of positions they are not."""
    places = (*pairs.stride()[:-1], pairs.storage_offset())
    if pairs.stride(-1) != 1 or any(place % 2 for place in places):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(pairs)


def _dims(node: Node, rank: int) -> list[int]:
    """The dimensions a squeeze was asked for."""
    given = node.args[1:] or tuple(node.kwargs.values())
    if not given:
        return list(range(rank))
    return list(given[0]) if isinstance(given[0], (list, tuple)) else [given[0]]


def _as_sizes(choice: Selection, node: Node) -> tuple[Any, tuple[Any, ...]]:
    """Equal pieces may become unequal: split by explicit sizes."""
    arguments = [argument.name for argument in node.op._schema.arguments]
    bound = {**dict(zip(arguments, node.args, strict=False)), **node.kwargs}
    outputs = list(refs(node.outputs))
    dim = bound.get("dim", 0)
    sizes = [choice.shape(index)[dim] for index in outputs]
    return _SPLITS[node.op._schema.name], (bound["self"], sizes, dim)


def _last_use(program: list[tuple[Any, Any, Any, Any]], graph: Graph) -> dict[int, list[int]]:
    """Which values may be dropped after each step, to hold memory down."""
    last: dict[int, int] = {}
    for step, (_, args, kwargs, outputs) in enumerate(program):
        for index in refs((args, kwargs, outputs)):
            last[index] = step
    drops: dict[int, list[int]] = {}
    for index, step in last.items():
        if index not in graph.outputs:
            drops.setdefault(step, []).append(index)
    return drops
