"""Level 3: a subnet goes where its model goes: files, torch.export, torch.compile, ONNX, save_pretrained.

Nothing here decides whether a model conforms. What the full model cannot do either is unsupported.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from conformance.checks.registry import CheckFailed, CheckUnsupported, Finding, check
from conformance.checks.subject import Pair, Subject
from conformance.deploy.fingerprint import named_state
from conformance.deploy.plan import WEIGHTS_FILE
from conformance.deploy.pretrained import alike, as_pretrained, uncounted
from conformance.deploy.routes import (
    Arrival,
    Compiled,
    Journey,
    Route,
    as_onnx,
    exported,
    missing_for_onnx,
    sentence,
    travel,
)
from conformance.deploy.store import load_subnet, same_bits, save_subnet
from conformance.equivalence.compare import equivalent, evaluate
from conformance.errors import ConfigError
from conformance.graph.tape import tensors_in
from conformance.graph.trace import shadow
from conformance.partition.selection import Selection

_SAFE = (".json", ".safetensors", ".md")


def _half(subject: Subject) -> Pair:
    """The subnet that all of this level is about: half of every axis, as in L2.random-50."""
    pair = subject.pair(subject.sample(0.5, subject.seed))
    if not pair.verdict.equal:
        raise CheckUnsupported(f"no subnet was found to be equal: {pair.verdict.reason}")
    return pair


def _require_same_bits(subnet: torch.nn.Module, other: torch.nn.Module, given: Any, what: str) -> int:
    """State and outputs the same to the bit; returns how many elements those are."""
    mine, theirs = named_state(subnet), named_state(other)
    for name, tensor in mine.items():
        if name not in theirs or not same_bits(tensor, theirs[name]):
            raise CheckFailed(f"{what} has another {name}")
    left, right = (tensors_in(evaluate(module, given)) for module in (subnet, other))
    for number, (one, two) in enumerate(zip(left, right, strict=True)):
        if not same_bits(one, two):
            raise CheckFailed(f"output {number} of {what} is not the same to the bit")
    return sum(tensor.numel() for tensor in [*mine.values(), *left])


@check("L3.rebuild", "SHOULD")
def rebuild(subject: Subject) -> Finding:
    """Saved as a plan with weights and rebuilt, the subnet is the same to the bit."""
    pair, given = _half(subject), subject.inputs()
    with tempfile.TemporaryDirectory() as folder:
        plan = save_subnet(pair.subnet.module, folder, pair.choice)
        size = (Path(folder) / WEIGHTS_FILE).stat().st_size
        # Around a model without weights, unless a trace of the original has to read them.
        empty = not (plan.needs_inputs and plan.tape.device == "real")
        model = shadow(subject.model, "meta") if empty else subject.model
        again = load_subnet(model, folder, *(given if plan.needs_inputs else ()))
    compared = _require_same_bits(pair.subnet.module, again.to(subject.device), given, "the rebuilt subnet")
    return Finding(compared, details={"around": "meta" if empty else "real", "bytes": size, "plan": plan.kind})


def _by(route: Route, subject: Subject, pair: Pair, what: str) -> Journey:
    """The subnet's journey; when it fails, the full model's tells whose fault that is."""
    journey = travel(pair.subnet.module, subject.inputs(), route)
    if journey.good:
        return journey
    whole = travel(subject.model, subject.inputs(), route)
    if not whole.good:
        raise CheckUnsupported(f"{what} does not work for the full model either: {whole.reason}", subnet=journey.reason)
    raise CheckFailed(f"{what} works for the full model, but not for its subnet: {journey.reason}")


def _finding(journey: Journey, pair: Pair, **details: Any) -> Finding:
    bitwise = journey.arrival is Arrival.SAME
    found = {**details, "bitwise": bitwise, "max_abs": journey.largest, "kind": pair.subnet.kind}
    return Finding(journey.compared, details=found)


@check("L3.export", "SHOULD")
def export(subject: Subject) -> Finding:
    """The subnet goes through torch.export, and the program gives what the subnet gives."""
    pair = _half(subject)
    return _finding(_by(exported, subject, pair, "torch.export"), pair)


@check("L3.compile", "SHOULD")
def compiles(subject: Subject) -> Finding:
    """The subnet compiled by torch.compile gives what it gives uncompiled."""
    pair = _half(subject)
    why: dict[str, str] = {}
    try:
        route = Compiled("inductor")
        journey = _by(route, subject, pair, "torch.compile")
    except CheckUnsupported as problem:  # no C++ compiler, for instance: its front end alone may still do
        why = {"inductor": str(problem)}
        route = Compiled("aot_eager")
        journey = _by(route, subject, pair, "torch.compile")
    return _finding(journey, pair, backend=route.backend, graphs=route.graphs, **why)


@check("L3.onnx", "SHOULD")
def onnx(subject: Subject) -> Finding:
    """The subnet goes to ONNX, and onnxruntime gives what the subnet gives."""
    missing = missing_for_onnx()
    if missing:
        hint = "pip install 'pruning-conformance[deploy]'"
        raise CheckUnsupported(f"{', '.join(missing)} cannot be imported ({hint})")
    pair = _half(subject)
    return _finding(_by(as_onnx, subject, pair, "ONNX"), pair)


@check("L3.save-pretrained", "SHOULD")
def save_pretrained(subject: Subject) -> Finding:
    """A subnet whose sizes the model's config can say comes back from save_pretrained the same to the bit."""
    if not hasattr(subject.model, "save_pretrained") or not hasattr(type(subject.model), "from_pretrained"):
        raise CheckUnsupported("the model has no save_pretrained")
    reasons = []
    for what, choice in _expressible(subject):
        pair = subject.pair(choice)
        if not pair.verdict.equal:
            reasons.append(f"no subnet was found to be equal: {pair.verdict.reason}")
            continue
        try:
            made = as_pretrained(subject.model, pair.subnet.module, *subject.inputs())
        except ConfigError as error:
            reasons.append(str(error))
            continue
        again = _there_and_back(subject, made.module)
        given = subject.inputs()
        verdict = equivalent(pair.full, again, *given, oracle="field", seed=subject.seed)
        compared = subject.require(verdict, choice, "what from_pretrained made")
        compared += _require_same_bits(made.module, again, given, "what from_pretrained made")
        return Finding(compared, details={"removed": what, "config": made.changed})
    raise CheckUnsupported(reasons[0])


