"""Every kind of planted fault at least once: a small cut of `nox -s meta`."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest
import torch
from planted import KINDS
from planted.extraction import CHECK_KINDS, clean, run
from planted.judges import Judges, site_of
from planted.rows import JUDGES, clean_rows, mutant_rows
from planted.site import Mutant, Site, Subject, mutants, planted
from torch import nn

import conformance as pc
from conformance.backend import Backend, collections

MODELS = (
    "handmade:conv-bn-relu", "handmade:attention-separate", "handmade:dense-block", "handmade:layer-norm",
    "handmade:tied-lm-head", "handmade:grouped-conv", "handmade:rotary-decoder", "handmade:glu-chunk",
    "handmade:nn-transformer-encoder", "handmade:attention-relative-bias", "handmade:inverted-residual",
    "handmade:convnext-block", "handmade:pyramid-pooling", "handmade:adaptive-pool-head", "handmade:windows",
    "handmade:attention-fused-qkv", "handmade:patch-merging", "transformers:bert", "transformers:llama",
)  # fmt: skip
"""Tried in this order for a place of a kind; between them they have one for every kind."""


@lru_cache(maxsize=len(MODELS))
def judges_of(spec: str) -> Judges:
    subject = Subject.of(spec)
    return Judges(subject, site_of(subject, subject.groups.sample(0.5, seed=1)))


def first_mutants(kind: str, number: int):
    """(judges, the kind, its seed, a mutant), from the first model with a place for the kind."""
    for spec in MODELS:
        judges = judges_of(spec)
        found = list(itertools.islice(mutants(judges.site, 5, (kind,)), number))
        if found:
            return [(judges, *one) for one in found]
    return []


@pytest.mark.zoo
@pytest.mark.parametrize("name", KINDS)
def test_a_fault_of_every_kind_is_found(name):
    planted_ones = first_mutants(name, 2)
    assert planted_ones, f"no model of the cut has a place for {name}"
    faults = 0
    for judges, kind, again, mutant in planted_ones:
        answer = judges.answer(kind, again, mutant)
        excuse = judges.no_fault(kind, again, mutant)
        if answer.float64:
            assert not excuse, f"what float64 finds is a fault: {mutant.where}"
        if not excuse:
            faults += 1
            assert answer.gate == kind.fires, f"{mutant.where} is found by {answer.gate or 'nothing'}"
        subnet, given = planted(judges.site.subnet, mutant), judges.subject.inputs()
        public = pc.equivalent(judges.full, subnet, *given, oracle="field", seed=judges.seed)
        assert public.equal is judges.exact.equal(mutant), public.reason
    assert faults, "all were excused"


def test_a_subnet_without_a_fault_is_called_equal_by_all():
    judges = judges_of(MODELS[0])
    nothing = Mutant("nothing")
    assert all(judge.equal(nothing) for judge in (judges.exact, judges.again, judges.wide, judges.native, judges.oto))


def backend_of(spec: str) -> Backend:
    prefix, _, name = spec.partition(":")
    return collections()[prefix].get(name)


@pytest.mark.parametrize("name", CHECK_KINDS)
def test_a_fault_of_the_engine_is_found_by_its_check(name):
    kind = CHECK_KINDS[name]
    for spec in ("handmade:conv-bn-relu", "handmade:mlp", "handmade:conv-attention"):
        backend = backend_of(spec)
        row = run(kind, backend)
        if row.planted:
            assert row.fired, row
            assert clean(backend, kind.fires)
            return
    pytest.fail(f"{name} was never planted")


@pytest.mark.parametrize("spec", ["handmade:concat", "handmade:attention-fused-qkv"])
def test_clean_pairs_are_called_equal(spec):
    rows = clean_rows(Subject.of(spec), 2, seed=0)
    assert rows.compared == 16
    assert not rows.alarms["gate"]


# -- what is no fault ----------------------------------------------------------------------------------


class Tokens(nn.Module):
    """Of 30 words a batch reads a few; the bias before the norm cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv = nn.Embedding(30, 6), nn.Conv1d(6, 8, 1)
        self.norm, self.head = nn.InstanceNorm1d(8, affine=True), nn.Linear(8, 2)

    def forward(self, tokens):
        return self.head(torch.relu(self.norm(self.conv(self.words(tokens).mT))).mean(-1))


def token_inputs(batch, generator):
    return (torch.randint(30, (batch, 5), generator=generator),), {}


