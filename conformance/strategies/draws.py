"""One layer each, drawn to fit the form in front of it. Those that have layers inside are in `networks`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from conformance.strategies import blocks, layers, reshaping, sequence
from conformance.strategies.description import FLAT, IDS, MAPS, TOKENS, Form, Layer
from conformance.strategies.shapes import attentions, convolutions, widths

WIDEST = 24
"""Layers that widen leave alone what is wider than this."""

SIZES = {1: 9, 2: 6, 3: 4}
"""The most positions in a dimension of maps, by rank."""


@dataclass(frozen=True)
class Place:
    """Where a layer is drawn: how deep inside others, and whether positions and layout have to stay."""

    depth: int
    steady: bool

    def inside(self) -> Place:
        return Place(self.depth + 1, steady=True)


Draw = Callable[[st.DrawFn, Form, Place], Layer | None]


@st.composite
def projection(draw: st.DrawFn, form: Form) -> Layer:
    """What makes channels in this layout."""
    if form.layout == IDS:
        return layers.Embedding(draw(widths(2, 11)))
    if form.layout == MAPS:
        return _conv(draw, form, Place(0, steady=False)) or layers.PerPosition(2)
    return layers.Linear(draw(widths(2, 11)), draw(st.booleans()))


def _linear(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return layers.Linear(draw(widths(1, 11)), draw(st.booleans()))


def _per_position(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return layers.PerPosition(draw(widths(1, 11)), draw(st.booleans()))


def _conv(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    shape = draw(convolutions(form.rank, form.width, min(form.positions), largest=10))
    modes: tuple[layers.Mode, ...] = ("zeros", "zeros", "reflect", "circular", "replicate")
    mode = draw(st.sampled_from(modes))
    if place.steady:
        kernel = shape.kernel - (shape.kernel == 2)
        padding = shape.dilation * (kernel - 1) // 2
        made = layers.Conv(
            shape.outputs, kernel, 1, padding, shape.dilation if kernel > 1 else 1, shape.groups, shape.bias
        )
    else:
        made = layers.Conv(
            shape.outputs, shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups, shape.bias
        )
    return _with_mode(made, form, mode)


def _with_mode(conv: layers.Conv, form: Form, mode: layers.Mode) -> layers.Conv:
    """Reflection needs more positions than padding, a circle as many."""
    if not 0 < conv.padding < min(form.positions):
        return conv
    return layers.Conv(
        conv.outputs, conv.kernel, conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias, mode
    )


def _depthwise(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    multiplier = draw(st.integers(1, 3 if form.width <= WIDEST // 3 else 1))
    return layers.Conv(form.width * multiplier, 3, padding=1, groups=form.width, bias=draw(st.booleans()))


def _transposed(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    groups = draw(_divisors(form.width))
    outputs = groups * draw(st.integers(1, max(1, 8 // groups)))
    if place.steady:
        return layers.ConvTranspose(outputs, 1, 1, groups, draw(st.booleans()))
    stride = draw(st.integers(1, 2)) if max(form.positions) <= SIZES[form.rank] else 1
    kernel = draw(st.integers(stride, stride + 1))
    return layers.ConvTranspose(outputs, kernel, stride, groups, draw(st.booleans()))


def _divisors(width: int) -> st.SearchStrategy[int]:
    return st.sampled_from([number for number in range(1, width + 1) if width % number == 0])


def _norm(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    kinds = {
        FLAT: ("batch", "layer", "rms", "group"),
        TOKENS: ("batch", "layer", "rms", "group", "whole"),
        MAPS: ("batch", "layer", "rms", "group", "instance", "whole", "local"),
    }[form.layout]
    kind = draw(st.sampled_from(kinds))
    if kind == "instance" and math.prod(form.positions) == 1:  # torch refuses
        return None
    groups = draw(_divisors(form.width)) if kind == "group" else 1
    affine = kind == "local" or draw(st.sampled_from((True, True, True, False)))
    return layers.Norm(kind, groups, affine)


def _activation(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    # Softmax over channels holds all of them back: now and then only.
    return layers.Activation(draw(st.sampled_from([*layers.ACTIVATIONS, *layers.ACTIVATIONS, "softmax"])))


def _gate(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(("relu", "silu", "sigmoid", "gelu", "tanh", "hardsigmoid")))


def _prelu(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return layers.PRelu(form.layout != TOKENS and draw(st.booleans()))


def _pool(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    kind = draw(st.sampled_from(("max", "average")))
    if min(form.positions) < (3 if place.steady else 2):
        return None
    if place.steady:
        return reshaping.Pool(kind, 3, 1, 1)
    kernel = draw(st.integers(2, min(3, *form.positions)))
    return reshaping.Pool(kind, kernel, draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2)))


def _adaptive(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return reshaping.AdaptivePool(draw(st.sampled_from(("average", "max"))), draw(st.integers(1, 2)))


def _upsample(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    return reshaping.Upsample(draw(st.booleans())) if 2 * max(form.positions) <= SIZES[form.rank] else None


def _summary(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return reshaping.Summary(draw(st.sampled_from(("mean", "max", "first"))))


def _shuffle(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    return reshaping.Shuffle(draw(_divisors(form.width)), draw(st.booleans()))


def _padded(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    if form.width > WIDEST:
        return None
    return reshaping.Padded(draw(st.integers(0, 2)), draw(st.integers(0, 2)))


def _maxout(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    return reshaping.Maxout(draw(_divisors(form.width)))


def _pixels(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    if form.rank != 2:
        return None
    if form.width % 4 == 0 and max(form.positions) <= SIZES[2]:
        return reshaping.PixelShuffle(up=True)
    down = form.width <= WIDEST // 2 and not any(size % 2 for size in form.positions)
    return reshaping.PixelShuffle() if down else None


def _rearranged(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return reshaping.Rearranged(draw(st.sampled_from(("flip", "roll", "even", "index"))))


# -- gates -----------------------------------------------------------------------------------------


def _excite(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return blocks.SqueezeExcite(draw(widths(1, 5)), _gate(draw), draw(st.booleans()))


def _glu(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    gate = draw(st.sampled_from(("glu", "silu", "gelu", "sigmoid", "tanh")))
    return None if form.width % 2 else blocks.Glu(gate)


def _gated(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return blocks.Gated(draw(widths(1, 11)), _gate(draw), draw(st.booleans()), draw(st.booleans()))


def _tied(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return blocks.Tied(draw(widths(1, 9)))


# -- layers of tokens ------------------------------------------------------------------------------


def _attention(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    style = draw(st.sampled_from(sequence.STYLES))
    shape = draw(attentions(most_heads=3, largest=5))
    free = style in (sequence.SEPARATE, sequence.EINSUM)
    return sequence.Attention(
        shape.heads, shape.width, style, shape.value_width if free else 0,
        shape.shared if style == sequence.SEPARATE else 1, draw(st.booleans()), draw(st.booleans()), shape.bias,
    )  # fmt: skip


def _multihead(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return sequence.Multihead(draw(_divisors(form.width)), draw(st.booleans()))


def _encoder(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return sequence.Encoder(draw(_divisors(form.width)), draw(widths(1, 9)), draw(st.booleans()))


def _recurrent(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    kind = draw(st.sampled_from(tuple(sequence.RECURRENT)))
    return sequence.Recurrent(draw(widths(1, 7)), kind, draw(st.integers(1, 2)), draw(st.booleans()))


def _constant(layer: Layer) -> Draw:
    return lambda draw, form, place: layer


SIMPLE: dict[str, Draw] = {
    "linear": _linear, "per position": _per_position, "conv": _conv, "depthwise": _depthwise, "transposed": _transposed,
    "norm": _norm, "activation": _activation, "prelu": _prelu, "scale": _constant(layers.Scale()),
    "shifted scale": _constant(layers.Scale(shift=True)), "positions": _constant(layers.Positions()),
    "dropout": _constant(layers.Dropout()), "pool": _pool, "adaptive": _adaptive, "upsample": _upsample,
    "summary": _summary, "flatten": _constant(reshaping.Flatten()), "to tokens": _constant(reshaping.ToTokens()),
    "to maps": _constant(reshaping.ToMaps()), "class token": _constant(reshaping.ClassToken()), "shuffle": _shuffle,
    "padded": _padded, "maxout": _maxout, "pixels": _pixels, "rearranged": _rearranged,
    "excite": _excite, "glu": _glu, "gated": _gated, "tied": _tied, "attention": _attention,
    "multihead": _multihead, "encoder": _encoder, "recurrent": _recurrent,
}  # fmt: skip
"""What draws a layer of each name; None where the kind does not fit."""
