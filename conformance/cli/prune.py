"""`conformance prune`: run a method on a model and keep the subnet, proved."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conformance.cli.options import Carry, TracebackOption, parse_device
from conformance.errors import UsageError
from conformance.report.build import count
from conformance.report.files import make_folder
from conformance.report.terminal import Screen, Tracker

if TYPE_CHECKING:
    from conformance.method.config import RunConfig
    from conformance.method.outcome import Outcome

_RECIPE, _LIMITS = "Training", "Limits"
_SPOKEN_SECONDS = _SAVE_SECONDS = 60.0


def prune(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the result goes; a run that was broken off goes on.")
    ],
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC]", help="The model; may stand in --config instead.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A run as TOML; options given here count more.", dir_okay=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="A name that `conformance methods` lists, package.module:Class or path/file.py:Class."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the method.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=SHARE",
            help="What goes: groups, params, macs or latency, e.g. macs=0.5; or what may be left, e.g. 'macs<=4e8'.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="The data; digits without, where data is needed. Methods that look at weights need none."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Where the task finds its data.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="A safetensors file of the model's state_dict, loaded first.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, rich_help_panel=_RECIPE, help="Of the method's training.")
    ] = None,
    dense_epochs: Annotated[
        int | None, typer.Option(min=0, rich_help_panel=_RECIPE, help="Of plain training before the method.")
    ] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(min=0, rich_help_panel=_RECIPE, help="Of plain training of the subnet.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, rich_help_panel=_RECIPE, help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(rich_help_panel=_RECIPE, help="Learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(rich_help_panel=_RECIPE, help="sgd, adam or adamw.")] = None,
    round_to: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_LIMITS, help="Groups kept in an axis are a multiple of it.")
    ] = None,
    min_keep: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_LIMITS, help="Groups kept in an axis.")
    ] = None,
    protect: Annotated[
        float | None, typer.Option(min=0, max=1, rich_help_panel=_LIMITS, help="Share of every axis that stays.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", rich_help_panel=_LIMITS, help="Layers whose groups stay; may be repeated."),
    ] = None,
    save_every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", rich_help_panel=_RECIPE, help="Between two saved states of training; 60."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, data order and everything drawn.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it runs: cpu, cuda, cuda:N.")] = None,
    carry: Annotated[Carry | None, typer.Option(help="Heads go (outer) or head dims (inner); auto: heads.")] = None,
    traceback: TracebackOption = False,
) -> None:
    """Prune a model by a method; the subnet is proved exact and saved with its plan. Runs the code in SPEC, and
    that of a method which is not a name.

    DIR gets result.json, plan.json with subnet.safetensors, model.safetensors (full size, with its zeros) and
    history.jsonl. The same command on the same DIR resumes a run that was interrupted: by Ctrl-C or a loss that is
    not finite after the last whole step, otherwise from what --save-every kept. Ends with 0 when the
    subnet is equal to the zeroed model (or the method's masks hold), 1 when not or that cannot be decided, 2 for
    a wrong option, 3 when training or the model fails.
    """
    from conformance.method.config import config as checked
    from conformance.method.config import merged, read_config
    from conformance.method.registry import parse_options

    every = _SAVE_SECONDS if save_every is None else save_every
    if not 0 <= every < float("inf"):
        raise UsageError(f"--save-every is 0 or more seconds, not {every:g}")
    tables = read_config(config) if config is not None else {}
    given: dict[str, Any] = {
        "model": spec, "method": method, "budget": budget, "task": task, "data": data, "weights": weights,
        "seed": seed, "device": device, "carry": None if carry is None else carry.value,
        "recipe": {
            "epochs": epochs, "dense_epochs": dense_epochs, "finetune_epochs": finetune_epochs, "batch": batch,
            "lr": lr, "optimizer": optimizer,
        },
        "limits": {
            "round_to": round_to, "min_keep": min_keep, "protect": protect, "ignore": tuple(ignore) if ignore else None,
        },
    }  # fmt: skip
    tables = merged(tables, over=given)
    for needed in ("model", "method", "budget"):
        if needed not in tables:
            raise UsageError(f"give {'a SPEC' if needed == 'model' else f'--{needed}'}, or {needed} in --config")
    if option:
        # Not merged: an option that is given as None is None.
        tables["options"] = {**tables.get("options", {}), **parse_options(tables["method"], option)}
    made = checked(tables)
    made = replace(made, device=parse_device(made.device))
    from conformance.method.execute import with_task
    from conformance.method.outcome import finished

    screen, named = Screen(), made.task
    made = with_task(made)
    if made.task != named:
        screen.line(f"no --task is given: {made.method} runs on {made.task}")
    make_folder(output)
    done = finished(output, made)
    if done is None:
        done = _run(made, output, screen, every)
    else:
        screen.line(f"{output} holds the finished result of this run; nothing was repeated")
    _show(screen, made, done, output)
    raise typer.Exit(0 if done.holds else 1)


def _run(made: RunConfig, output: Path, screen: Screen, every: float) -> Outcome:
    from conformance.method.execute import execute
    from conformance.method.outcome import write_outcome

    with screen.board(1) as board, board.model(made.model) as tracker:
        told = _spoken(screen, tracker) if screen.plain else tracker
        result = execute(made, output, every=every, progress=told)
    return write_outcome(output, made, result)


def _spoken(screen: Screen, tracker: Tracker) -> Tracker:
    """Progress as lines, where nobody sees a bar: one as a phase begins, then one a minute."""
    said: dict[str, float] = {}

    def tell(what: str, done: int, total: int) -> None:
        tracker(what, done, total)
        if time.monotonic() - said.get(what, -_SPOKEN_SECONDS) >= _SPOKEN_SECONDS:
            said[what] = time.monotonic()
            screen.line(f"{what}: step {done} of {total}")

    return tell


def _show(screen: Screen, made: RunConfig, done: Outcome, output: Path) -> None:
    verdict = done.verdict or ("masks hold" if done.holds else "masks do not hold")
    reason = f": {done.verdict_reason}" if done.verdict_reason else ""
    screen.line(f"{made.model} by {made.method} at {made.budget}: {verdict}{reason}", "green" if done.holds else "red")
    screen.line("  removed: " + ", ".join(f"{share:.1%} of the {kind}" for kind, share in done.removed.items()))
    screen.line(f"  parameters: {count(done.parameters[0])} -> {count(done.parameters[1])}")
    if done.multiply_adds is not None:
        dense, left = (count(round(number)) for number in done.multiply_adds)
        screen.line(f"  multiply-adds of a sample: {dense} -> {left}")
    for stage, figures in done.metrics.items():
        screen.line(f"  {stage}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    if done.not_saved:
        screen.line(f"  the subnet is not saved: {done.not_saved}", "yellow")
    screen.line(f"  in {output}")
