"""The smallest networks on which random ones found the engine wrong: every group alone and drawn ones are exact."""

from __future__ import annotations

import pytest

import conformance as pc
from conformance.strategies import Form, Network
from conformance.strategies.layers import Norm
from conformance.strategies.reshaping import Padded

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
