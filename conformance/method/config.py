"""A run as a TOML file: model, method, budget, task, recipe, limits and seed in one place."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from conformance.errors import UsageError
from conformance.method.budget import Budget, Ceiling, parse_budget
from conformance.method.ladder import Limits
from conformance.method.recipe import Recipe


@dataclass(frozen=True)
class RunConfig:
    """What `conformance prune` is told. model is a SPEC; data is where the task looks.

    task is a name; so is method, or it is package.module:Class or path/file.py:Class. budget is text such as
    `groups=0.5` or `params<=1e6`. weights is a safetensors file of the model's state_dict, loaded first.
    """

    model: str
    method: str
    budget: str
    task: str | None = None
    data: str | None = None
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    device: str = "cpu"
    carry: str = "auto"

    @property
    def parsed_budget(self) -> Budget | Ceiling:
        """The budget as a value. Raises UsageError for text that is none."""
        return parse_budget(self.budget)


_ADAPTER = TypeAdapter(RunConfig)


def read_config(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError for a file that cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error


def config(tables: dict[str, Any]) -> RunConfig:
    """A checked configuration. Raises UsageError naming the first entry that is unknown, missing or of a wrong type."""
    _refuse_unknown(tables, RunConfig, "")
    _refuse_unknown(tables.get("recipe", {}), Recipe, "recipe.")
    _refuse_unknown(tables.get("limits", {}), Limits, "limits.")
    try:
        return _ADAPTER.validate_python(tables)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{place}: {first['msg']}") from error


def _refuse_unknown(table: dict[str, Any], made: type, prefix: str) -> None:
    known = [one.name for one in dataclasses.fields(made)]
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; there are {', '.join(known)}"
            raise UsageError(f"{prefix}{name} is no entry of a run{hint}")


def merged(base: dict[str, Any], *, over: dict[str, Any]) -> dict[str, Any]:
    """`base` with what `over` gives, table by table; None in `over` gives nothing."""
    result = dict(base)
    for name, value in over.items():
        if isinstance(value, dict):
            result[name] = merged(result.get(name, {}), over=value)
        elif value is not None:
            result[name] = value
    return result
