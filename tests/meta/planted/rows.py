"""One model's part of the score: its mutants, its clean pairs, and what checks say of faults in the engine."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import asdict, dataclass, field

import torch
from torch.utils import _pytree as pytree

import conformance as pc
from conformance.backend import Inputs, collections
from conformance.equivalence.compare import evaluate, field_round
from conformance.graph.tape import tensors_in
from planted import extraction
from planted.judges import Answer, Judges, site_of, within_oto
from planted.site import Subject, mutants, planted
from planted.zoo import shape_of

JUDGES = ("gate", "float64", "assert_close", "oto")
FRACTIONS = (0.5, 0.25, 0.75, 0.1, 0.9, 1.0)
MUTANTS_A_SUBNET = 30


@dataclass(frozen=True)
class MutantRow:
    """excuse says why a mutant is no fault: `unread`, `same function`, or '' for a fault."""

    kind: str
    where: str
    answer: Answer
    excuse: str = ""


@dataclass
class CleanRows:
    """How many clean pairs were compared, and for each judge those it wrongly called different."""

    compared: int = 0
    alarms: dict[str, list[str]] = field(default_factory=lambda: {judge: [] for judge in JUDGES})


def mutant_rows(subject: Subject, number: int, seed: int, kinds: tuple[str, ...] = ()) -> list[MutantRow]:
    """`number` mutants of subnets of one model, every kind that has a place in turn."""
    rows: list[MutantRow] = []
    for step, start in enumerate(range(0, number, MUTANTS_A_SUBNET)):
        site = site_of(subject, subject.groups.sample(FRACTIONS[step % 3], seed=seed + step))
        judges = Judges(subject, site, seed)
        own = zlib.crc32(f"{subject.backend.name} {seed} {step}".encode())  # kinds come in another order in each net
        for kind, again, mutant in itertools.islice(mutants(site, own, kinds), min(MUTANTS_A_SUBNET, number - start)):
            answer = judges.answer(kind, again, mutant)
            excuse = "" if answer.float64 else judges.no_fault(kind, again, mutant)
            rows.append(MutantRow(kind.name, mutant.where, answer, excuse))
    return rows


def clean_rows(subject: Subject, selections: int, seed: int) -> CleanRows:
    """Correct subnets on several inputs, in two batch sizes and with the samples in another order."""
    rows = CleanRows()
    for number in range(selections):
        choice = subject.groups.sample(FRACTIONS[number % len(FRACTIONS)], seed=seed + number)
        site = site_of(subject, choice)
        fresh = site.holding(subject.fresh)
        full, fresh_full = pc.zero(subject.model, choice), pc.zero(planted(subject.model, subject.fresh), choice)
        sizes = (2, 2, 2, 2) if pc.kind_of(site.subnet) == "graph" else (2, 3, 2, 3)  # a graph runs on its batch only
        for draw, batch in enumerate(sizes):
            given = subject.inputs(draw, batch)
            for turned, inputs in enumerate((given, _turned(given, batch))):
                title = f"selection {number} batch {batch} draw {draw}{' turned' if turned else ''}"
                verdicts = {
                    "field": field_round(full, site.subnet, inputs, seed + 8 * number + 2 * draw + turned, draw % 2),
                    "float64": pc.equivalent(full, site.subnet, *inputs, oracle="float64"),
                    "assert_close": pc.equivalent(full, site.subnet, *inputs, oracle="native"),
                }
                wrong = {judge for judge, verdict in verdicts.items() if not verdict.equal}
                if not _oto_equal(fresh_full, fresh.subnet, inputs):
                    wrong.add("oto")
                if wrong & {"field", "float64"}:
                    wrong.add("gate")
                rows.compared += 1
                for judge in JUDGES:
                    rows.alarms[judge] += [title] if judge in wrong else []
    return rows


def _turned(inputs: Inputs, batch: int) -> Inputs:
    """The samples in another order."""
    return pytree.tree_map_only(
        torch.Tensor, lambda leaf: leaf.roll(1, 0) if leaf.ndim and leaf.shape[0] == batch else leaf, inputs
    )


def _oto_equal(full: torch.nn.Module, subnet: torch.nn.Module, inputs: Inputs) -> bool:
    mine, theirs = (tensors_in(evaluate(module, inputs)) for module in (full, subnet))
    return all(within_oto(a, b) for a, b in zip(mine, theirs, strict=True))


def check_rows(spec: str, seed: int) -> dict[str, dict[str, object]]:
    """For each kind of fault in the engine what its check says on one model."""
    prefix, _, name = spec.partition(":")
    backend = collections()[prefix].get(name, shape_of(spec))
    return {kind.name: asdict(extraction.run(kind, backend, seed)) for kind in extraction.CHECK_KINDS.values()}
