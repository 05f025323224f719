"""The first diverging module that a diagnosis names is the one that holds the planted fault."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter

import pytest
import torch
from faults import Fault, Judge, Plant, Subject

import conformance as pc
from conformance.diagnosis.locate import Comparison, NotLocated, locate
from conformance.subnet.tape_module import GraphSubnet

MODELS: dict[str, str] = {
    "handmade:flatten-linear": "chain",
    "handmade:residual-projection": "residual",
    "handmade:dense-block": "concat",
    "handmade:unet": "concat",
    "handmade:attention-separate": "attention",
    "handmade:attention-grouped-query": "attention",
    "handmade:shared-module": "shared",
    "handmade:siamese": "shared",
    "handmade:tied-lm-head": "tied",
    "handmade:grouped-conv": "grouped",
    "handmade:channel-shuffle": "grouped",
    "handmade:layer-norm-2d": "whole width",
    "handmade:mixer": "whole width",
    "handmade:rms-norm": "whole width",
    "handmade:gru": "recurrent",
    "handmade:token-and-position": "text",
}
FAULTS = 12
models = pytest.mark.parametrize("spec", MODELS)
kinds = pytest.mark.parametrize("kind", ["extracted", "graph"])


def planted(spec: str, kind: str) -> tuple[Subject, pc.Selection, torch.nn.Module]:
    subject = Subject.of(spec)
    choice = subject.groups.sample(0.5, seed=list(MODELS).index(spec))
    if kind == "graph":
        return subject, choice, GraphSubnet(dataclasses.replace(subject.groups.graph, model=subject.model), choice)
    return subject, choice, pc.extract(subject.model, choice)


def holders(subject: Subject, fault: Fault) -> set[str]:
    """The modules that own the faulty tensor; of one that is never called, the nearest around it that is."""
    graph = subject.groups.graph
    called = {call.module for call in graph.calls}
    found = set()
    for name in graph.owners()[graph.names[fault.name]]:
        path = name.rpartition(".")[0]
        while path not in called:
            path = path.rpartition(".")[0]
        found.add(path)
    return found


def state_of(*models: torch.nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for model in models for tensor in model.state_dict().values()]


@kinds
@models
def test_it_holds_the_fault(spec, kind, record_property):
    subject, choice, subnet = planted(spec, kind)
    judge, plant = Judge(subject, choice, subnet), Plant(subject, choice, subnet, seed=7)
    before, random = state_of(judge.full, subnet), torch.random.get_rng_state()
    exact, elsewhere = Counter(), []
    while exact.total() + len(elsewhere) < FAULTS:
        fault = plant.draw()
        if judge.equal(fault):
            continue
        mutant = judge.mutant(fault, fault.wrong)
        found = locate(Comparison(judge.full, mutant, subject.inputs, choice, seed=1))
        if found.module in holders(subject, fault):
            exact[fault.kind] += 1
            assert found.reason or 0 < found.differing <= found.elements
            assert (
                any(fault.name.rpartition(".")[2] in line for line in (*found.state, found.what))
                or len(subject.groups.graph.owners()[subject.groups.graph.names[fault.name]]) > 1
            )
        else:
            elsewhere.append(f"{fault.kind} of {fault.name}: {found}")
    record_property("exact", dict(exact))
    assert not elsewhere
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(judge.full, subnet), strict=True))


@kinds
@models
@pytest.mark.parametrize("oracle", ["field", "float64", "native"])
def test_nothing_is_named_where_all_is_equal(spec, kind, oracle):
    subject, choice, subnet = planted(spec, kind)
    full = pc.zero(subject.model, choice)
    with pytest.raises(NotLocated, match="every module whose result can be compared agrees"):
        locate(Comparison(full, subnet, subject.inputs, choice, oracle))


@models
def test_float64_names_the_same_module(spec):
    """For faults that floating point can see."""
    subject, choice, subnet = planted(spec, "extracted")
    judge, plant = Judge(subject, choice, subnet), Plant(subject, choice, subnet, seed=3)
    named = 0
    for _ in range(40):
        fault = plant.draw()
        if fault.wrong.isnan().any() or fault.kind == "ulp" or judge.equal(fault):
            continue
        mutant = judge.mutant(fault, fault.wrong)
        if pc.equivalent(judge.full, mutant, *subject.inputs, oracle="float64").equal:
            continue
        found = locate(Comparison(judge.full, mutant, subject.inputs, choice, "float64"))
        assert found.module in holders(subject, fault), f"{fault.kind} of {fault.name}: {found}"
        named += 1
        if named == 5:
            return
    assert named


def test_a_small_memory_gives_the_same_answer():
    subject, choice, subnet = planted("handmade:residual-projection", "extracted")
    judge, plant = Judge(subject, choice, subnet), Plant(subject, choice, subnet, seed=7)
    compared = 0
    while compared < 5:
        fault = plant.draw()
        if fault.wrong.isnan().any() or judge.equal(fault):
            continue
        given = Comparison(judge.full, judge.mutant(fault, fault.wrong), subject.inputs, choice)
        assert locate(given, room=1000) == locate(given)
        compared += 1


def test_copies_of_modules_are_not_needed():
    """A subnet whose fault sits in code, not in state: the parent hands a wrong view to its child."""
    subject, choice, subnet = planted("handmade:flatten-linear", "extracted")
    wrong = copy.deepcopy(subnet)
    last = next(name for name, module in reversed(list(wrong.named_modules())) if isinstance(module, torch.nn.Linear))
    child = wrong.get_submodule(last)
    child.forward = lambda x, run=child.forward: run(x.flip(-1))
    found = locate(Comparison(pc.zero(subject.model, choice), wrong, subject.inputs, choice))
    assert found.module == last
    assert found.state == ()
