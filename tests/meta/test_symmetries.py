"""Changes that real arithmetic cannot see: which of them the exact oracle sees."""

from __future__ import annotations

import torch
from torch import nn

import conformance as pc


class TestSymmetries:
    """Changes that real arithmetic cannot see: the oracle sees all but those that cancel exactly."""

    X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))

    def verdicts(self, net, change):
        other = pc.randomised(net)  # a deep copy: nothing in it is constant any more
        with torch.no_grad():
            change(other)
        return [pc.equivalent(net, other, (self.X,), oracle=oracle).equal for oracle in ("field", "float64")]

    def test_a_bias_before_batch_statistics_cancels_exactly(self):
        net = pc.randomised(nn.Sequential(nn.Conv1d(5, 4, 3), nn.InstanceNorm1d(4, affine=True)).eval())
        assert self.verdicts(net, lambda other: other[0].bias.add_(1)) == [True, True]

    def test_a_key_bias_under_a_softmax_is_seen(self):
        """exp(a + b) = exp(a) exp(b) does not hold for the oracle's random functions: it is stricter."""

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)

            def forward(self, x):
                return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)

        net = pc.randomised(Attention().eval())
        assert self.verdicts(net, lambda other: other.k.bias.add_(1)) == [False, True]
        assert self.verdicts(net, lambda other: other.q.bias.add_(1)) == [False, False]

    def test_a_dead_unit_is_seen(self):
        """No input makes this unit fire, so float64 says nothing about it; random functions let it through."""
        net = pc.randomised(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval())
        net[0].bias.data[1] = -1e6
        assert self.verdicts(net, lambda other: other[2].weight[:, 1].add_(1)) == [False, True]
