"""Faults in one operation that the subnet runs: an attribute, a skipped layer, another function.

The calls of torch's functions that a subnet makes are counted; a mutant makes one of them otherwise.
That reaches modules, functions in a forward, and the operations of a traced graph alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from conformance.backend import Inputs
from conformance.graph.trace import decomposed, reproducible
from conformance.partition.rules import base_name
from conformance.subnet import whole_width
from conformance.subnet.norm_module import WholeWidth
from conformance.subnet.tape_module import GraphSubnet
from planted.site import Mutant, Site, kind, one_of, planted


@dataclass(frozen=True)
class Call:
    """One call of a torch function. name is without underscores: `add` for `+`, `+=`, torch.add and aten.add."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The function with other leading arguments."""
        return self.function(*args, *self.args[len(args) :], **{**self.kwargs, **kwargs})

    def with_argument(self, place: int, name: str, value: Any) -> Any:
        """The function with one argument replaced, given by position or by name."""
        if len(self.args) > place:
            args = list(self.args)
            args[place] = value
            return self.function(*args, **self.kwargs)
        return self.function(*self.args, **{**self.kwargs, name: value})

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def x(self) -> Any:
        return self.args[0] if self.args else self.kwargs.get("input")


Fits = Callable[[Call, Any], bool]
Alter = Callable[[Call, Any], Any]


@dataclass(frozen=True)
class Alteration:
    """names of functions it is about; which calls (with their result) it fits; what comes in place of the result."""

    names: frozenset[str]
    fits: Fits
    alter: Alter


ALTERATIONS: dict[str, Alteration] = {}


class _Counting(TorchFunctionMode):
    """Runs everything as it is, but call number `at` among those an alteration is about."""

    def __init__(self, at: int, alteration: Alteration) -> None:
        super().__init__()
        self.at, self.alteration, self.seen = at, alteration, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        if name in self.alteration.names:
            self.seen += 1
            if self.seen - 1 == self.at:  # on copies: the function may write to what it is given
                own_args, own_kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
                return self.alteration.alter(Call(name, func, own_args, own_kwargs), func(*args, **kwargs))
        return func(*args, **kwargs)


class Altered(torch.nn.Module):
    """A module one of whose calls is made otherwise."""

    def __init__(self, inner: torch.nn.Module, at: int, alteration: Alteration) -> None:
        super().__init__()
        self.inner, self.at, self.alteration = inner, at, alteration

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Counting(self.at, self.alteration):
            return self.inner(*args, **kwargs)


