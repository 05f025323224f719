"""Level 2: every subnet computes exactly what the model computes with the removed groups at zero."""

from __future__ import annotations

import numpy as np
import torch

from conformance.checks.registry import CheckFailed, CheckUnsupported, Finding, check
from conformance.checks.subject import BATCH, OTHER_BATCH, Subject
from conformance.diagnosis.locate import Comparison
from conformance.equivalence.compare import equivalent, evaluate, one_round
from conformance.errors import SelectionError
from conformance.graph.tape import tensors_in
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.groups import KINDS
from conformance.partition.selection import Selection
from conformance.subnet.extract import GRAPH, SAME_CLASS, candidates
from conformance.subnet.zero import zero


def _exact(subject: Subject, choice: Selection, what: str) -> int:
    """Both gates on the traced inputs: exact by `field`, within the bound by `float64`."""
    pair = subject.pair(choice)
    compared = subject.require(pair.verdict, choice, what)
    bounded = equivalent(pair.full, pair.subnet.module, *subject.inputs(), oracle="float64")
    return compared + subject.require(bounded, choice, what)


def _not_a_no_op(subject: Subject, choice: Selection) -> None:
    """Zeroing must change what the model computes, or the comparison shows nothing."""
    given, full = subject.inputs(), subject.pair(choice).full
    before, after = (tensors_in(evaluate(model, given)) for model in (subject.model, full))
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        return
    # Dead units hide from floating point, and a small model may have nothing else.
    if equivalent(subject.model, full, *given, oracle="field", seed=subject.seed).equal:
        raise CheckFailed("zeroing the selection does not change the outputs: the comparison shows nothing")


@check("L2.identity")
def identity(subject: Subject) -> Finding:
    """Pruning nothing gives the same function, and the original is untouched by zero and extract."""
    choice = subject.groups.select([])
    pair = subject.pair(choice)
    compared = subject.require(pair.verdict, choice, "an empty selection")
    subject.pair(subject.sample(0.5, subject.seed))
    # Since before the first pair: earlier checks made some, and the same damage is not done twice.
    changed = subject.touched()
    if changed:
        raise CheckFailed(f"zero or extract changed {changed} of the original model")
    return Finding(compared)


@check("L2.random-50")
def random_half(subject: Subject) -> Finding:
    """Half of every axis removed at random is exact, for two inputs and two primes."""
    choice = subject.sample(0.5, subject.seed)
    compared = _exact(subject, choice, "a random 50 % selection")
    _not_a_no_op(subject, choice)
    pair = subject.pair(choice)
    other = Comparison(pair.full, pair.subnet.module, subject.inputs(draw=1), choice, "field", subject.seed, number=1)
    again = one_round(other.full, other.subnet, other.given, "field", other.seed, other.number)
    return Finding(compared + subject.require(again, choice, "a random 50 % selection on a second input", other))


@check("L2.batch")
def other_batch(subject: Subject) -> Finding:
    """The same subnet is exact at another batch size and on another input."""
    choice = subject.sample(0.5, subject.seed)
    pair = subject.pair(choice)
    given = subject.inputs(OTHER_BATCH, 1)
    try:
        subnet = subject.at(pair, OTHER_BATCH, 1)
    except SelectionError as error:
        raise CheckFailed(f"the groups differ at batch {OTHER_BATCH}: {error}") from error
    compared = 0
    for oracle in ("field", "float64"):
        other = Comparison(pair.full, subnet, given, choice, oracle, subject.seed + 2)
        verdict = equivalent(pair.full, subnet, *given, oracle=oracle, seed=other.seed)
        compared += subject.require(verdict, choice, f"batch {OTHER_BATCH}", other)
    return Finding(compared, details={"batches": [BATCH, OTHER_BATCH]})


@check("L2.same-class", "SHOULD")
def same_class(subject: Subject) -> Finding:
    """The subnet keeps the model's own class."""
    pair = subject.pair(subject.sample(0.5, subject.seed))
    if not pair.verdict.equal:
        raise CheckUnsupported(f"no subnet was found to be equal: {pair.verdict.reason}")
    if pair.subnet.kind == GRAPH:
        raise CheckUnsupported("the sizes are constants in the model's code: the subnet is a traced graph")
    return Finding(1, details={"kind": SAME_CLASS})


