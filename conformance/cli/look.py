"""The commands that look without checking: `groups`, `explain`, `list`."""

from __future__ import annotations

import fnmatch
import re
from typing import Annotated

import typer

from conformance.cli.options import (
    Carry,
    CarryOption,
    FilterOption,
    SeedOption,
    ShapeOption,
    SpecArgument,
    TracebackOption,
    parse_shape,
)
from conformance.errors import UsageError
from conformance.report.build import Table
from conformance.report.terminal import Screen, show_partition


def groups(
    spec: SpecArgument,
    input_shape: ShapeOption = None,
    carry: CarryOption = Carry.auto,
    seed: SeedOption = 0,
    traceback: TracebackOption = False,
) -> None:
    """Show what can be removed from a model, what cannot, and why. Runs the code in SPEC.

    Ends with 0 also for a model in which nothing can be removed.
    """
    from conformance.spec_loader import load

    backend = load(spec, parse_shape(input_shape))
    from conformance.checks.runner import describe_groups

    found = describe_groups(backend, seed=seed, carry=carry.value)
    show_partition(Screen(), found)


def explain(
    spec: SpecArgument,
    parameter: Annotated[str, typer.Argument(metavar="PARAM[:DIM]", help="A parameter, e.g. layer3.0.conv1.weight:0.")],
    input_shape: ShapeOption = None,
    carry: CarryOption = Carry.auto,
    seed: SeedOption = 0,
    traceback: TracebackOption = False,
) -> None:
    """Say which group a parameter's slices belong to, or what holds them back. Runs the code in SPEC."""
    from conformance.spec_loader import load

    name, dim = parse_parameter(parameter)
    backend = load(spec, parse_shape(input_shape))
    from conformance.checks.runner import explain as explain_parameter

    Screen().line(explain_parameter(backend, parameter=name, dim=dim, seed=seed, carry=carry.value))


def parse_parameter(text: str) -> tuple[str, int | None]:
    """`layer.weight:1` -> ("layer.weight", 1), without a dimension -> (..., None); UsageError otherwise."""
    name, colon, dim = text.partition(":")
    if not name or (colon and not re.fullmatch(r"-?\d+", dim)):
        raise UsageError(f"{text!r} is not PARAM or PARAM:DIM with DIM a whole number")
    return name, int(dim) if colon else None


def list_(
    what: Annotated[
        str | None, typer.Argument(metavar="[PREFIX|checks]", help="A collection's prefix, or `checks`.")
    ] = None,
    pattern: FilterOption = None,
    traceback: TracebackOption = False,
) -> None:
    """List the collections, the models of one, or the checks."""
    screen = Screen()
    if what == "checks":
        screen.table(_checks(pattern), indent=0)
    elif what is None:
        screen.table(_collections(pattern), indent=0)
    else:
        from conformance.spec_loader import collection

        known = collection(what)
        names = known.names()
        if not names:
            known.get("")  # a collection that cannot be imported says why
        for name in _matching(names, pattern):
            screen.line(f"{what}:{name}")


def _checks(pattern: str | None) -> Table:
    from conformance.checks.registry import CHECKS
    from conformance.method.contract.registry import checks as of_methods

    rows = [(c.id, str(c.level), c.severity, c.title, c.spec) for c in CHECKS]
    rows += [(c.id, "method", c.severity, c.title, c.spec) for c in of_methods()]
    chosen = set(_matching([row[0] for row in rows], pattern))
    rows = [row for row in rows if row[0] in chosen]
    return Table(("check", "level", "severity", "what it checks", "specification"), tuple(rows))


def _collections(pattern: str | None) -> Table:
    from conformance.spec_loader import collection, prefixes

    rows: list[tuple[str, str]] = []
    for prefix in prefixes():
        try:
            known = collection(prefix)
            names = known.names()
            if not names:
                known.get("")
            rows.append((prefix, str(len(_matching(names, pattern)))))
        except UsageError as error:
            rows.append((prefix, str(error)))
    return Table(("prefix", "models"), tuple(rows))


def _matching(names: list[str], pattern: str | None) -> list[str]:
    return [name for name in names if pattern is None or fnmatch.fnmatchcase(name, pattern)]
