"""The smallest networks on which random ones found the engine wrong: every group alone and drawn ones are exact."""

from __future__ import annotations

import pytest

import conformance as pc
from conformance.strategies import Form, Network
from conformance.strategies.layers import Embedding, Norm, Positions
from conformance.strategies.reshaping import Padded
from conformance.strategies.sequence import Multihead

FOUND = {
    "zero channels beside channels that a norm ties to the input": (
        Network(Form("maps", 2, (1,)), (Norm("batch"), Padded(1))), 1,
    ),
}  # fmt: skip
"""A network, and how many groups it has."""


@pytest.mark.parametrize("name", FOUND)
def test_every_subnet_is_exact(name):
    net, count = FOUND[name]
    model, args = net.build()
    groups = pc.partition(pc.trace(model, args))
    assert groups.count == count
    choices = [groups.select([number]) for number in range(1, count + 1)]
    choices += [groups.sample(fraction, seed=seed) for fraction in (0.3, 0.6, 1.0) for seed in range(2)]
    for choice in choices:
        for oracle in ("field", "float64"):
            pc.assert_equivalent(pc.zero(model, choice), pc.extract(model, choice), args, oracle=oracle)


def test_a_local_norm_may_come_after_any_other():
    net = Network(Form("maps", 2, (3, 3, 3)), (Norm("layer"), Norm("local")))
    model, args = net.build()
    assert model(*args).isfinite().all()


@pytest.mark.parametrize("heads", [3, 2])
@pytest.mark.parametrize("batch", [2, 3, 4, 9])
def test_heads_are_found_whatever_the_size_of_the_batch(batch, heads):
    """Samples and heads are one dimension for a while; with more samples than heads the samples were taken for heads."""
    width = 9 if heads == 3 else 16
    layers = (Embedding(outputs=width), Positions(), Multihead(heads=heads, bias=False))
    net = Network(Form("ids", 5, (2,)), layers, readout="mean")
    model, _ = net.build()
    groups = pc.partition(pc.trace(model, net.inputs(batch)))
    assert groups.kinds.count("head") == heads
    assert groups.count == 2 * width + heads
