"""Memory held from one step to the next changes nothing: every number in it is written before it is read."""

from __future__ import annotations

import oto_nets as on
import pytest
import torch

from reference_impls.oto import DHSPG
from reference_impls.oto.motion import Memory

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


class Spoilt(Memory):
    """Gives out nothing but NaN, in memory of its own each time."""

    asked = 0

    def room(self, tensor, count, rows):
        self.asked += 1
        return torch.full_like(super().room(tensor, count, rows), torch.nan)


def trained(base, memory):
    model = on.net(dtype=torch.float32)
    optimizer = on.wrapped(DHSPG, model, BASES[base], start_step=1, epsilon=0.5, penalty=0.1)
    optimizer._memory = memory
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()
    return on.state_of(model), optimizer.zero_groups.tolist()


@pytest.mark.parametrize("base", BASES)
def test_nothing_is_read_that_was_not_written(base):
    spoilt = Spoilt()
    (one, gone), (other, lost) = trained(base, Memory()), trained(base, spoilt)
    assert spoilt.asked
    assert gone == lost
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
        assert not value.isnan().any()
