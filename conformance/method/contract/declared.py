"""What a method says of itself, and that it runs at all."""

from __future__ import annotations

import dataclasses
from typing import get_args

from conformance.errors import TooFewStepsError, UnsuitedError, UsageError
from conformance.method.budget import Kind
from conformance.method.contract.registry import CheckFailed, CheckUnsupported, Finding, check
from conformance.method.contract.subject import Subject
from conformance.method.masks import Masks
from conformance.method.protocol import DataNeed, Driver, Facts, Method
from conformance.method.registry import method_class, methods

_TRAINING = (Driver.TRAIN, Driver.ROUNDS)


@check("M.declares", first=True)
def declares(subject: Subject) -> Finding:
    """The facts are complete, agree with each other and with the hooks, and carry the registered name."""
    method = subject.given
    facts = getattr(type(method), "facts", None)
    if not isinstance(facts, Facts):
        raise CheckFailed(f"{type(method).__name__} declares no facts")
    wrong = [*_incomplete(facts), *_contradictions(facts), *_missing_hooks(method, facts), *_wrong_name(subject, facts)]
    if wrong:
        raise CheckFailed("; ".join(wrong), facts=dataclasses.asdict(facts))
    return Finding(len(dataclasses.fields(facts)))


def _incomplete(facts: Facts) -> list[str]:
    wrong = [f"{name} is empty" for name in ("name", "summary", "paper") if not str(getattr(facts, name)).strip()]
    for name, kind in (("driver", Driver), ("data", DataNeed)):
        if not isinstance(getattr(facts, name), kind):
            wrong.append(f"{name} is {getattr(facts, name)!r}, not a {kind.__name__}")
    for name, known in (("granularity", ("group", "weight")), ("exactness", ("exact", "masked"))):
        if getattr(facts, name) not in known:
            wrong.append(f"{name} is {getattr(facts, name)!r}, not {' or '.join(known)}")
    kinds = get_args(Kind)
    if not facts.budgets or len(set(facts.budgets)) < len(facts.budgets) or not set(facts.budgets) <= set(kinds):
        wrong.append(f"budgets are {facts.budgets!r}: some of {', '.join(kinds)}, each once")
    return wrong


def _contradictions(facts: Facts) -> list[str]:
    trains, evaluates = facts.driver in _TRAINING, facts.driver is Driver.SEARCH
    rules = (
        ("the host trains it, but it declares less than D3", trains and facts.data is not DataNeed.TRAINING),
        ("a search evaluates, but it declares less than D2", evaluates and facts.data < DataNeed.LABELLED),
        ("single weights leave masks, groups leave exact subnets",
         (facts.granularity == "weight") != (facts.exactness == "masked")),
        ("zeroes is about training, and the host does not train it", facts.zeroes and not trains),
        ("needs_loss is about training, and the host does not train it", facts.needs_loss and not trains),
        ("penalises is about training, and the host does not train it", facts.penalises and not trains),
    )  # fmt: skip
    return [text for text, broken in rules if broken]


def _missing_hooks(method: Method, facts: Facts) -> list[str]:
    made = type(method)
    if facts.driver is Driver.SEARCH:
        return [] if made.propose is not Method.propose else ["a search proposes, and it has no propose"]
    own = (made.score is not Method.score, made.select is not Method.select, made.decide is not Method.decide)
    return [] if any(own) else ["it has neither score, select nor decide"]


def _wrong_name(subject: Subject, facts: Facts) -> list[str]:
    if subject.named and ":" not in subject.named:
        return [] if facts.name == subject.named else [f"it is registered as {subject.named}"]
    if facts.name in methods() and method_class(facts.name) is not type(subject.given):
        return [f"another method is registered as {facts.name}"]
    return []


@check("M.runs", first=True)
def runs(subject: Subject) -> Finding:
    """The method comes to a decision at the base budget, and something leaves; nothing of a control."""
    try:
        try:
            found = subject.plan()
        except TooFewStepsError as error:
            subject.lengthen(error.needed)
            found = subject.plan()
    except UnsuitedError as error:
        if not subject.facts.requires.strip():
            raise CheckFailed(f"it does not declare that it requires anything of a model, and: {error}") from error
        raise CheckUnsupported(str(error), requires=subject.facts.requires) from error
    except UsageError as error:
        raise CheckUnsupported(f"the method refuses this model or budget: {error}") from error
    if isinstance(found.decision, Masks) != subject.masks:
        raise CheckFailed(f"it declares {subject.facts.granularity} and decides a {type(found.decision).__name__}")
    if isinstance(found.decision, Masks):
        gone = sum(int((~mask).sum()) for mask in found.decision.kept.values())
    else:
        gone = len(found.decision)
    if not subject.facts.removes:
        if gone:
            raise CheckFailed(f"it declares itself a control, and {gone} groups or weights leave")
        return Finding(1, "a control: nothing leaves", details={"budget": str(subject.budget)})
    if not gone:
        raise CheckFailed(f"at a budget of {subject.budget} nothing leaves")
    return Finding(gone, details={"budget": str(subject.budget)})
