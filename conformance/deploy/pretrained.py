"""A subnet as its class builds it from a config with smaller numbers, where a config can say them.

Works for any class that is built as `type(model)(model.config)`, as those of transformers are; which
number of the config means what is not known here but tried, and proved.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conformance.deploy.fingerprint import named_state, plain_attributes
from conformance.equivalence.compare import equivalent
from conformance.errors import ConfigError
from conformance.graph.tape import as_arguments
from conformance.partition.selection import Selection
from conformance.subnet.norm_module import WholeWidth, counting
from conformance.subnet.tape_module import GraphSubnet

_MOST_ATTEMPTS = 256
_WAY_OUT = "save_subnet keeps it as a plan"

Place = tuple[str | int, ...]
"""How a number of a config is reached: names of attributes, and places in lists."""
Changes = dict[Place, int]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pretrained:
    """A module whose config describes it, and the numbers that changed: name -> (old, new)."""

    module: torch.nn.Module
    changed: dict[str, tuple[int, int]]


def as_pretrained(
    model: torch.nn.Module, subnet: torch.nn.Module, args: Any = (), kwargs: dict[str, Any] | None = None
) -> Pretrained:
    """The subnet built anew by `type(model)(config)`, with its own state and proved equal on the inputs.

    The result has the subnet's weights, and a config with its sizes, so `save_pretrained` and
    `from_pretrained` work as ever. Raises ConfigError, saying what the config cannot say, where the
    class does not build such a module from any config: widths that differ between layers, norms that
    count the original width, a traced graph.
    """
    config = _config(model)
    if isinstance(subnet, GraphSubnet):
        raise ConfigError(f"the subnet is a traced graph, which no config describes; {_WAY_OUT}")
    if named_state(model).keys() != named_state(subnet).keys():
        raise ConfigError(f"the subnet has other parameters than the model; {_WAY_OUT}")
    norms = [path for path, module in subnet.named_modules() if isinstance(module, WholeWidth)]
    if norms:
        raise ConfigError(f"no config says that {norms[0]} counts the width before pruning; {_WAY_OUT}")
    sizes = _sizes(model, subnet)
    numbers = dict(_numbers(config))
    options = {at: values for at, number in numbers.items() if (values := _smaller(number, sizes))}
    wanted = {name: tuple(tensor.shape) for name, tensor in subnet.state_dict().items()}
    closest: tuple[int, Shapes] = (_distance(_shapes(model, config, {}), wanted), {})
    for distance, shapes, changes in _search(model, config, options, wanted):
        closest = min(closest, (distance, shapes), key=lambda pair: pair[0])
        if distance:
            continue
        module = _loaded(model, _with(config, changes), subnet)
        if equivalent(subnet, module, as_arguments(args), kwargs or {}, oracle="field").equal:
            return Pretrained(module, {_label(at): (numbers[at], new) for at, new in changes.items()})
    counted = {numbers[at]: _label(at) for at in reversed(options)}
    raise ConfigError(
        f"{_why(model, subnet, counted, list(map(_label, options)), sizes, closest[1], wanted)}; {_WAY_OUT}"
    )


def uncounted(choice: Selection) -> Selection:
    """The groups of a selection but for the axes whose width a norm counts, which no config can say are smaller."""
    groups, kept = choice.groups, []
    axis = groups.axis_of
    removed = np.array(choice.removed, dtype=np.int64)
    for number in np.unique(axis[removed]):
        inside = removed[axis[removed] == number]
        if not counting(groups.graph, groups.select(inside)):
            kept += inside.tolist()
    return groups.select(kept)


def alike(choice: Selection) -> dict[tuple[str, int], Selection]:
    """The parts of a selection by kind and by how many groups an axis has: one number of a config says no more."""
    groups = choice.groups
    sizes = np.bincount(groups.axis_of[1:]) if groups.count else np.zeros(0)
    parts: dict[tuple[str, int], list[int]] = {}
    for number in choice.removed:
        parts.setdefault((groups.kinds[number], int(sizes[groups.axis_of[number]])), []).append(number)
    return {part: groups.select(numbers) for part, numbers in parts.items()}


def _config(model: torch.nn.Module) -> Any:
    config = getattr(model, "config", None)
    if config is None or isinstance(config, dict):
        raise ConfigError("the model has no config that its class is built from")
    return config


# -- which numbers changed -------------------------------------------------------------------------


def _sizes(model: torch.nn.Module, subnet: torch.nn.Module) -> dict[int, list[int]]:
    """Old size -> the new ones it became, most frequent first: of tensors and of modules' attributes."""
    counts: dict[int, dict[int, int]] = {}

    def note(old: Any, new: Any) -> None:
        if type(old) is int and type(new) is int and 0 < new < old:
            table = counts.setdefault(old, {})
            table[new] = table.get(new, 0) + 1

    before = named_state(model)
    for name, tensor in named_state(subnet).items():
        for old, new in zip(before[name].shape, tensor.shape, strict=False):
            note(int(old), int(new))
    originals = dict(model.named_modules())
    for path, module in subnet.named_modules():
        own = plain_attributes(originals.get(path, module))
        for name, value in plain_attributes(module).items():
            note(own.get(name), value)
    return {old: sorted(new, key=lambda n: (-new[n], n)) for old, new in counts.items()}


