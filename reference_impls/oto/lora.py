"""Low-rank adapters: beside a frozen weight W two small ones are trained, and the layer computes with W + s B A.

The adapters are parameters `lora_A` and `lora_B` of the layer they belong to, and a forward hook adds what they
compute: every name and shape of the model stays, and so does a partition of it. A partition is always made of the model
without adapters, so that the dimension of the rank, which A and B share, is in no group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional as fn
from torch.utils.hooks import RemovableHandle

from conformance.errors import UsageError
from conformance.graph.tape import Graph, refs
from conformance.method.ladder import matching
from conformance.method.units import Slices, Units
from conformance.method.weights import outermost
from conformance.partition.groups import Groups

Also = Literal["heads", "all", "nothing"]
A, B = "lora_A", "lora_B"
_CONVOLUTIONS = {nn.Conv1d: fn.conv1d, nn.Conv2d: fn.conv2d, nn.Conv3d: fn.conv3d}


@dataclass(frozen=True)
class Lora:
    """What adapters are like: s is alpha / rank; dropout acts on what enters A, while training (not in embeddings).

    A linear layer's A is (rank, in), its B (out, rank). A convolution's A is a convolution like the layer's own
    to `rank` channels, its B one of size 1. An embedding's A is (rank, entries), its B (width, rank).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be."""
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise UsageError(
                f"adapters have a rank of at least 1, an alpha above 0 and a dropout in [0, 1), not {self.rank}, "
                f"{self.alpha} and {self.dropout}"
            )

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / self.rank

    def hook(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> Any:
        """The layer's output with its adapters'. It knows the layer only as an argument, so copies have their own."""
        x = args[0] if args else kwargs["input"]
        first, second = getattr(layer, A), getattr(layer, B)
        if isinstance(layer, nn.Embedding):
            inner = fn.embedding(x, first.t(), layer.padding_idx)
            return output + self.scale * fn.linear(inner, second)
        if self.dropout and layer.training:
            x = fn.dropout(x, self.dropout)
        if isinstance(layer, nn.Linear):
            return output + self.scale * fn.linear(fn.linear(x, first), second)
        convolve = next(function for kind, function in _CONVOLUTIONS.items() if isinstance(layer, kind))
        return output + self.scale * convolve(layer._conv_forward(x, first, None), second)  # type: ignore[operator]


@dataclass(frozen=True)
class _Attached:
    """What a layer with adapters remembers of them."""

    lora: Lora
    handle: RemovableHandle


@dataclass(frozen=True)
class Adapters:
    """All adapters of one model; layers has each layer by the name of its weight."""

    model: nn.Module
    layers: dict[str, nn.Module]

    def units(self, units: Units) -> Units:
        """`units` of the same model, with the slices of adapters that leave with those of their weights.

        With an output (row of W) leaves the row of B, with an input the column of A.
        """
        found: list[Slices] = []
        tensors = dict(units.tensors)
        for item in units.slices:
            if (layer := self.layers.get(item.name)) is not None:
                leaf, dim = _partner(layer, item.dim)
                name = item.name.removesuffix("weight") + leaf
                found.append(replace(item, name=name, dim=dim, trained=True))
                tensors[name] = getattr(layer, leaf)
        return Units(units.groups, (*units.slices, *found), tensors)

    def update(self, weight: str) -> torch.Tensor:
        """s B A of one layer, of its weight's shape and dtype."""
        layer = self.layers[weight]
        first, second = getattr(layer, A).detach(), getattr(layer, B).detach()
        product: torch.Tensor = (second.flatten(1) @ first.flatten(1)).mul_(_attached(layer).lora.scale)
        return product.t() if isinstance(layer, nn.Embedding) else product.view(_weight(layer).shape)

    def merge(self) -> None:
        """Add every update to its weight and take the adapters away: names, hooks and what is trained are as before."""
        with torch.no_grad():
            for weight, layer in self.layers.items():
                _weight(layer).add_(self.update(weight))
        self.remove()

    def remove(self) -> None:
        """Take the adapters away without what they have learned."""
        for layer in self.layers.values():
            _attached(layer).handle.remove()
            for name in (A, B, _MARK):
                delattr(layer, name)
        parameters = dict(self.model.named_parameters())
        for name in getattr(self.model, _FROZEN, ()):
            parameters[name].requires_grad_(True)
        if hasattr(self.model, _FROZEN):
            delattr(self.model, _FROZEN)


_MARK, _FROZEN = "_lora", "_lora_frozen"


def adapters(model: nn.Module) -> Adapters:
    """The adapters a model has; none where `attach` was never called."""
    layers = {
        f"{path}.weight".removeprefix("."): layer
        for path, layer in model.named_modules()
        if isinstance(getattr(layer, _MARK, None), _Attached)
    }
    return Adapters(model, layers)


def attach(
    model: nn.Module,
    groups: Groups,
    lora: Lora,
    generator: torch.Generator,
    *,
    targets: Iterable[str] = (),
    also: Also = "heads",
) -> Adapters:
    """Give layers of `model`, of which `groups` is a partition, adapters that change nothing yet, and freeze the rest.

    A is drawn from `generator` (Kaiming-uniform, on the CPU, in the model's order), B is zero; both are of the
    weight's dtype and device. targets are patterns of module names (`*.query`, `layer1.*`); without any, adapters
    go to all linear layers and convolutions with a group's position in their weight. Layers that cannot have
    them: embeddings with a max_norm, convolutions with groups, those that do not compute as torch's own class does,
    and those whose weight is read by anything but the layer itself (tied weights, the projections of torch's
    attention).

    also says what is trained beside adapters: `heads` are the output layers, as far as no group makes a part of
    them; `all` is everything but weights with adapters; `nothing` is nothing. With the first two output layers
    get no adapters unless they are targets. What did not want gradients before does not get any.

    Raises UsageError when no layer is left to adapt, for patterns that match nothing, and for a model with adapters.
    """
    if also not in get_args(Also):
        raise UsageError(f"beside adapters are trained {', '.join(get_args(Also))}, not {also!r}")
    if adapters(model).layers:
        raise UsageError("the model has adapters already")
    heads = _heads(groups) if also != "nothing" else frozenset()
    names = _named(model, groups, tuple(targets)) if targets else _holding(model, groups, heads)
    if not names:
        raise UsageError("no layer can have adapters: there is none among the linear layers and convolutions asked for")
    for path in names:
        _attach(model.get_submodule(path), lora, generator)
    made = adapters(model)
    own = {id(getattr(layer, leaf)) for layer in made.layers.values() for leaf in (A, B)}
    frozen = []
    for name, parameter in model.named_parameters():
        trained = name not in made.layers and (also == "all" or name in heads)
        if parameter.requires_grad and not trained and id(parameter) not in own:
            parameter.requires_grad_(False)
            frozen.append(name)
    setattr(model, _FROZEN, tuple(frozen))
    return made


def _attach(layer: nn.Module, lora: Lora, generator: torch.Generator) -> None:
    weight = _weight(layer)
    if isinstance(layer, nn.Embedding):
        # One entry enters at a time: what comes out of A is as large whatever their number.
        first, second = _drawn((weight.shape[0], lora.rank), generator).t(), torch.zeros(weight.shape[1], lora.rank)
    else:
        first = _drawn((lora.rank, *weight.shape[1:]), generator)
        second = torch.zeros(weight.shape[0], lora.rank, *[1] * (weight.ndim - 2))
    for leaf, value in ((A, first), (B, second)):
        setattr(layer, leaf, nn.Parameter(value.contiguous().to(weight.device, weight.dtype)))
    # First of all hooks: another may change what the layer gives.
    handle = layer.register_forward_hook(lora.hook, prepend=True, with_kwargs=True)
    setattr(layer, _MARK, _Attached(lora, handle))


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Kaiming-uniform, as torch draws the weights of linear layers."""
    return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def _weight(layer: nn.Module) -> nn.Parameter:
    found = layer.weight
    assert isinstance(found, nn.Parameter)
    return found


def _attached(layer: nn.Module) -> _Attached:
    found = getattr(layer, _MARK)
    assert isinstance(found, _Attached)
    return found


def _partner(layer: nn.Module, dim: int) -> tuple[str, int]:
    """Which adapter holds what belongs to dimension `dim` of the layer's weight, and in which of its dimensions."""
    if isinstance(layer, nn.Embedding):
        return (A, 1) if dim == 0 else (B, 0)
    return (B, 0) if dim == 0 else (A, dim)


# -- which layers ------------------------------------------------------------------------------------


def _holding(model: nn.Module, groups: Groups, heads: frozenset[str]) -> list[str]:
    """Paths of linear layers and convolutions whose weight holds a position of a group, in the model's order."""
    return [
        path
        for path, weight in _adaptable(model, groups.graph).items()
        if weight not in heads
        and not isinstance(model.get_submodule(path), nn.Embedding)
        and any(labels.any() for labels in groups.dims[groups.graph.names[weight]])
    ]


def _named(model: nn.Module, groups: Groups, targets: tuple[str, ...]) -> list[str]:
    """Paths of the layers that a pattern means, in the model's order."""
    hits = {name for pattern in targets for name in matching(groups.graph, pattern)}
    return [path for path, weight in _adaptable(model, groups.graph).items() if weight in hits]


def _adaptable(model: nn.Module, graph: Graph) -> dict[str, str]:
    """Layers that can have adapters: path to the name of the weight."""
    readers: dict[int, set[str]] = {}
    for node in graph.nodes:
        for index in refs((node.args, node.kwargs)):
            readers.setdefault(index, set()).add(node.module)
    found = {}
    for path, layer in model.named_modules():
        weight = f"{path}.weight".removeprefix(".")
        if _own(layer) and weight in graph.names and readers.get(graph.names[weight]) == {path}:
            found[path] = weight
    return found


def _own(layer: nn.Module) -> bool:
    """Whether the layer computes as torch's class does, and adapters can be added to that."""
    made = type(layer)
    if isinstance(layer, nn.Embedding):
        return made.forward is nn.Embedding.forward and layer.max_norm is None
    for kind in _CONVOLUTIONS:
        if isinstance(layer, kind):
            own = [getattr(made, name) is getattr(kind, name) for name in ("forward", "_conv_forward")]
            return all(own) and layer.groups == 1
    return isinstance(layer, nn.Linear) and made.forward is nn.Linear.forward


def _heads(groups: Groups) -> frozenset[str]:
    """Names of the parameters of output layers, without those that a group makes."""
    graph = groups.graph
    paths = {name.rpartition(".")[0] for name in outermost(graph)}
    found = set()
    for name, index in graph.names.items():
        made = any(
            (index, dim) in groups.producer_dims and labels.any() for dim, labels in enumerate(groups.dims[index])
        )
        if name.rpartition(".")[0] in paths and graph.values[index].kind == "parameter" and not made:
            found.add(graph.values[index].name)
    return frozenset(found)
