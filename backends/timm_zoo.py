"""Every architecture of timm, with random weights: `timm:NAME`.

Inputs are the smallest of a few square sizes at which the model runs, found out by a forward on the
meta device the first time a record is used (its `build` or `inputs` is called), and kept for the process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from backends.common import Draw, Drawn, require
from conformance.backend import Backend, Inputs, unknown_name
from conformance.errors import UsageError

require("timm", "zoo")

SIZES = (64, 56, 96, 112, 128, 160, 192, 224, 256)


@dataclass(frozen=True)
class Plan:
    """How a model is built and the input shape (without the batch) that fits it."""

    shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


class TimmCollection:
    """The timm collection."""

    prefix = "timm"

    def names(self) -> list[str]:
        """Every architecture, sorted, without the tags of pretrained weights."""
        import timm

        return sorted(timm.list_models())

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The backend of an architecture; input_shape (channels, height, width) replaces the small default.

        A weight tag (`resnet18.a1_in1k`) is accepted and ignored. Raises UsageError for an unknown
        name, or, when the record is used, for a model that does not run at the shape asked for.
        """
        return self._record(name, input_shape, None)

    def adapted(self, name: str, shape: tuple[int, ...], classes: int) -> Backend:
        """The backend of an architecture with its classifier, input channels and image size made for a task.

        The model is tried once, on the meta device where that will do. Raises UsageError for an unknown name
        and for a model that does not run at the shape.
        """
        backend = self._record(name, shape, classes)
        plan(backend.name.partition(":")[2], tuple(shape), classes)
        return backend

    def _record(self, name: str, input_shape: tuple[int, ...] | None, classes: int | None) -> Backend:
        import timm

        architecture = name.split(".", maxsplit=1)[0]
        if not timm.is_model(architecture):
            raise unknown_name(self.prefix, architecture, self.names())
        if input_shape is not None and (len(input_shape) != 3 or min(input_shape) < 1):
            raise UsageError(f"timm:{name} takes an input shape of 3 positive sizes, not {input_shape}")
        shape = None if input_shape is None else tuple(input_shape)

        def build() -> torch.nn.Module:
            return create(architecture, plan(architecture, shape, classes).arguments)

        def inputs(batch: int, generator: torch.Generator) -> Inputs:
            return Drawn((Draw(plan(architecture, shape, classes).shape),))(batch, generator)

        module = timm.model_entrypoint(architecture).__module__
        family = module.rsplit(".", 1)[-1]
        return Backend(
            name=f"{self.prefix}:{architecture}",
            build=build,
            inputs=inputs,
            source=f"{module}:{architecture}",
            task="classification",
            size="tiny" if architecture.startswith("test_") else "full",
            tags=frozenset({"timm", family}),
        )


def create(name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """A fresh model with random weights, on the ambient device."""
    import timm

    model: torch.nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


@functools.cache
def plan(name: str, wanted: tuple[int, ...] | None = None, classes: int | None = None) -> Plan:
    """The plan for a model: the first candidate at which a batch of two runs in eval mode.

    classes: outputs of the classifier, None for the architecture's own. The generator of the random weights
    is left as it was. Raises UsageError when no candidate runs.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    default = tuple(config.input_size) if config is not None else (3, 224, 224)
    fixed = bool(config is not None and config.fixed_input_size)
    reason = "no candidate size"
    with torch.random.fork_rng(devices=[]):
        for candidate in _candidates(wanted, default, fixed=fixed, classes=classes):
            failure = _failure(name, candidate)
            if failure is None:
                return candidate
            reason = failure
    shape = "any small size" if wanted is None else "x".join(map(str, wanted))
    raise UsageError(f"timm:{name} does not run at {shape}: {reason}")


def _candidates(
    wanted: tuple[int, ...] | None, default: tuple[int, ...], *, fixed: bool, classes: int | None
) -> Iterator[Plan]:
    """Plans to try, best first."""
    shapes = [(default[0], size, size) for size in SIZES if size < min(default[1:])]
    for shape in [wanted] if wanted is not None else [*shapes, default]:
        arguments: dict[str, Any] = {} if shape[0] == default[0] else {"in_chans": shape[0]}
        if classes is not None:
            arguments["num_classes"] = classes
        if shape[1:] != default[1:] and fixed:
            yield Plan(shape, {**arguments, "img_size": tuple(shape[1:])})
        if shape[1:] == default[1:] or not fixed or wanted is not None:
            yield Plan(shape, arguments)


def _failure(name: str, candidate: Plan) -> str | None:
    """Why a plan does not work, or None when it does. Tried on meta, and on the CPU where meta cannot."""
    reason = ""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.no_grad():
                model = create(name, candidate.arguments).eval()
                model(torch.zeros(2, *candidate.shape))
        except Exception as error:  # noqa: BLE001 - any error of foreign code means: this size is not for it
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if not _meta_only(error):
                return reason
        else:
            return None
    return reason


def _meta_only(error: Exception) -> bool:
    """Whether an error comes from the meta device having no values, and not from the size."""
    words = str(error).lower()
    return isinstance(error, NotImplementedError) or "meta" in words or "item()" in words


collection = TimmCollection()
