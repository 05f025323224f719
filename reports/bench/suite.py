"""What a suite is: boards of models x methods x budgets x seeds on a task, from a YAML file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from conformance.errors import UsageError
from conformance.method.budget import Budget
from conformance.method.config import merged
from conformance.method.ladder import Limits
from conformance.method.recipe import Recipe
from conformance.method.registry import method

SUITES = Path(__file__).parent / "suites"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodEntry(_Part):
    """A method of a board: a name, or a name with options, budgets or a recipe of its own (then it is open)."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    budgets: tuple[str, ...] | None = None
    recipe: dict[str, Any] | None = None


def _entry(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Measure(_Part):
    """How finished subnets are timed: batch sizes, turns of dense and subnet passes, and for how long at most."""

    batches: tuple[int, ...] = (1, 64)
    turns: int = 31
    seconds: float = 10.0


class Board(_Part):
    """One task with the models, methods, budgets and seeds that are crossed on it.

    dense trains each model once a seed, and all methods begin with those weights (a recipe of 0 epochs: with the
    weights the model's builder gives). recipe is for methods that train, whose epochs are those of all their
    rounds together; methods that only prune are fine-tuned for the same number of epochs instead. start `scratch`
    gives methods the untrained model in place of the dense one's weights.
    """

    task: str
    data: str | None = None
    models: tuple[str, ...]
    methods: tuple[Annotated[MethodEntry, BeforeValidator(_entry)], ...]
    budgets: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    start: Literal["dense", "scratch"] = "dense"
    dense: Recipe = Field(default_factory=Recipe)
    recipe: Recipe = Field(default_factory=Recipe)
    limits: Limits = Field(default_factory=Limits)
    device: str = "cpu"
    measure: Measure = Field(default_factory=Measure)


class Suite(_Part):
    """A named set of boards. caption is shown with its tables; about is for readers of the file."""

    name: str
    caption: str = ""
    about: str = ""
    boards: tuple[Board, ...]


def read_suite(name: str) -> Suite:
    """A suite by the name of one that ships with the project, or by the path of a YAML file.

    `defaults` in the file stands for what all boards share. Every method's name and options, and every budget, is
    looked at once, so that a long run does not end at its last job. Raises UsageError naming what is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in SUITES.glob("*.yaml")))
        raise UsageError(f"there is no suite {name!r}: give a YAML file or one of {known}")
    try:
        tables = yaml.safe_load(path.read_text(encoding="utf-8"))
        defaults = tables.pop("defaults", {})
        tables["boards"] = [merged(defaults, over=board) for board in tables["boards"]]
        suite = Suite.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no suite: {' '.join(str(error).split())}") from error
    for board in suite.boards:
        _look(path, board)
    return suite


def _look(path: Path, board: Board) -> None:
    for entry in board.methods:
        try:
            recipe_of(board, entry)
            for text in entry.budgets or board.budgets:
                _look_at_budget(entry, Budget.parse(text))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error


def _look_at_budget(entry: MethodEntry, budget: Budget) -> None:
    facts = method(entry.name, **entry.options).facts
    if budget.kind not in facts.budgets:
        raise UsageError(f"{entry.name} takes budgets in {', '.join(facts.budgets)}, not {budget.kind}")


def recipe_of(board: Board, entry: MethodEntry) -> Recipe:
    """The recipe of a method's run: as the board says, spread over rounds or turned into fine-tuning.

    A penalty leaves groups small but not zero, and cutting them off costs what half of the training has to mend.
    """
    made = method(entry.name, **entry.options)
    fields = {**asdict(board.recipe), **(entry.recipe or {})}
    epochs = fields["epochs"]
    if made.facts.driver == "rounds":
        fields["epochs"] = max(1, epochs // int(getattr(made, "rounds", 1)))
    elif made.facts.penalises and not made.facts.zeroes and not fields["finetune_epochs"]:
        fields["epochs"], fields["finetune_epochs"] = epochs - epochs // 2, epochs // 2
        if fields["finetune_lr"] is None:
            fields["finetune_lr"] = fields["lr"]
    elif made.facts.driver != "train":
        fields["epochs"], fields["finetune_epochs"] = 0, epochs
        if fields["finetune_lr"] is None:
            fields["finetune_lr"] = fields["lr"]
    try:
        return Recipe(**fields)
    except TypeError as error:
        raise UsageError(f"{entry.name}: {error}") from error
