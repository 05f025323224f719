"""The command `conformance`: one entry, four exit codes.

0 every model conforms; 1 one does not; 2 a wrong SPEC or option; 3 an internal error, or a model that
crashed or went over a limit; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import sys
import traceback as tracebacks
from collections.abc import Sequence
from typing import Annotated

import typer

from conformance.cli.check import check
from conformance.cli.commands import Group
from conformance.cli.deploy import extract, verify
from conformance.cli.look import explain, groups, list_
from conformance.cli.methods import method_check, methods
from conformance.cli.options import Settings, TracebackOption
from conformance.cli.prune import prune
from conformance.cli.zoo import zoo
from conformance.errors import ConformanceError, UsageError
from conformance.isolate import Cancelled
from conformance.report.environment import DISTRIBUTION, tool_version

INTERRUPTED = 130

app = typer.Typer(
    name="conformance",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins a docstring's lines into paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"{DISTRIBUTION} {tool_version()}")
        raise typer.Exit


@app.callback()
def conformance(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
    traceback: TracebackOption = False,
) -> None:
    """Prove that a pruned subnet computes exactly what the full model computes.

    The full model is taken with the removed structures at zero. `conformance list` shows the models that
    are known; your own is package.module:callable or path/file.py:callable, a function without arguments
    that returns the module, or (module, inputs). Loading it runs that code.
    """


app.command()(check)
app.command()(groups)
app.command()(explain)
app.command(name="list")(list_)
app.command()(zoo)
app.command()(extract)
app.command()(verify)
app.command()(prune)
app.command()(methods)
app.command(name="method-check")(method_check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. Every error is one sentence on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = Settings(command=["conformance", *given])
    try:
        app(given, prog_name="conformance", obj=settings)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        return _say("interrupted", code) if code == INTERRUPTED else code
    except Cancelled:
        return _say("interrupted", INTERRUPTED)
    except UsageError as error:
        return _say(f"error: {error}", 2, settings)
    except ConformanceError as error:
        return _say(f"error: {error}", 3, settings)
    except Exception as error:  # noqa: BLE001 - the last place to turn it into a sentence
        text = str(error).strip().splitlines()
        detail = f": {text[0]}" if text else ""
        hint = "" if settings.traceback else " (--traceback shows where)"
        return _say(f"internal error: {type(error).__name__}{detail}{hint}", 3, settings)
    return 0


def _say(sentence: str, code: int, settings: Settings | None = None) -> int:
    if settings is not None and settings.traceback:
        tracebacks.print_exc()
    print(sentence, file=sys.stderr, flush=True)
    return code
