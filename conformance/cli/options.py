"""The options that several commands share, and how their texts become values.

Nothing here imports torch: help and usage errors come at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conformance.errors import UsageError


@dataclass
class Settings:
    """What holds for the whole command; the option callbacks fill it in."""

    command: list[str] = field(default_factory=lambda: ["conformance"])
    traceback: bool = False

    @classmethod
    def of(cls, ctx: typer.Context) -> Settings:
        """The settings that main() handed to typer."""
        return ctx.obj if isinstance(ctx.obj, Settings) else cls()


class Carry(StrEnum):
    """Which factor of a reshape goes where there is a choice."""

    auto = "auto"
    outer = "outer"
    inner = "inner"


class Dtype(StrEnum):
    """The dtypes a model can be deployed in."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _remember_traceback(ctx: typer.Context, value: bool) -> bool:
    if value and isinstance(ctx.obj, Settings):
        ctx.obj.traceback = True
    return value


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """`3,64,64` -> (3, 64, 64); UsageError for anything else. None stays None."""
    if text is None:
        return None
    if not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*", text):
        raise UsageError(f"--input-shape {text!r} is not positive sizes with commas between them, like 3,64,64")
    return tuple(int(size) for size in text.split(","))


def parse_device(text: str) -> str:
    """The device as torch spells it; UsageError when torch does not know it or it is not there."""
    import torch

    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise UsageError(f"--device {text!r} is no device, give cpu, cuda, cuda:N or mps") from error
    if device.type == "meta":
        raise UsageError("--device meta holds no values, so nothing can be compared on it")
    try:
        torch.empty(1, device=device)
    except Exception as error:
        raise UsageError(f"--device {text} cannot be used here: {str(error).splitlines()[0]}") from error
    return str(device)


TracebackOption = Annotated[
    bool,
    typer.Option(
        "--traceback",
        help="Show the Python traceback of an internal error.",
        callback=_remember_traceback,
        is_eager=True,
        rich_help_panel="Other",
    ),
]
SpecArgument = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="prefix:name, package.module:callable or path/file.py:callable."),
]
CarryOption = Annotated[
    Carry,
    typer.Option(
        help="Where a reshape leaves a choice: heads and whole groups go (outer), or head dims and channels in groups "
        "(inner); auto: heads, else whichever has more positions."
    ),
]
ShapeOption = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="N,N,...",
        help="Shape of one float input without the batch, e.g. 3,64,64; replaces the model's own inputs.",
    ),
]
LevelOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=3,
        help="0: runs and repeats; 1: groups and subnets are valid, too; 2: subnets are exact, too; "
        "3: they can be deployed, too.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="GLOB",
        help="Of levels 2 and 3 only checks whose id matches, e.g. 'L2.random-*'; may be repeated.",
    ),
]
RemoveOption = Annotated[
    list[str] | None,
    typer.Option(
        "--remove",
        metavar="NAME:DIM:POS,...",
        help="Level 2 looks at the groups these positions are in, not at random ones; may be repeated.",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the weights, inputs and selections.")]
DeviceOption = Annotated[str, typer.Option(help="Where the native comparison runs: cpu, cuda, cuda:N, mps.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Deployed dtype of the native comparison.")]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, help="Models checked at once, each in a process of its own.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Wall-clock limit a model; over it, its outcome is error."),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(metavar="GIB", help="Resident memory limit a model; over it, its outcome is error."),
]
ReportOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write report.json and report.md there.", file_okay=False)
]
FilterOption = Annotated[
    str | None, typer.Option("--filter", metavar="GLOB", help="Only names that match, e.g. '*resnet*'.")
]


def positive(value: float | None, option: str) -> float | None:
    """The limit, which must be above zero; UsageError otherwise."""
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"{option} must be above 0, not {value:g}")
    return value