def _there_and_back(subject: Subject, module: torch.nn.Module) -> torch.nn.Module:
    """What from_pretrained makes of what save_pretrained wrote; an exception is the full model's or the subnet's."""
    try:
        return _pretrained_again(module).to(subject.device)
    except CheckUnsupported:
        raise
    except Exception as error:
        try:
            _pretrained_again(subject.model)
        except Exception as other:  # noqa: BLE001 - the class's own code
            text = f"save_pretrained does not work for the full model either: {sentence(other)}"
            raise CheckUnsupported(text) from error
        raise CheckFailed(f"save_pretrained works for the full model, but not here: {sentence(error)}") from error


def _pretrained_again(module: Any) -> torch.nn.Module:
    # Libraries draw progress bars.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        module.save_pretrained(folder)
        foreign = [path.name for path in Path(folder).rglob("*") if path.is_file() and path.suffix not in _SAFE]
        if foreign:
            raise CheckUnsupported(
                f"save_pretrained writes {foreign[0]}, and nothing but JSON and safetensors is loaded"
            )
        made: torch.nn.Module = type(module).from_pretrained(folder, local_files_only=True)
        return made.eval()


def _expressible(subject: Subject) -> list[tuple[str, Selection]]:
    """Selections to try: half of everything, what of it no norm counts, and the axes of that of one kind and size."""
    half = subject.groups.sample(0.5, subject.seed)
    rest = uncounted(half)
    tried = [("half of every axis", half), ("half of every axis that no norm counts", rest)]
    for (kind, size), part in alike(rest).items():
        tried.append((f"half of every {kind} axis of {size}", part))
    unique = {choice.removed: (what, choice) for what, choice in reversed(tried) if choice.removed}
    return list(reversed(unique.values()))
