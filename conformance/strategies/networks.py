"""Networks drawn layer by layer: each fits the form that the layers before it leave."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from conformance.strategies import blocks, layers
from conformance.strategies.description import FLAT, IDS, MAPS, TOKENS, Form, Layer, Network, through
from conformance.strategies.draws import SIMPLE, SIZES, WIDEST, Draw, Place, projection
from conformance.strategies.shapes import widths

Stack = tuple[Layer, ...]

INPUTS = ("flat", "tokens", "ids", "maps-1d", "maps-2d", "maps-3d")


def networks(inputs: Sequence[str] = INPUTS, *, most: int = 6) -> st.SearchStrategy[Network]:
    """Any network of up to `most` layers (each with up to two levels of layers inside) and a readout.

    inputs names what it may read: some of INPUTS. Every draw builds and runs. It prints as the code that makes it,
    and shrinks towards one narrow layer with nothing inside.

    Raises ValueError for another input.
    """
    if not inputs or not set(inputs) <= set(INPUTS):
        raise ValueError(f"inputs are some of {', '.join(INPUTS)}, not {', '.join(map(repr, inputs))}")
    return _networks(tuple(inputs), most)


@st.composite
def _networks(draw: st.DrawFn, inputs: tuple[str, ...], most: int) -> Network:
    first = draw(_input(draw(st.sampled_from(inputs))))
    # Most begin with a layer that makes channels: most others can only be removed behind one.
    begins = first.layout == IDS or draw(st.sampled_from((False, True, True, True, True, True)))
    stem = _kept([draw(projection(first)) if begins else None])
    rest = draw(_stack(through(stem, first), most - len(stem), Place(0, steady=False)))
    last = through((*stem, *rest), first)
    return Network(first, (*stem, *rest), draw(st.sampled_from(_readouts(first, last))))


@st.composite
def _input(draw: st.DrawFn, kind: str) -> Form:
    if kind == "flat":
        return Form(FLAT, draw(widths(1, 7)))
    if kind == "tokens":
        return Form(TOKENS, draw(widths(2, 9)), (draw(st.integers(2, 5)),))
    if kind == "ids":
        return Form(IDS, draw(widths(5, 13)), (draw(st.integers(2, 5)),))
    rank = INPUTS.index(kind) - 2
    sizes = draw(st.tuples(*[st.integers(3, SIZES[rank])] * rank))
    return Form(MAPS, draw(widths(1, 5)), sizes)


def _readouts(first: Form, last: Form) -> tuple[str, ...]:
    if last.layout == FLAT:
        return ("dense",)
    tied = ("tied", "tied") if first.layout == IDS and last.layout == TOKENS else ()
    return ("dense", "mean", "max", "flat", *tied)


# -- stacks ----------------------------------------------------------------------------------------


@st.composite
def _stack(draw: st.DrawFn, form: Form, most: int, place: Place) -> Stack:
    """Layers after each other.

    For shrinking each is one draw, and a draw ends the stack whether it is full or not: any layer can then be
    deleted without a change to what comes after it.
    """
    found: list[Layer] = []
    while (step := draw(_step(form, place, len(found) >= most))) is not _END:
        found += _kept([step])
        form = through(_kept([step]), form)
    return tuple(found)


@st.composite
def _step(draw: st.DrawFn, form: Form, place: Place, full: bool) -> Layer | None:
    """One layer, None where the kind drawn does not fit, or _END."""
    name = draw(st.sampled_from(_names(form.layout, place)))
    return _END if full or name == "end" else DRAWS[name](draw, form, place)


class _End(layers.Dropout):
    """Marks where a stack ends; never part of a network."""


_END = _End()
del Layer.kinds["_End"]


def _kept(found: Sequence[Layer | None]) -> Stack:
    return tuple(layer for layer in found if layer is not None)


def _body(draw: st.DrawFn, form: Form, place: Place) -> Stack:
    """Up to three layers that keep the positions, one where there is a body around it."""
    return draw(_stack(form, 3 - 2 * place.depth, place.inside()))


def _closed(draw: st.DrawFn, form: Form, place: Place, width: int) -> Stack:
    """A body that ends at this width, with a norm or a scale behind it or without."""
    body = _body(draw, form, place)
    after = through(body, form)
    more, bias = draw(st.booleans()), draw(st.booleans())
    if after.width != width or more:
        body = (*body, layers.PerPosition(width, bias))
    tail = draw(st.sampled_from((None, None, layers.Scale(), layers.Norm("batch"))))
    return (*body, *_kept([tail]))


# -- layers with others inside ----------------------------------------------------------------------


def _residual(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    if draw(st.booleans()):
        return blocks.Residual(_closed(draw, form, place, form.width))
    width = draw(widths(1, 9))
    return blocks.Residual(_closed(draw, form, place, width), (layers.PerPosition(width),))


def _branches(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    join = draw(st.sampled_from(("cat", "stack", "product", "maximum")))
    count = draw(st.integers(2, 3))
    if join == "cat":
        if form.width > WIDEST:
            count = 2
        bodies = tuple(
            _closed(draw, form, place, draw(widths(1, 7))) if form.width > WIDEST else _body(draw, form, place)
            for _ in range(count)
        )
        return blocks.Branches(bodies, join)
    width = draw(widths(1, 9))
    return blocks.Branches(tuple(_closed(draw, form, place, width) for _ in range(count)), join)


def _split(draw: st.DrawFn, form: Form, place: Place) -> Layer | None:
    how = draw(st.sampled_from(("split", "chunk", "narrow")))
    if form.width < 2:
        return None
    if how == "chunk":
        each = -(-form.width // draw(st.integers(2, min(3, form.width))))
        sizes = [each] * (form.width // each) + [form.width % each] * (form.width % each > 0)
    else:
        cut = draw(st.integers(1, form.width - 1))
        sizes = [cut, form.width - cut]
    bodies = tuple(_body(draw, form.wide(size), place) for size in sizes)
    return blocks.Split(tuple(sizes), bodies, how)


def _twice(draw: st.DrawFn, form: Form, place: Place) -> Layer:
    return blocks.Twice(_closed(draw, form, place, form.width), draw(st.sampled_from(("relu", "tanh", "sigmoid"))))


DRAWS: dict[str, Draw] = {
    **SIMPLE, "residual": _residual, "branches": _branches, "split": _split, "twice": _twice,
}  # fmt: skip

_POINTWISE = ("norm", "norm", "activation", "activation", "prelu", "scale", "shifted scale", "dropout", "rearranged",
              "padded", "maxout", "glu")  # fmt: skip
_NESTED = ("residual", "residual", "branches", "branches", "split", "twice")
_KEEPING = {
    FLAT: ("linear", "linear", "linear", "linear", "gated", "tied"),
    TOKENS: ("linear", "linear", "linear", "gated", "tied", "positions", "attention", "attention", "attention",
             "attention", "multihead", "encoder", "recurrent", "recurrent"),
    MAPS: ("conv", "conv", "conv", "conv", "depthwise", "depthwise", "transposed", "per position", "pool", "excite",
           "shuffle"),
}  # fmt: skip
_MOVING = {
    FLAT: (),
    TOKENS: ("summary", "flatten", "class token", "to maps"),
    MAPS: ("pool", "adaptive", "upsample", "pixels", "pixels", "summary", "flatten", "to tokens"),
}
"""Layers after which there are other positions, or another layout."""


def _names(layout: str, place: Place) -> tuple[str, ...]:
    """What may follow; the first is what draws shrink to.

    Deeper inside there are the first of the same names, so that a body can take the place of what it is in.
    """
    nested = _NESTED if place.depth < 2 else ()
    return ("end",) * 4 + _KEEPING[layout] + _POINTWISE + nested + (() if place.steady else _MOVING[layout])
