"""`assert_equivalent`: the comparison as an assertion that tells the smallest counterexample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from conformance.diagnosis.finding import Diagnosis, Smallest
from conformance.diagnosis.locate import Comparison, NotLocated, locate
from conformance.diagnosis.shrink import Limits, shrink
from conformance.equivalence.compare import equivalent
from conformance.equivalence.verdict import Status, Verdict
from conformance.errors import sentence
from conformance.graph.tape import as_arguments
from conformance.partition.selection import Selection
from conformance.partition.words import to_words
from conformance.subnet.extract import extract as extract_subnet
from conformance.subnet.state import check_state
from conformance.subnet.zero import zero

Extract = Callable[[torch.nn.Module, Selection], torch.nn.Module]


def assert_equivalent(
    full: torch.nn.Module,
    subnet: torch.nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    oracle: str = "field",
    seed: int = 0,
    model: torch.nn.Module | None = None,
    choice: Selection | None = None,
    extract: Extract | None = None,
    seconds: float = 60.0,
) -> None:
    """As `equivalent`, raising AssertionError with the first differing output unless equal.

    Where they differ, the message also names the first module that parts from the full model. It must be
    known for that which positions the subnet lacks: `choice`, or what is zero in `full`. With the `model`
    that was pruned and the `choice`, the message tells the fewest groups whose removal fails in the same way,
    too; `extract(model, choice)` is then what makes a subnet, `pc.extract` unless it is given. That search
    ends after `seconds`. The verdict never depends on any of this; nothing is done where all is equal.

    The modules and the random generator are not changed.
    """
    given = (as_arguments(args), kwargs or {})
    verdict = equivalent(full, subnet, *given, oracle=oracle, seed=seed, choice=choice)
    if verdict.equal:
        return
    lines = [f"{verdict.status.value} by the {oracle} oracle: {verdict.reason}"]
    if verdict.status is Status.DIFFERENT:
        compared = Comparison(full, subnet, given, choice, oracle, seed)
        with torch.random.fork_rng(devices=[]):
            found = _diagnosed(compared, verdict, model, extract or extract_subnet, seconds)
        lines += [f"  {name}: {text}" for name, text in found.lines()]
        lines.append(f"  repeat with: {_repeat(compared, found)}")
    raise AssertionError("\n".join(lines))


def _repeat(compared: Comparison, found: Diagnosis) -> str:
    """The arguments that show it again."""
    words = f"oracle={compared.oracle!r}, seed={compared.seed}"
    if found.smallest is not None and compared.choice is not None:
        selection = Selection.from_slices(found.smallest.slices, compared.choice.groups)
        words += f", choice=groups.select({list(selection.removed)})"
    return words


def _diagnosed(
    compared: Comparison, verdict: Verdict, model: torch.nn.Module | None, extract: Extract, seconds: float
) -> Diagnosis:
    problems, smallest, divergence = [], None, None
    try:
        if model is not None and compared.choice is not None:
            smallest = _smallest(compared, compared.choice, verdict, model, extract, seconds)
            if smallest is None:
                problems.append("a subnet that is extracted anew is equal: what was given is not what extraction makes")
        divergence = locate(compared)
    except NotLocated as reason:
        problems.append(f"the first diverging module cannot be named: {reason}")
    except Exception as error:  # noqa: BLE001 - the verdict stands, whatever becomes of its diagnosis
        problems.append(f"the diagnosis failed: {sentence(error)}")
    return Diagnosis(compared.seed, divergence, smallest, "; ".join(problems))


def _smallest(
    compared: Comparison, choice: Selection, verdict: Verdict, model: torch.nn.Module, extract: Extract, seconds: float
) -> Smallest | None:
    """The fewest groups whose removal fails alike; None where the failure does not come back at all."""
    check_state(model, choice.groups)

    def fails(removed: tuple[int, ...]) -> bool:
        part = choice.groups.select(list(removed))
        try:
            subnet = extract(model, part)
        except Exception as error:  # noqa: BLE001 - what the caller's function raises is a failure of its own
            return verdict.kind == f"raised {type(error).__name__}"
        again = equivalent(
            zero(model, part), subnet, *compared.given, oracle=compared.oracle, seed=compared.seed, choice=part
        )
        return not again.equal and again.kind == verdict.kind

    if not fails(choice.removed):
        return None
    found = shrink(choice.removed, fails, Limits(seconds=seconds))
    left = choice.groups.select(list(found.items))
    return Smallest(len(left), len(choice), left.slices(), to_words(left), found.minimal, found.trials)