class _Recording(TorchFunctionMode):
    """Notes for each alteration which of the calls it is about it fits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = dict.fromkeys(ALTERATIONS, 0)
        self.found: dict[str, list[int]] = {name: [] for name in ALTERATIONS}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call(_name(func), func, args, kwargs or {})
        result = func(*args, **call.kwargs)
        for name, alteration in ALTERATIONS.items():
            if call.name in alteration.names:
                if alteration.fits(call, result):
                    self.found[name].append(self.seen[name])
                self.seen[name] += 1
        return result


def _name(func: Any) -> str:
    return (base_name(func) if isinstance(func, torch._ops.OpOverload) else getattr(func, "__name__", "")).strip("_")


def recorded(subnet: torch.nn.Module, inputs: Inputs) -> dict[str, list[int]]:
    """For each alteration the numbers of the calls in a pass of the subnet that it fits."""
    recording = _Recording()
    with decomposed(), reproducible(), recording:
        planted(subnet, {})(*inputs[0], **inputs[1])
    return recording.found


def alteration(
    name: str, what: str, names: str, fits: Fits, *, louder: Alter | None = None
) -> Callable[[Alter], Alter]:
    """Register what comes in place of one call as a kind of fault; `louder` is the same mistake made large."""

    def register(alter: Alter) -> Alter:
        made = ALTERATIONS[name] = Alteration(frozenset(names.split()), fits, alter)

        loud = None if louder is None else replace(made, alter=louder)

        @kind(name, what, small=louder is not None)
        def plant(site: Site, rng: np.random.Generator) -> Mutant | None:
            at = one_of(rng, site.calls.get(name, []))
            if at is None:
                return None
            rewrites = (one and partial(Altered, at=at, alteration=one) for one in (made, loud))
            return Mutant(f"call {at}", {}, next(rewrites), louder=next(rewrites))

        return alter

    return register


# -- what a call is like -------------------------------------------------------------------------------


def _floating(*values: Any) -> bool:
    return all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in values)


def _sum(call: Call, result: Any) -> bool:
    return (
        len(call.args) > 1
        and _floating(*call.args[:2])
        and call.args[0].shape == call.args[1].shape
        and result.ndim > 1
    )


def _keeps_shape(call: Call, result: Any) -> bool:
    return _floating(call.x, result) and call.x.shape == result.shape


def _of_float(call: Call, result: Any) -> bool:
    return _floating(call.x)


def _kernel(call: Call) -> tuple[int, ...]:
    return tuple(call.argument(1, "weight").shape[2:])


def _wide_kernel(call: Call, result: Any) -> bool:
    return not isinstance(call.argument(4, "padding", 0), str) and max(_kernel(call), default=1) > 1


def _numbers(call: Call, place: int, name: str, default: int) -> list[int]:
    value = call.argument(place, name, default)
    return [value] * len(_kernel(call)) if isinstance(value, int) else list(value) * (len(_kernel(call)) // len(value))


def _fitted(made: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Cut, or filled up with zeros, to the shape of `like`: so that it is not its shape that gives a fault away."""
    for dim, size in enumerate(like.shape):
        made = made.narrow(dim, 0, min(size, made.shape[dim]))
    pads = [pad for a, b in zip(reversed(like.shape), reversed(made.shape), strict=True) for pad in (0, a - b)]
    return F.pad(made, pads) if any(pads) else made


# -- the kinds -----------------------------------------------------------------------------------------


@alteration("sum-keeps-first", "a residual sum dropped: its first term alone", "add iadd radd", _sum)
def _sum_keeps_first(call: Call, result: Any) -> Any:
    return call.args[0]


@alteration("sum-keeps-second", "a residual sum dropped: its second term alone", "add iadd radd", _sum)
def _sum_keeps_second(call: Call, result: Any) -> Any:
    return call.args[1]


_LAYERS = "linear conv1d conv2d conv3d layer_norm group_norm batch_norm rms_norm instance_norm convolution"


@alteration("layer-skipped", "a layer passes its input on", _LAYERS, _keeps_shape)
def _skipped(call: Call, result: Any) -> Any:
    return call.x


_OTHER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu6, "relu6": F.relu, "silu": F.hardswish, "hardswish": F.silu, "sigmoid": F.hardsigmoid,
    "hardsigmoid": F.sigmoid, "tanh": F.hardtanh, "hardtanh": F.relu, "leaky_relu": F.relu, "elu": F.relu,
    "softplus": F.relu, "mish": F.silu,
}  # fmt: skip


@alteration("activation", "another activation: relu6 for relu, hardswish for silu, ...", " ".join(_OTHER), _of_float)
def _activation(call: Call, result: Any) -> Any:
    return _OTHER[call.name](call.x)


@alteration("gelu-form", "gelu by tanh in place of erf, or the other way round", "gelu", _of_float)
def _gelu(call: Call, result: Any) -> Any:
    return F.gelu(call.x, approximate="none" if call.kwargs.get("approximate") == "tanh" else "tanh")


def _small_number(call: Call) -> int | None:
    """The place of a positional eps: the last positive float below 0.01."""
    places = [at for at, value in enumerate(call.args) if isinstance(value, float) and 0 < value < 0.01]
    return places[-1] if places else None


_NORMS = "layer_norm group_norm batch_norm rms_norm instance_norm native_layer_norm native_group_norm native_batch_norm"