@check("L2.native", "SHOULD")
def native(subject: Subject) -> Finding:
    """In the deployed dtype the subnet is close by torch.testing.assert_close's defaults."""
    choice = subject.sample(0.5, subject.seed)
    pair = subject.pair(choice)
    verdict = equivalent(pair.full, pair.subnet.module, *subject.inputs(), oracle="native")
    compared = subject.require(verdict, choice, "the deployed dtype")
    return Finding(compared, details={"max_abs": verdict.max_abs, **verdict.details})


@check("L2.gradient", "SHOULD")
def gradient(subject: Subject) -> Finding:
    """The subnet trains as the zeroed model does: same gradients, same parameters after three steps."""
    choice = subject.sample(0.5, subject.seed)
    pair = subject.pair(choice)
    given = subject.inputs()
    verdict = equivalent(pair.full, pair.subnet.module, *given, oracle="gradient", seed=subject.seed, choice=choice)
    return Finding(subject.require(verdict, choice, "training"), details=verdict.details)


@check("L2.random-10")
def random_few(subject: Subject) -> Finding:
    """A tenth of every axis removed at random is exact."""
    return Finding(_exact(subject, subject.sample(0.1, subject.seed + 1), "a random 10 % selection"))


@check("L2.random-90")
def random_most(subject: Subject) -> Finding:
    """Nine tenths of every axis removed at random is exact."""
    return Finding(_exact(subject, subject.sample(0.9, subject.seed + 2), "a random 90 % selection"))


@check("L2.extreme")
def extreme(subject: Subject) -> Finding:
    """All but one position of everything removed is exact."""
    return Finding(_exact(subject, subject.sample(1.0, subject.seed), "the extreme selection"))


@check("L2.kinds")
def each_kind(subject: Subject) -> Finding:
    """Each kind of group alone (heads, channels, neurons...) and each way to zero it is exact."""
    groups = subject.groups
    seen = sorted(set(zip(groups.kinds[1:], groups.modes[1:], strict=True)))
    compared = 0
    for kind, mode in seen:
        choice = subject.sample(0.5, subject.seed + 3, kinds=(kind,), modes=(mode,))
        if choice.removed:
            pair = subject.pair(choice)
            compared += subject.require(pair.verdict, choice, f"{kind} groups zeroed by {mode} alone")
    return Finding(compared, details={"kinds": [f"{kind} by {mode}" for kind, mode in seen]})


@check("L2.factors")
def other_factors(subject: Subject) -> Finding:
    """Where a reshape leaves a choice, either factor is exact: heads or head dims, whole groups or channels in them."""
    known, compared, carried = {subject.groups.fingerprint}, 0, {}
    for carry in ("outer", "inner"):
        groups = partition(subject.graph, carry=carry)
        compared += sum(labels.size for lines in groups.state.values() for labels in lines)
        if groups.fingerprint in known:  # the same groups, position by position: no choice was left
            continue
        known.add(groups.fingerprint)
        choice = subject.take_of(groups, groups.sample(0.5, subject.seed + 6))
        if choice is not None and choice.removed:
            pair = subject.pair(choice)
            compared += subject.require(pair.verdict, choice, f"groups carried by the {carry} factors")
        carried[carry] = {kind: groups.kinds.count(kind) for kind in KINDS if kind in groups.kinds}
    return Finding(compared, details={"carried": carried})


@check("L2.compose")
def compose(subject: Subject) -> Finding:
    """Pruning A and then B equals pruning A and B at once, in the full model's indices."""
    groups = subject.groups
    first = groups.sample(0.25, subject.seed + 4)
    second = groups.sample(0.25, subject.seed + 5)
    rng = np.random.default_rng(subject.seed)
    drawn = groups.select(groups.leave_one(np.array(first.union_numbers(second)), rng))
    both = subject.take(drawn)
    first = groups.select([number for number in first.removed if number in set(both.removed)])
    step = subject.pair(first)
    subject.require(step.verdict, first, "the first step")
    inner = partition(trace(step.subnet.module, *subject.inputs()), pruned=first)
    try:
        rest = both.within(inner, first)
    except SelectionError as error:
        raise CheckFailed(f"the second selection does not fit the pruned model: {error}") from error
    full = zero(subject.model, both)
    for twice in candidates(step.subnet.module, rest):
        verdict = equivalent(full, twice.module, *subject.inputs(), oracle="field", seed=subject.seed)
        if verdict.equal or twice.kind == GRAPH:
            break
    compared = Comparison(full, twice.module, subject.inputs(), both, "field", subject.seed)
    return Finding(subject.require(verdict, both, "pruning in two steps", compared))
