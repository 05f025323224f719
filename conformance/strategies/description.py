"""A network as data: a small tree of layers that prints as the code that makes it, and reads back from JSON."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from conformance.errors import UsageError
from conformance.randomise import randomised

FLAT, TOKENS, IDS, MAPS = "flat", "tokens", "ids", "maps"


class _Brief:
    """Prints as a call without the arguments that have their defaults, under Hypothesis too."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        given = [
            f"{item.name}={value!r}"
            for item in dataclasses.fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, item.name)) != item.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"


@dataclasses.dataclass(frozen=True, repr=False)
class Form(_Brief):
    """What one example looks like between two layers.

    `maps` (width, *positions) with 1 to 3 of them, `tokens` (positions, width), `flat` (width,), all float32;
    `ids` (positions,), int64 below width.
    """

    layout: str
    width: int
    positions: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        """How many dimensions hold positions."""
        return len(self.positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes without the batch."""
        return {
            MAPS: (self.width, *self.positions),
            TOKENS: (*self.positions, self.width),
            FLAT: (self.width,),
            IDS: self.positions,
        }[self.layout]

    @property
    def channel_dim(self) -> int:
        """Where the width is, with the batch in front."""
        return self.rank + 1 if self.layout == TOKENS else 1

    def wide(self, width: int) -> Form:
        """The same with another width."""
        return dataclasses.replace(self, width=width)


class Layer(_Brief, ABC):
    """One node of a description. Fields hold what it adds; the width it reads is the form's."""

    kinds: ClassVar[dict[str, type[Layer]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Layer.kinds[cls.__name__] = cls

    def after(self, form: Form) -> Form:
        """The form behind the layer."""
        return form

    @abstractmethod
    def module(self, form: Form) -> nn.Module:
        """The layer for inputs of this form, weights as torch draws them."""

    def inner(self) -> Iterator[Layer]:
        """Layers inside."""
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            yield from _layers(getattr(self, item.name))


def _layers(value: Any) -> Iterator[Layer]:
    if isinstance(value, Layer):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _layers(part)


def through(layers: Sequence[Layer], form: Form) -> Form:
    """The form behind all of them."""
    for layer in layers:
        form = layer.after(form)
    return form


def chain(layers: Sequence[Layer], form: Form) -> nn.Sequential:
    """Modules of layers that follow each other."""
    made = []
    for layer in layers:
        made.append(layer.module(form))
        form = layer.after(form)
    return nn.Sequential(*made)


@dataclasses.dataclass(frozen=True, repr=False)
class Network(_Brief):
    """A whole network.

    readout is what follows the last layer: `dense` scores every position (a linear layer or a pointwise
    convolution), `mean`, `max` and `flat` make one vector and score it, `tied` gives a score a word with the
    transposed table of the first embedding. seed draws weights and inputs.
    """

    input: Form
    layers: tuple[Layer, ...] = ()
    readout: str = "dense"
    classes: int = 3
    seed: int = 0

    def build(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network in evaluation mode and arguments for a batch of 2.

        Float32 on the CPU. What torch makes constant (norm scales, zero biases, running statistics) is drawn at
        random, so that exchanged channels show. The global random state is left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = chain((*self.layers, *_read(self)), self.input)
            if self.readout == "tied":
                table = next(module for module in model.modules() if isinstance(module, nn.Embedding))
                model[-1].weight = table.weight
        return randomised(model.eval(), self.seed), self.inputs(2)

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Arguments for a batch of this size: (batch, *input.shape), normal floats or random ids."""
        generator = torch.Generator().manual_seed(self.seed + batch)
        shape = (batch, *self.input.shape)
        if self.input.layout == IDS:
            return (torch.randint(self.input.width, shape, generator=generator),)
        return (torch.randn(shape, generator=generator),)

    def walk(self) -> Iterator[Layer]:
        """Every layer, those inside others too."""
        waiting = list(reversed(self.layers))
        while waiting:
            layer = waiting.pop()
            yield layer
            waiting += reversed(list(layer.inner()))

    def to_json(self) -> str:
        """One line of text that `from_json` reads."""
        return json.dumps(_plain(self))

    @classmethod
    def from_json(cls, text: str) -> Network:
        """The network that `to_json` wrote.

        Raises UsageError when the text is something else.
        """
        try:
            made = _made(json.loads(text))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise UsageError(f"not the description of a network: {error}") from error
        if not isinstance(made, cls):
            raise UsageError("not the description of a network: the outermost type is not Network")
        return made


def _read(net: Network) -> tuple[Layer, ...]:
    """The layers of the readout."""
    from conformance.strategies.layers import Embedding, Linear, PerPosition
    from conformance.strategies.reshaping import Flatten, Summary

    form = through(net.layers, net.input)
    if net.readout == "tied":
        table = next(layer for layer in net.layers if isinstance(layer, Embedding))
        fitting = () if form.width == table.outputs else (Linear(table.outputs),)
        return (*fitting, Linear(net.input.width, bias=False))
    if net.readout == "dense" or form.layout == FLAT:
        return (PerPosition(net.classes),)
    return (Flatten() if net.readout == "flat" else Summary(net.readout), Linear(net.classes))


def _plain(value: Any) -> Any:
    if isinstance(value, (Network, Form, Layer)):
        fields = {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}  # type: ignore[arg-type]
        return {"type": type(value).__name__, **fields}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        given = {name: _made(part) for name, part in value.items() if name != "type"}
        kinds: dict[str, Any] = {"Network": Network, "Form": Form, **Layer.kinds}
        return kinds[value["type"]](**given)
    return tuple(_made(part) for part in value) if isinstance(value, list) else value