def _with_eps(call: Call, change: Callable[[float], float]) -> Any:
    place = _small_number(call)
    return call.with_argument(place, "eps", change(call.args[place]))


@alteration(
    "eps", "a norm adds ten times its eps", f"{_NORMS} add", lambda call, _: _small_number(call) is not None,
    louder=lambda call, _: _with_eps(call, lambda eps: eps + 1),
)  # fmt: skip
def _eps(call: Call, result: Any) -> Any:
    return _with_eps(call, lambda eps: 10 * eps)


def _scaled(call: Call, result: Any) -> bool:
    number = call.argument(1, "other")
    return _floating(call.x) and isinstance(number, float) and number not in (0.0, 1.0) and math.isfinite(number)


@alteration("scale", "a constant factor such as 1/sqrt(E) is that of a smaller width", "mul div truediv", _scaled)
def _scale(call: Call, result: Any) -> Any:
    return call.with_argument(1, "other", call.argument(1, "other") * math.sqrt(2))


@alteration("attention-scale", "an attention scales by a smaller head width", "scaled_dot_product_attention", _of_float)
def _attention_scale(call: Call, result: Any) -> Any:
    scale = call.kwargs.get("scale") or call.x.shape[-1] ** -0.5
    return call.run(scale=scale * math.sqrt(2))


def _masked(call: Call, result: Any) -> bool:
    if "attention" not in call.name:
        return _floating(call.x)
    return call.argument(3, "attn_mask") is not None or bool(call.argument(5, "is_causal"))


@alteration("mask-dropped", "a mask is not applied", "scaled_dot_product_attention masked_fill", _masked)
def _unmasked(call: Call, result: Any) -> Any:
    return (
        F.scaled_dot_product_attention(*call.args[:3], **_other_options(call)) if "attention" in call.name else call.x
    )


def _other_options(call: Call) -> dict[str, Any]:
    """What an attention was given by name, but for its mask."""
    return {name: value for name, value in call.kwargs.items() if name in ("scale", "enable_gqa")}


@alteration("dropout-on", "a dropout still drops", "dropout dropout1d dropout2d dropout3d", _of_float)
def _dropping(call: Call, result: Any) -> Any:
    return F.dropout(call.x, 0.3, training=True)


@alteration("batch-statistics", "a batch norm left in training mode", "batch_norm", _of_float)
def _training(call: Call, result: Any) -> Any:
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    return F.batch_norm(call.x, None, None, weight, bias, training=True, eps=call.argument(7, "eps", 1e-5))


_CONVOLUTIONS = "conv1d conv2d conv3d convolution"


@alteration("padding", "a convolution with one more row of padding", _CONVOLUTIONS, _wide_kernel)
def _padding(call: Call, result: Any) -> Any:
    wider = [number + 1 for number in _numbers(call, 4, "padding", 0)]
    return _fitted(call.with_argument(4, "padding", wider), result)


@alteration("stride", "a convolution with another stride", _CONVOLUTIONS, _wide_kernel)
def _stride(call: Call, result: Any) -> Any:
    longer = [number + 1 for number in _numbers(call, 3, "stride", 1)]
    return _fitted(call.with_argument(3, "stride", longer), result)


@alteration("dilation", "a convolution with another dilation", _CONVOLUTIONS, _wide_kernel)
def _dilation(call: Call, result: Any) -> Any:
    wider = [number + 1 for number in _numbers(call, 5, "dilation", 1)]
    return _fitted(call.with_argument(5, "dilation", wider), result)


_POOLS = {
    "max_pool2d": F.avg_pool2d, "avg_pool2d": F.max_pool2d, "adaptive_avg_pool2d": F.adaptive_max_pool2d,
    "adaptive_avg_pool1d": F.adaptive_max_pool1d,
}  # fmt: skip


@alteration("pooling", "an average in place of a maximum, or the other way round", " ".join(_POOLS), _of_float)
def _pooling(call: Call, result: Any) -> Any:
    return _POOLS[call.name](*call.args[:4])


