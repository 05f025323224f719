"""How long it takes to find the groups, beside two other tools that find them."""

from __future__ import annotations

import time
import warnings

import pytest
from measure import Clock, against, backend_of, built, called, inputs_of, race, seconds

import conformance as pc

pytestmark = [pytest.mark.bench, pytest.mark.zoo, pytest.mark.benchmark(timer=time.process_time)]

OTHER_TOOL = "Groups, beside torch-pruning"
THIRD_TOOL = "Groups, beside torch-kirigami"


WHOLE_GOAL, PARTITION_GOAL = 1.5, 1.0
"""Trace and partition together, and partition alone, relative to torch-pruning's graph and groups."""

CASES = [
    ("torchvision:resnet50", (3, 224, 224)),
    ("torchvision:densenet121", (3, 224, 224)),
    ("torchvision:vit_b_16", (3, 224, 224)),
    ("transformers:bert-base", None),
]
SMALL = [("torchvision:resnet50", (3, 64, 64)), ("torchvision:vit_b_16", (3, 64, 64))]
"""torch-pruning computes with the input, so its time shrinks with it while ours stays: told, no goal."""


def ours(model, given):
    """Trace and partition at a batch of 2, as every check does."""

    def run(clock: Clock) -> None:
        graph = clock.time("trace", lambda: pc.trace(model, *given))
        clock.time("partition", lambda: pc.partition(graph))

    return run


@pytest.mark.parametrize(("spec", "shape"), CASES + SMALL, ids=[called(*case) for case in CASES + SMALL])
def test_beside_torch_pruning(benchmark, row, spec, shape):
    """It gets a batch of 1, as its documentation does: half of the arithmetic."""
    peer = pytest.importorskip("torch_pruning")
    backend = backend_of(spec, shape)
    model = built(backend)
    args, kwargs = inputs_of(backend, 1)
    example = kwargs or args[0]

    def theirs(clock: Clock) -> None:
        def graph():
            return peer.DependencyGraph().build_dependency(model, example, verbose=False)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parameters that it does not know how to prune
            found = clock.time("graph", graph)
            assert clock.time("groups", lambda: list(found.get_all_groups()))

    clock = race(benchmark, ours(model, inputs_of(backend, 2)), theirs, rounds=5)
    other = clock["graph"] + clock["groups"]
    whole, alone = (clock["trace"] + clock["partition"]) / other, clock["partition"] / other
    row(
        OTHER_TOOL,
        model=called(spec, shape),
        trace=seconds(clock["trace"]),
        partition=seconds(clock["partition"]),
        its_graph=seconds(clock["graph"]),
        its_groups=seconds(clock["groups"]),
        both_to_its=against(whole, WHOLE_GOAL),
        partition_to_its=against(alone, PARTITION_GOAL),
    )
    if (spec, shape) in CASES:
        assert whole <= WHOLE_GOAL
        assert alone < PARTITION_GOAL


@pytest.mark.slow
def test_beside_torch_kirigami(benchmark, row):
    """One round of its own, on the smallest model: it takes half a minute."""
    peer = pytest.importorskip("torch_kirigami")
    pruning = pytest.importorskip("torch_kirigami.pruning")
    backend = backend_of("torchvision:resnet18", (3, 224, 224))
    model = built(backend)
    given = inputs_of(backend, 2)
    clock = Clock()
    graph = clock.time("its graph", lambda: peer.DependencyGraph.build(model, args=given[0]))
    assert clock.time("its candidates", lambda: pruning.Pruner(model, graph=graph).discover_candidates())
    benchmark.pedantic(ours(model, given), args=(clock,), rounds=5, warmup_rounds=1)
    ratio = (clock["trace"] + clock["partition"]) / (clock["its graph"] + clock["its candidates"])
    row(
        THIRD_TOOL,
        model="resnet18, 224 px",
        trace=seconds(clock["trace"]),
        partition=seconds(clock["partition"]),
        its_graph=seconds(clock["its graph"]),
        its_candidates=seconds(clock["its candidates"]),
        both_to_its=against(ratio, 0.1),
    )
    assert ratio < 0.1
