"""What exact arithmetic costs: a forward pass modulo a prime beside the same one in float64."""

from __future__ import annotations

import time

import pytest
import torch
from measure import Clock, against, backend_of, built, called, inputs_of, race, seconds

from conformance.equivalence.compare import doubled, residues
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.modulus import Field

pytestmark = [pytest.mark.zoo, pytest.mark.benchmark(timer=time.process_time)]

FIELD = Field(seed=1)
TITLE = "The field oracle's forward pass, beside float64"


GOAL = 5.0
"""How many float64 passes an exact one may take."""

CASES = [
    ("torchvision:resnet50", (3, 224, 224)),
    ("torchvision:densenet121", (3, 224, 224)),
    ("torchvision:vit_b_16", (3, 224, 224)),
    ("torchvision:mobilenet_v3_small", (3, 224, 224)),
    ("transformers:bert-base", None),
]
SMALL = [(f"torchvision:{name}", (3, 64, 64)) for name in ("resnet50", "densenet121", "vit_b_16")]
"""Where Python decides, not arithmetic: told, no goal."""


@pytest.mark.parametrize(("spec", "shape"), CASES + SMALL, ids=[called(*case) for case in CASES + SMALL])
def test_an_exact_pass(benchmark, row, spec, shape):
    """`field` is the pass alone; `with weights` makes the model into residues before it, as a comparison does."""
    backend = backend_of(spec, shape)
    model = built(backend)
    given = inputs_of(backend, 2)
    drawn = residues(given, FIELD, seed=1)
    twin = field_mode.embedded(model, FIELD)
    wide, (args, kwargs) = doubled(model, given)

    def exact(clock: Clock) -> None:
        _, work = clock.time("field", lambda: field_mode.execute(twin, *drawn, FIELD))
        assert work.contractions  # it computed, and refused nothing

    @torch.no_grad()
    def others(clock: Clock) -> None:
        clock.time("float64", lambda: wide(*args, **kwargs))
        clock.time("with weights", lambda: field_mode.run(model, *drawn, FIELD))

    clock = race(benchmark, exact, others, rounds=5)
    ratio = clock["field"] / clock["float64"]
    row(
        TITLE,
        model=called(spec, shape),
        float64=seconds(clock["float64"]),
        field=seconds(clock["field"]),
        field_to_float64=against(ratio, GOAL),
        with_weights_to_float64=f"{clock['with weights'] / clock['float64']:.3g}",
    )
    if (spec, shape) in CASES:
        assert ratio <= GOAL