def _joined(call: Call, result: Any) -> bool:
    return _floating(result) and len(call.args[0]) > 1


@alteration("concat-order", "branches joined in reversed order", "cat concat", _joined)
def _reversed_cat(call: Call, result: Any) -> Any:
    return call.run(list(reversed(call.args[0])))


def _two_alike(call: Call, result: Any) -> bool:
    return len(result) > 1 and _floating(result[0]) and result[0].shape == result[1].shape


@alteration(
    "halves-exchanged", "the first two pieces of a split exchanged: gate and value, q and k",
    "chunk split split_with_sizes unbind tensor_split", _two_alike,
)  # fmt: skip
def _exchanged(call: Call, result: Any) -> Any:
    return [result[1], result[0], *result[2:]]


def _splits(call: Call, result: Any) -> bool:
    if not _floating(call.x, result) or result.ndim <= call.x.ndim:
        return False
    heads, width = result.shape[-2:]
    return min(heads, width) > 1 and call.x.shape[-1] == heads * width


@alteration(
    "head-dim-swap", "heads and their channels exchanged in a reshape", "view reshape unflatten unsafe_view", _splits
)
def _head_dim_swap(call: Call, result: Any) -> Any:
    *front, heads, width = result.shape
    return call.x.reshape(*front, width, heads).transpose(-1, -2).contiguous()


def _normalises(call: Call, result: Any) -> bool:
    return _floating(call.x) and isinstance(_softmax_dim(call), int) and result.shape[_softmax_dim(call)] > 1


def _softmax_dim(call: Call) -> Any:
    return call.argument(1, "dim")


@alteration("softmax-domain", "a softmax normalised over one position less", "softmax", _normalises)
def _softmax_domain(call: Call, result: Any) -> Any:
    dim = _softmax_dim(call)
    kept = call.x.narrow(dim, 0, call.x.shape[dim] - 1)
    return _fitted(torch.softmax(kept, dim), result)


# -- norms that should count the original width --------------------------------------------------------


def _counts(step: Any) -> bool:
    return getattr(step[0], "__module__", "") == whole_width.__name__


def _programs(module: torch.nn.Module) -> list[tuple[str, int]]:
    """Steps that count positions of the full model: (path of the module, number of the step)."""
    found = []
    for path, part in module.named_modules():
        if isinstance(part, (WholeWidth, GraphSubnet)):
            steps = part.call.steps if isinstance(part, WholeWidth) else part._program
            found += [(path, number) for number, step in enumerate(steps) if _counts(step)]
    return found


def _narrowed(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of whole_width's functions, made to count the positions that are there."""
    own = function.__closure__[0].cell_contents if function.__closure__ else function

    def narrow(*args: Any) -> Any:
        if own is whole_width.group_norm:
            return function(*args[:3], args[0].shape[1], args[4])
        if own is whole_width.mean:
            return function(*args[:4], math.prod(args[0].shape[dim] for dim in args[1]))
        if own is whole_width.moments:
            return function(*args[:3], [args[1].shape[dim] for dim in args[2]], args[4])
        return function(args[0], list(args[0].shape[-len(args[1]) :]), *args[2:])

    return narrow


def _narrow_step(module: torch.nn.Module, path: str, number: int) -> torch.nn.Module:
    part = module.get_submodule(path)
    steps = list(part.call.steps if isinstance(part, WholeWidth) else part._program)
    steps[number] = (_narrowed(steps[number][0]), *steps[number][1:])
    if isinstance(part, WholeWidth):
        part.call = type(part.call)(part.call.state, steps, part.call.taken, part.call.given)
    else:
        part._program = steps
    return module


@kind("kept-width", "a norm or average over the hidden width divides by the kept width")
def kept_width(site: Site, rng: np.random.Generator) -> Mutant | None:
    place = one_of(rng, _programs(site.subnet))
    if place is None:
        return None
    path, number = place
    return Mutant(path or "graph", rewrite=partial(_narrow_step, path=path, number=number))