def judges_for(build, inputs) -> Judges:
    """Judges of a net that no collection has."""
    torch.manual_seed(0)
    model = pc.randomised(build().eval())
    groups = pc.partition(pc.trace(model, *inputs(2, torch.Generator().manual_seed(0))))
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    subject = Subject(
        Backend("net", build, inputs), model, {name: own[name].detach() for name in groups.graph.names}, groups
    )
    return Judges(subject, site_of(subject, groups.sample(0.5, seed=2)))


class TestNoFaults:
    def excuse(self, judges: Judges, name: str, kind: str, wrong) -> str:
        """What is said of a mutant that replaces one tensor everywhere in the same way."""

        def plant(site: Site, _: np.random.Generator) -> Mutant:
            return Mutant(name, {name: wrong(site.right(name))})

        same = type(KINDS[kind])(kind, "", "field", plant, KINDS[kind].small)
        return judges.no_fault(same, 0, plant(judges.site, np.random.default_rng(0)))

    def test_a_bias_that_statistics_take_out(self):
        judges = judges_for(Tokens, token_inputs)
        assert self.excuse(judges, "conv.bias", "bias-lost", torch.zeros_like) == "same function"
        assert self.excuse(judges, "head.bias", "bias-lost", torch.zeros_like) == ""

    def test_a_row_that_is_not_read(self):
        judges = judges_for(Tokens, token_inputs)
        ((tokens,), _) = judges.subject.inputs()
        read = tokens.flatten().tolist()
        unread = next(row for row in range(30) if row not in read)

        def plus_one(row):
            return lambda tensor: tensor.index_add(0, torch.tensor([row]), torch.ones(1, tensor.shape[1]))

        assert self.excuse(judges, "words.weight", "weight-ulp", plus_one(unread)) == "unread"
        assert self.excuse(judges, "words.weight", "weight-ulp", plus_one(read[0])) == ""

    def test_a_small_change_is_made_large_before_it_is_excused(self):
        judges = judges_for(Tokens, token_inputs)

        def tiny(tensor):
            return tensor * (1 + 2.0**-23)

        assert self.excuse(judges, "head.weight", "weight-ulp", tiny) == ""

    def test_a_clipping_that_small_nets_never_reach_is_a_fault(self):
        def build():
            return nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 1))

        judges = judges_for(build, lambda batch, generator: ((torch.randn(batch, 3, 8, generator=generator),), {}))
        ((kind, again, mutant),) = itertools.islice(mutants(judges.site, 0, ("activation",)), 1)
        assert judges.wide.equal(mutant)  # no value is above 6
        assert not judges.exact.equal(mutant)
        assert judges.no_fault(kind, again, mutant) == ""

    def test_an_eps_too_small_to_be_seen_is_a_fault(self):
        def build():
            return nn.Sequential(
                nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5, eps=1e-16), nn.Linear(5, 2)
            )

        judges = judges_for(build, lambda batch, generator: ((torch.randn(batch, 4, generator=generator),), {}))
        ((kind, again, mutant),) = itertools.islice(mutants(judges.site, 0, ("eps",)), 1)
        assert judges.wide.equal(mutant)
        assert not judges.exact.equal(mutant)
        assert judges.no_fault(kind, again, mutant) == ""

    def test_a_unit_that_never_fires_is_read(self):
        def build():
            net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
            net[0].bias.data.fill_(-50)
            return net

        judges = judges_for(build, lambda batch, generator: ((torch.randn(batch, 4, generator=generator),), {}))
        ((kind, again, mutant),) = itertools.islice(mutants(judges.site, 0, ("consumer-permuted",)), 1)
        assert judges.wide.equal(mutant)
        assert judges.no_fault(kind, again, mutant) == ""


def test_the_same_seed_plants_the_same_fault():
    judges = judges_of(MODELS[0])
    for kind, again, mutant in itertools.islice(mutants(judges.site, 3), len(KINDS)):
        twin = kind.plant(judges.site, np.random.default_rng(again))
        assert twin.where == mutant.where
        assert all(torch.equal(twin.state[name].nan_to_num(), mutant.state[name].nan_to_num()) for name in mutant.state)
        other = kind.plant(judges.fresh, np.random.default_rng(again))
        assert other.where == mutant.where, "the place depends on names and shapes only"


def test_planting_leaves_the_subnet_as_it_was():
    judges = judges_of(MODELS[0])
    before = {name: tensor.clone() for name, tensor in judges.site.subnet.state_dict().items()}
    rows = mutant_rows(judges.subject, 5, seed=4)
    assert len(rows) == 5
    for _, _, mutant in itertools.islice(mutants(judges.site, 3), 20):
        planted(judges.site.subnet, mutant)
    assert all(torch.equal(before[name], tensor) for name, tensor in judges.site.subnet.state_dict().items())
    assert set(JUDGES) == {"gate", "float64", "assert_close", "oto"}
