"""The commands that write a subnet to files and prove such files: `extract` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conformance.cli.options import (
    Carry,
    CarryOption,
    SeedOption,
    ShapeOption,
    SpecArgument,
    TracebackOption,
    parse_shape,
)
from conformance.errors import UsageError
from conformance.report.build import count
from conformance.report.files import make_folder
from conformance.report.terminal import Screen

if TYPE_CHECKING:
    from conformance.deploy.prove import Proved


def extract(
    spec: SpecArgument,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where plan.json and subnet.safetensors go.", file_okay=False)
    ],
    fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="How much of every axis to remove at random; 0.5 by default.")
    ] = None,
    selection: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A selection as `Selection.to_json` writes it, in place of a random one."),
    ] = None,
    carry: CarryOption = Carry.auto,
    input_shape: ShapeOption = None,
    seed: SeedOption = 0,
    traceback: TracebackOption = False,
) -> None:
    """Write a subnet as plan.json and subnet.safetensors, once it is proved equal. Runs the code in SPEC.

    The model keeps the weights its builder gives it. The subnet is compared in exact arithmetic with the model
    whose removed slices are zero; nothing is written unless they are equal. Ends with 0 when it is written,
    1 when it is not equal or that cannot be decided, 2 for a wrong SPEC, selection or option, 3 when the model
    cannot be run, or for an internal error.
    """
    from conformance.spec_loader import load

    if fraction is not None and selection is not None:
        raise UsageError("give --fraction or --selection, not both")
    backend = load(spec, parse_shape(input_shape))
    from conformance.deploy.prove import extract_to, read_selection

    text = None if selection is None else read_selection(selection)
    make_folder(output)
    share = 0.5 if fraction is None else fraction
    done = extract_to(backend, output, fraction=share, seed=seed, selection=text, carry=carry.value)
    screen = Screen()
    _show(screen, spec, done)
    if done.plan is None:
        screen.line("nothing was written")
        raise typer.Exit(1)
    screen.line(f"wrote {output / 'plan.json'} and {output / 'subnet.safetensors'}")


def verify(
    spec: SpecArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `conformance extract` wrote.")],
    input_shape: ShapeOption = None,
    seed: SeedOption = 0,
    traceback: TracebackOption = False,
) -> None:
    """Rebuild a subnet from its files and prove it equal to the model again. Runs the code in SPEC.

    Give the SPEC, --seed and --input-shape it was extracted with. Ends with 0 when the subnet is equal to the
    model whose removed slices are zero, 1 when it is not or that cannot be decided, 2 for a wrong SPEC or option
    and for files that are damaged or of another model, 3 when the model cannot be run, or for an internal error.
    """
    from conformance.spec_loader import load

    backend = load(spec, parse_shape(input_shape))
    from conformance.deploy.prove import verify as verified

    done = verified(backend, folder, seed=seed)
    _show(Screen(), spec, done)
    raise typer.Exit(0 if done.verdict.equal else 1)


def _show(screen: Screen, spec: str, done: Proved) -> None:
    before, after = (count(number) for number in done.parameters)
    verdict = done.verdict
    reason = f": {verdict.reason}" if verdict.reason else f", {verdict.compared} elements compared"
    style = "green" if verdict.equal else "red"
    screen.line(f"{spec}: the subnet is {verdict.status.value} by the {verdict.oracle} oracle{reason}", style)
    screen.line(f"  parameters: {before} -> {after}")
    screen.line(f"  removed: {done.removed} groups")
    screen.line(f"  kind: {done.kind}")
