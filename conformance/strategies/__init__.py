"""Hypothesis strategies for tests of pruned models: selections of a partition, layer shapes, whole networks.

    from hypothesis import given
    from conformance.strategies import selections

    GROUPS = pc.partition(pc.trace(model, args))

    @given(choice=selections(GROUPS))
    def test_every_subnet_is_exact(choice):
        pc.assert_equivalent(pc.zero(model, choice), pc.extract(model, choice), args)

This is the only package that needs Hypothesis; `import conformance` does not load it.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError(
        "conformance.strategies needs hypothesis, which is not installed: pip install hypothesis"
    ) from error

from conformance.strategies.description import Form, Layer, Network
from conformance.strategies.networks import INPUTS, networks
from conformance.strategies.selections import selections
from conformance.strategies.shapes import AttentionShape, ConvShape, attentions, convolutions, widths

__all__ = [
    "INPUTS",
    "AttentionShape",
    "ConvShape",
    "Form",
    "Layer",
    "Network",
    "attentions",
    "convolutions",
    "networks",
    "selections",
    "widths",
]