def _numbers(config: Any, path: Place = ()) -> Iterator[tuple[Place, int]]:
    """Every whole number of a config, those in lists and in configs within it too."""
    if isinstance(config, (list, tuple)):
        items: Any = enumerate(config)
    elif hasattr(config, "to_dict") or not path:
        items = vars(config).items()
    else:
        items = ()
    for name, value in items:
        if isinstance(name, str) and name.startswith("_"):
            continue
        if type(value) is int:
            yield (*path, name), value
        else:
            yield from _numbers(value, (*path, name))


def _smaller(number: int, sizes: dict[int, list[int]]) -> list[int]:
    """What a number may have become: a size that changed itself, or how many equal parts such a size has."""
    found = (
        [number * new // old for old, news in sizes.items() for new in news if old % number == 0 == number * new % old]
        if number > 0
        else []
    )
    return list(dict.fromkeys(found))


def _search(
    model: torch.nn.Module, config: Any, options: dict[Place, list[int]], wanted: Shapes
) -> Iterator[tuple[int, Shapes, Changes]]:
    """Changes of a config, best first: (how many dimensions are still wrong, shapes, changes).

    A change is added when it brings the shapes nearer, or, once they are right, leaves them so: a number of
    heads may show in no shape. What the class refuses is built upon once.
    """
    queue: list[tuple[int, int, int, Shapes, Changes]] = []
    seen: set[frozenset[tuple[Place, int]]] = set()

    def grow(distance: int, changes: Changes) -> None:
        for at, values in options.items():
            for value in values if at not in changes else ():
                more = {**changes, at: value}
                if frozenset(more.items()) in seen or len(seen) >= _MOST_ATTEMPTS:
                    continue
                seen.add(frozenset(more.items()))
                shapes = _shapes(model, config, more)
                left = _distance(shapes, wanted) if shapes else distance
                if left < distance or left == 0 or (not shapes and len(more) < 2):
                    heapq.heappush(queue, (left, len(more), len(seen), shapes, more))

    grow(_distance(_shapes(model, config, {}), wanted), {})
    while queue:
        distance, _, _, shapes, changes = heapq.heappop(queue)
        if shapes:
            yield distance, shapes, changes
        grow(distance, changes)


# -- building --------------------------------------------------------------------------------------


def _with(config: Any, changes: Changes) -> Any:
    """A copy of the config with these numbers."""
    made = copy.deepcopy(config)
    for place, value in changes.items():
        _set(made, place, value)
    return made


def _set(owner: Any, place: Place, value: int) -> Any:
    """Write a number; returns the owner, a new one where it is a tuple."""
    first, rest = place[0], place[1:]
    if isinstance(first, int):
        items = list(owner)
        items[first] = _set(items[first], rest, value) if rest else value
        return type(owner)(items)
    setattr(owner, first, _set(getattr(owner, first), rest, value) if rest else value)
    return owner


def _shapes(model: torch.nn.Module, config: Any, changes: Changes) -> Shapes:
    """The shapes of what the class builds from the changed config, without data; none when it refuses."""
    try:
        with torch.device("meta"):
            made = _build(model, _with(config, changes))
    except Exception:  # noqa: BLE001 - numbers that do not go together, in the class's own words
        return {}
    return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}


def _build(model: torch.nn.Module, config: Any) -> torch.nn.Module:
    kind: Any = type(model)
    made: torch.nn.Module = kind(config)
    return made


def _loaded(model: torch.nn.Module, config: Any, subnet: torch.nn.Module) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        module = _build(model, config)
    state = subnet.state_dict()
    for name, tensor in named_state(module).items():
        if name in state:  # in place, so that what is tied stays tied
            tensor.data = tensor.data.to(state[name])
    module.load_state_dict(state, strict=True)
    return module.train(subnet.training)


# -- saying why not --------------------------------------------------------------------------------


def _why(
    model: torch.nn.Module,
    subnet: torch.nn.Module,
    counted: dict[int, str],
    names: list[str],
    sizes: dict[int, list[int]],
    closest: Shapes,
    wanted: Shapes,
) -> str:
    """The first thing that no config of this class says. counted: the name of the number that is each size."""
    if not names:
        return "no number of the config is a size that changed, or divides one"
    for old, new in sizes.items():
        if len(new) > 1 and old in counted:
            places = [_first_with(model, subnet, old, size) for size in new[:2]]
            if all(places):
                both = f"{places[0]} and {places[1]} went from {old} to {new[0]} and {new[1]}"
                return f"{counted[old]} is one number, but {both}"
    for name, shape in wanted.items():
        made = closest.get(name, tuple(named_state(model)[name].shape))
        if made != shape:
            return f"no values tried for {', '.join(names)} make {name} of shape {shape}; the nearest make {made}"
    return f"no values tried for {', '.join(names)} make the class compute what the subnet computes"


def _first_with(model: torch.nn.Module, subnet: torch.nn.Module, old: int, new: int) -> str:
    before = named_state(model)
    for name, tensor in named_state(subnet).items():
        if (old, new) in zip(before[name].shape, tensor.shape, strict=True):
            return name
    return ""


def _distance(shapes: Shapes, wanted: Shapes) -> int:
    """How many dimensions are not as wanted; one for a tensor that is not there."""
    wrong = len(shapes.keys() ^ wanted.keys())
    for name in shapes.keys() & wanted.keys():
        one, other = shapes[name], wanted[name]
        wrong += sum(a != b for a, b in zip(one, other, strict=True)) if len(one) == len(other) else 1
    return wrong


def _label(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"config{text}"
