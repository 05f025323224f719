"""Commands of other packages, found by name under the entry-point group `pruning_conformance.commands`.

An entry is a function as typer takes it. It is imported when its command is used, not before, so that help comes
at once and a package that is broken breaks its own command only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from conformance.errors import UsageError, sentence

ENTRY_POINT_GROUP = "pruning_conformance.commands"


class Added(TyperCommand):
    """Stands for a command until it is used."""

    def __init__(self, entry: EntryPoint) -> None:
        giver = entry.dist.name if entry.dist is not None else entry.module
        super().__init__(
            entry.name, callback=lambda: None, help=f"Given by {giver}; `conformance {entry.name} --help`."
        )
        self.entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself. Raises UsageError when it cannot be imported or is no command."""
        return self.real().make_context(info_name, args, parent, **extra)

    def real(self) -> Any:
        """The command. Raises UsageError as above."""
        try:
            function = self.entry.load()
        except Exception as error:
            raise UsageError(f"the command {self.name} cannot be used: {sentence(error)}") from error
        try:
            return _as_command(self.entry.name, function)
        except Exception as error:
            raise UsageError(f"the command {self.name} is no function as typer takes it: {sentence(error)}") from error


class Group(TyperGroup):
    """The commands of this package, and those that others add; a name that is taken stays as it is."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: (entry.name, entry.value)):
            self.commands.setdefault(entry.name, Added(entry))


def _as_command(name: str, function: Callable[..., Any]) -> Any:
    if not callable(function):
        raise TypeError(f"it is a {type(function).__name__}")
    # As the commands of this package are made: typer.main.get_command of an app with one command is that command.
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(name=name, context_settings={"help_option_names": ["-h", "--help"]})(function)
    return typer.main.get_command(app)
