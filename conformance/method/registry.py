"""The methods that are installed, by name."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from conformance.errors import UsageError, sentence
from conformance.method.protocol import Method
from conformance.spec_loader import attribute

ENTRY_POINT_GROUP = "pruning_conformance.methods"


def methods() -> dict[str, EntryPoint]:
    """All registered methods by name, sorted; nothing is imported yet."""
    return {entry.name: entry for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)}


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises UsageError for an unknown name, with near matches, and for a broken one."""
    known = methods()
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(known)}"
        raise UsageError(f"there is no method named {name!r}{hint}")
    try:
        found = known[name].load()
    except Exception as error:
        raise UsageError(f"the method {name} cannot be used: {sentence(error)}") from error
    if not (isinstance(found, type) and issubclass(found, Method) and hasattr(found, "facts")):
        raise UsageError(f"the method {name} is no class derived from Method that declares its facts")
    return found


def method(name: str, **options: Any) -> Method:
    """A method by name with its options. Raises UsageError for an unknown name or option, with near matches."""
    return _made(name, method_class(name), options)


def class_of(spec: str) -> type[Method]:
    """The class of a method by its registered name, or at `package.module:Class` or `path/file.py:Class`.

    Loading the latter runs the code there. Raises UsageError for what is no method.
    """
    if ":" not in spec:
        return method_class(spec)
    found = attribute(spec)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"{spec} is no class derived from conformance.method.Method")
    return found


def method_of(spec: str, **options: Any) -> Method:
    """A method of the class that `class_of` finds, with its options. Raises UsageError for what is none of either."""
    return _made(spec, class_of(spec), options)


def _made(name: str, made: type[Method], options: dict[str, Any]) -> Method:
    known = [field.name for field in dataclasses.fields(made)]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(known) or 'none'}"
            raise UsageError(f"{name} has no option {option!r}; {hint}")
    try:
        return made(**options)
    except (TypeError, ValueError) as error:
        missing = "" if options else " cannot be made without options"
        raise UsageError(f"{name}{missing}: {error}") from error


def parse_options(spec: str, words: list[str]) -> dict[str, Any]:
    """`scope=local` and the like, each turned into the type its option has. Raises UsageError for what is none."""
    types = typing.get_type_hints(class_of(spec))
    found: dict[str, Any] = {}
    for word in words:
        option, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not OPTION=VALUE")
        found[option] = _converted(spec, option, text, types.get(option))
    return found


def _converted(name: str, option: str, text: str, kind: Any) -> Any:
    possible = typing.get_args(kind) if typing.get_origin(kind) is not None else (kind,)
    # Elsewhere `none` is a word like any other: a choice of its own, such as normalise=none, or a wrong one.
    if text.lower() in ("none", "null") and type(None) in possible:
        return None
    for one in possible:
        try:
            if one is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if one in (int, float):
                return one(text)
        except ValueError:
            continue
    if any(one in (int, float, bool) for one in possible) and str not in possible:
        raise UsageError(f"{name}: {option} is a number or true/false, not {text!r}")
    return text
