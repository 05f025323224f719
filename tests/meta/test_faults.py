"""Fifty faults in each of a dozen small models of many families, every one of them found by the exact oracle alone."""

from __future__ import annotations

from collections import Counter

import pytest
from faults import Judge, Plant, Subject

import conformance as pc

MODELS: dict[str, tuple[int, ...] | None] = {
    "timm:test_resnet": None,
    "timm:test_efficientnet": None,
    "timm:test_vit": None,
    "timm:test_convnext": None,
    "timm:test_nfnet": None,
    "torchvision:shufflenet_v2_x0_5": (3, 64, 64),
    "torchvision:squeezenet1_1": (3, 64, 64),
    "transformers:bert": None,
    "transformers:llama": None,
    "transformers:t5": None,
    "handmade:dense-block": None,
    "handmade:lstm": None,
}
FAULTS = 50
CLEAN = 10

pytestmark = pytest.mark.zoo
models = pytest.mark.parametrize("spec", MODELS)


@pytest.fixture(scope="module")
def subjects():
    return {}


def subject_of(subjects, spec: str) -> Subject:
    if spec not in subjects:
        subjects[spec] = Subject.of(spec, MODELS[spec])
    return subjects[spec]


@models
def test_every_fault_is_found(spec, subjects, record_property):
    subject = subject_of(subjects, spec)
    seed = list(MODELS).index(spec)
    choice = subject.groups.sample(0.5, seed=seed)
    subnet = pc.extract(subject.model, choice)
    judge, plant = Judge(subject, choice, subnet), Plant(subject, choice, subnet, seed)
    assert judge.equal(None)
    found, inert, survived = Counter(), [], []
    while found.total() + len(survived) < FAULTS:
        fault = plant.draw()
        if not judge.equal(fault):
            found[fault.kind] += 1
        elif judge.inert(fault):
            inert.append(f"{fault.kind} of {fault.name}")
        else:
            survived.append(f"{fault.kind} of {fault.name}")
    record_property("found", dict(found))
    record_property("inert", inert)
    assert not survived
    assert len(found) >= 5, "the faults should be of many kinds"
    assert judge.equal(None), "planting leaves the subnet as it was"


@models
def test_the_public_call_says_the_same(spec, subjects):
    subject = subject_of(subjects, spec)
    choice = subject.groups.sample(0.5, seed=8)
    subnet = pc.extract(subject.model, choice)
    judge, plant = Judge(subject, choice, subnet), Plant(subject, choice, subnet, seed=8)
    for kind in plant.kinds:
        fault = plant.kinds[kind]()
        if fault is not None:
            verdict = pc.equivalent(judge.full, judge.mutant(fault, fault.wrong), *subject.inputs, oracle="field")
            assert verdict.equal is judge.equal(fault), kind


@models
def test_clean_pairs_are_equal(spec, subjects):
    subject = subject_of(subjects, spec)
    for number in range(CLEAN):
        choice = subject.groups.sample((number + 1) / CLEAN, seed=number)
        verdict = pc.equivalent(
            pc.zero(subject.model, choice), pc.extract(subject.model, choice), *subject.inputs, oracle="field"
        )
        assert verdict.equal, f"{number}: {verdict.reason}"
        assert verdict.contractions
