"""Models of transformers, made from configs with random weights: nothing is ever downloaded.

`transformers:NAME` is a record of `backends.transformers_records` (small sizes, or a deployed size
such as `bert-base`), or any model type transformers knows, shrunk by attribute name. `build()`
honours an ambient `torch.device` context; `llama-70b` is meant to be built as

    with torch.device("meta"):
        model = collection.get("llama-70b").build()
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import torch

from backends.common import Draw, Drawn, require, reshaped, tagged
from backends.transformers_generic import draws_of, small_arguments
from backends.transformers_records import ALL
from backends.transformers_records.record import Record
from conformance.backend import Backend, unknown_name
from conformance.errors import UsageError

require("transformers", "zoo")

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "context_length", "max_target_positions")


class TransformersCollection:
    """The transformers collection; names are records first, then the model types without one."""

    prefix = "transformers"

    def names(self) -> list[str]:
        """Every record and every model type that has a base model, sorted."""
        return sorted({*ALL, *_model_types()})

    def get(self, name: str, input_shape: tuple[int, ...] | None = None) -> Backend:
        """The backend of a name; `_` and `-` are the same. input_shape replaces the main argument's.

        An image size of the config follows input_shape (square images only where it is one number).
        """
        record = ALL.get(name.replace("_", "-"))
        if record is not None:
            return _from_record(record, input_shape)
        model_types = _model_types()
        for spelling in (name, name.replace("-", "_"), name.replace("_", "-")):
            if spelling in model_types:
                return _from_model_type(spelling, input_shape)
        raise unknown_name(self.prefix, name, self.names())


def _from_record(record: Record, input_shape: tuple[int, ...] | None) -> Backend:
    spec = f"transformers:{record.name}"
    draws = reshaped(spec, record.draws, input_shape)
    config = record.config if input_shape is None else _resized(record.config, draws[0])

    def build() -> torch.nn.Module:
        import transformers

        model_class = getattr(transformers, record.model)
        return _construct(model_class, model_class.config_class(**copy.deepcopy(dict(config))))

    return Backend(
        name=spec,
        build=build,
        inputs=Drawn(draws),
        source=f"transformers.{record.model}",
        task=record.task,
        size=record.size,
        tags=tagged(("transformers",), record.tags),
    )


def _from_model_type(name: str, input_shape: tuple[int, ...] | None) -> Backend:
    import transformers

    spec = f"transformers:{name}"
    config_class = transformers.CONFIG_MAPPING[name]
    try:
        arguments = small_arguments(config_class, input_shape[-1] if input_shape else None)
        model_class = getattr(transformers, _model_types()[name])
        default = draws_of(name, model_class, config_class(**copy.deepcopy(arguments)))
    except UsageError:
        raise
    except Exception as error:
        raise _unsuitable(spec, error) from error

    def build() -> torch.nn.Module:
        try:
            return _construct(model_class, config_class(**copy.deepcopy(arguments)))
        except Exception as error:
            raise _unsuitable(spec, error) from error

    return Backend(
        name=spec,
        build=build,
        inputs=Drawn(reshaped(spec, default, input_shape)),
        source=f"transformers.{model_class.__name__}",
        task="features",
        size="tiny",
        tags=frozenset({"transformers", "generic"}),
    )


def _unsuitable(spec: str, error: Exception) -> UsageError:
    """The config and model classes raise errors of many libraries; all mean that the sizes do not suit."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UsageError(f"{spec} has no record and cannot be shrunk generically: {first}")


def _construct(model_class: Any, config: Any) -> torch.nn.Module:
    """The model of a config, told not to return caches (they are no function of one input alone)."""
    for part in (config, *(getattr(config, key, None) for key in getattr(config, "sub_configs", {}))):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    model: torch.nn.Module = model_class(config)
    return model


def _resized(config: Mapping[str, Any], main: Draw) -> dict[str, Any]:
    """The config with its image size, channels and longest text following the main argument's shape."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            changed[key] = _resized(value, main)
        elif main.kind == "token" and key in _LENGTHS:
            changed[key] = max(value, main.shape[0] + 1)
        elif main.name == "pixel_values" and key == "num_channels":
            changed[key] = main.shape[0]
        elif main.name == "pixel_values" and key == "image_size":
            changed[key] = _image_size(value, main.shape[-2:])
        else:
            changed[key] = value
    return changed


def _image_size(old: object, size: tuple[int, ...]) -> object:
    if isinstance(old, list):
        return list(size)
    if size[0] != size[1]:
        raise UsageError(f"this model is built for square images, not for {size[0]}x{size[1]}")
    return size[0]


@functools.cache
def _model_types() -> dict[str, str]:
    """Model types without a record, with the name of their base model class."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return {
        name: model if isinstance(model, str) else model[0]
        for name, model in MODEL_MAPPING_NAMES.items()
        if name.replace("_", "-") not in ALL
    }


collection = TransformersCollection()
