"""From a record to files and back, each time with a proof: what `conformance extract` and `verify` do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from conformance.backend import Backend, Inputs
from conformance.cost import parameter_count
from conformance.deploy.plan import Plan, read_plan
from conformance.deploy.rebuild import traced_choice
from conformance.deploy.store import load_subnet, save_subnet
from conformance.equivalence.compare import equivalent
from conformance.equivalence.verdict import Verdict
from conformance.errors import SelectionError, UsageError
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.selection import Selection
from conformance.subnet.extract import extract, kind_of
from conformance.subnet.zero import zero

BATCH, ROUNDS = 2, 2


@dataclass(frozen=True)
class Proved:
    """A subnet beside its model: parameters of both, its kind, and the field oracle's verdict of two rounds.

    plan is None when nothing was written.
    """

    kind: str
    parameters: tuple[int, int]
    removed: int
    verdict: Verdict
    plan: Plan | None


def built(backend: Backend, seed: int) -> tuple[torch.nn.Module, Inputs]:
    """The model as its builder makes it, weights and all, in evaluation mode, and example inputs.

    Raises UsageError when the builder fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = backend.build()
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise UsageError(f"{backend.name} could not be built: {type(error).__name__}: {first}") from error
    return model.eval(), backend.inputs(BATCH, torch.Generator().manual_seed(1000 * seed))


def extract_to(
    backend: Backend,
    folder: Path,
    *,
    fraction: float = 0.5,
    seed: int = 0,
    selection: str | None = None,
    carry: str = "auto",
) -> Proved:
    """Extract a subnet, prove it equal, and only then write it.

    selection is the text of `Selection.to_json`; without it `fraction` of every axis is drawn with the seed,
    of the groups that `carry` makes.
    Raises UsageError for a selection that does not fit, or one that removes nothing.
    """
    model, (args, kwargs) = built(backend, seed)
    try:
        groups = partition(
            trace(model, args, kwargs), carry=carry if selection is None else Selection.carry_in(selection)
        )
        choice = groups.sample(fraction, seed) if selection is None else Selection.from_json(selection, groups)
    except SelectionError as error:
        raise UsageError(f"the selection does not fit {backend.name}: {error}") from error
    if not choice.removed:
        what = "nothing can be removed from" if not groups.count else "the selection removes nothing from"
        raise UsageError(f"{what} {backend.name}")
    subnet = extract(model, choice)
    verdict = _compared(model, choice, subnet, (args, kwargs), seed)
    plan = save_subnet(subnet, folder, choice, verdict=verdict) if verdict.equal else None
    return Proved(kind_of(subnet), (parameter_count(model), parameter_count(subnet)), len(choice), verdict, plan)


def verify(backend: Backend, folder: Path, *, seed: int = 0) -> Proved:
    """Rebuild a saved subnet around the model and compare it with the model, its removed slices at zero.

    Raises PlanError when it cannot be rebuilt.
    """
    plan = read_plan(folder)
    model, (args, kwargs) = built(backend, seed)
    subnet = load_subnet(model, folder, args, kwargs)
    choice = traced_choice(model, plan, args, kwargs)
    verdict = _compared(model, choice, subnet, (args, kwargs), seed)
    return Proved(kind_of(subnet), (parameter_count(model), parameter_count(subnet)), len(choice), verdict, plan)


def _compared(model: torch.nn.Module, choice: Selection, subnet: torch.nn.Module, given: Inputs, seed: int) -> Verdict:
    return equivalent(zero(model, choice), subnet, *given, oracle="field", seed=seed, rounds=ROUNDS)


def read_selection(path: Path) -> str:
    """The text of a selection's file. Raises UsageError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path} cannot be read: {reason}") from error
