"""Make a sliced module consistent again: the sizes its forward reads from attributes.

torch.nn's own layers are repaired by table. For any other module the trace tells which sizes
changed while it ran; integer attributes (also inside tuples and lists) that equal a changed size
get the new one. Where an old size both changed and stayed (a head count that equals a width), the
alternatives are returned as further attempts; the caller keeps the one that computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from conformance.graph.tape import Graph, refs
from conformance.partition.selection import Selection
from conformance.subnet.resize import resized

_MAX_ATTEMPTS = 16


@dataclass
class Change:
    """How one size of a module's surroundings may have changed: new values seen, and whether it stayed."""

    new: dict[int, int]
    stayed: int = 0


def repair_known(module: torch.nn.Module, before: dict[str, tuple[int, ...]]) -> bool:
    """Set the attributes of one of torch.nn's own layers from its tensors. False when it is not one."""
    weight: Any = getattr(module, "weight", None)
    old = before.get("weight", ())
    if isinstance(module, torch.nn.modules.conv._ConvTransposeNd):
        module.in_channels = weight.shape[0]
        module.out_channels = weight.shape[1] * module.groups
    elif isinstance(module, torch.nn.modules.conv._ConvNd):
        # Depthwise and grouped layers: the caller knows the input; groups follow in `repair_traced`.
        if module.groups == 1:
            module.in_channels = weight.shape[1]
        module.out_channels = weight.shape[0]
    elif isinstance(module, torch.nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, torch.nn.modules.batchnorm._NormBase):
        tensor = weight if weight is not None else module.running_mean
        if tensor is not None:
            module.num_features = tensor.shape[0]
    elif isinstance(module, torch.nn.GroupNorm):
        if weight is not None:
            module.num_groups = module.num_groups * weight.shape[0] // old[0]
            module.num_channels = weight.shape[0]
    elif isinstance(module, torch.nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, torch.nn.PReLU):
        module.num_parameters = weight.shape[0]
    elif isinstance(module, torch.nn.RNNBase):
        _repair_recurrent(module)
    else:
        return False
    return True


def _repair_recurrent(module: torch.nn.RNNBase) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    layers: Any = module
    first = layers.weight_ih_l0
    module.input_size = first.shape[1]
    module.hidden_size = first.shape[0] // gates
    if module.proj_size:
        module.proj_size = layers.weight_hr_l0.shape[0]
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def size_changes(graph: Graph, choice: Selection) -> dict[str, dict[int, Change]]:
    """For each module path the sizes seen while it ran: old size -> what became of it."""
    found: dict[str, dict[int, Change]] = {}
    shapes: dict[int, tuple[int, ...]] = {}
    for node in graph.nodes:
        table = found.setdefault(node.module, {})
        for index in refs((node.args, node.kwargs, node.outputs)):
            if index not in shapes:
                shapes[index] = choice.shape(index)
            for old, new in zip(graph.values[index].shape, shapes[index], strict=True):
                _note(table, old, new)
        bound = resized(graph, choice, node)
        if bound is not None and "groups" in bound:
            arguments = [argument.name for argument in node.op._schema.arguments]
            _note(table, node.args[arguments.index("groups")], bound["groups"])
    return found


def _note(table: dict[int, Change], old: int, new: int) -> None:
    if old < 2:
        return
    change = table.setdefault(old, Change({}))
    if old == new:
        change.stayed += 1
    else:
        change.new[new] = change.new.get(new, 0) + 1


@dataclass(frozen=True)
class Option:
    """One attribute that may need another number: its owner, name, place in a tuple, and candidates."""

    module: str
    attribute: str
    place: int | None
    candidates: tuple[int, ...]


def options(model: torch.nn.Module, changes: dict[str, dict[int, Change]], known: set[str]) -> list[Option]:
    """Attributes of modules outside the table that equal a changed size, likeliest value first."""
    found = []
    for path, module in model.named_modules():
        table = _surroundings(path, changes)
        if not table or path in known:
            continue
        for name, value in vars(module).items():
            if name.startswith("_") or isinstance(value, bool):
                continue
            numbers = list(enumerate(value)) if isinstance(value, (tuple, list)) else [(None, value)]
            for place, number in numbers:
                if type(number) is not int or number not in table or not table[number].new:
                    continue
                change = table[number]
                likely = sorted(change.new, key=lambda new: (-change.new[new], new))
                candidates = [*likely, number] if change.stayed else likely
                if name == "num_groups" and isinstance(module, torch.nn.GroupNorm):
                    continue
                found.append(Option(path, name, place, tuple(candidates)))
    return found


def _surroundings(path: str, changes: dict[str, dict[int, Change]]) -> dict[int, Change]:
    """Sizes seen in the module's own operations, else in those of its children."""
    own = changes.get(path)
    if own:
        children = _children(path, changes)
        return {**children, **own} if any(change.new for change in own.values()) else {}
    return {}


def _children(path: str, changes: dict[str, dict[int, Change]]) -> dict[int, Change]:
    prefix = f"{path}." if path else ""
    merged: dict[int, Change] = {}
    for other, table in changes.items():
        if other.startswith(prefix) and other.count(".") == prefix.count("."):
            for old, change in table.items():
                into = merged.setdefault(old, Change({}))
                into.stayed += change.stayed
                for new, count in change.new.items():
                    into.new[new] = into.new.get(new, 0) + count
    return merged


def attempts(found: list[Option]) -> Iterator[dict[Option, int | None]]:
    """Assignments to try, likeliest first; None leaves an attribute alone.

    Attributes of one name are varied together: first each name alone, then pairs of names.
    """
    base: dict[Option, int | None] = {option: option.candidates[0] for option in found}
    yield base
    names = sorted({option.attribute for option in found})
    for count in (1, 2):
        for varied in itertools.islice(itertools.combinations(names, count), _MAX_ATTEMPTS):
            for place in (1, None):
                changed = {o: _other(o, place) if o.attribute in varied else n for o, n in base.items()}
                if changed != base:
                    yield changed


def _other(option: Option, place: int | None) -> int | None:
    """The candidate at `place`, or no change."""
    return option.candidates[place] if place is not None and place < len(option.candidates) else None


def assign(model: torch.nn.Module, values: dict[Option, int | None]) -> None:
    """Write the chosen numbers into the module attributes."""
    for option, number in values.items():
        if number is None:
            continue
        owner: Any = model.get_submodule(option.module)
        if option.place is None:
            setattr(owner, option.attribute, number)
        else:
            value = getattr(owner, option.attribute)
            items = list(value)
            items[option.place] = number
            setattr(owner, option.attribute, type(value)(items))
