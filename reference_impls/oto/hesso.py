"""HESSO: redundant groups fade to zero in a few periods while the base optimizer goes on."""

from __future__ import annotations

import torch

from reference_impls.oto.fading import Periods


class HESSO(Periods):
    """HESSO, Hybrid Efficient Structured Sparse Optimizer: in periods, by where the base's step takes each group.

    Scores are a tensor of shape (count + 1,), entry 0 unused, without a unit, in float32 (float64 where a parameter
    is): low leaves. With x_g all entries of group g, n_g how many, and d_g the direction of the base's step,

        s_g = magnitude M(||x_g||) + average M(||x_g|| / n_g) + cosine M(cosine_sign cos(x_g, d_g) + 1)
              + taylor M(|<x_g, d_g>|) + taylor2 M(<x_g, d_g>^2 / 2)

    where M divides by the Euclidean norm over all groups that may leave. d is (x before - x after) / lr without
    decoupled weight decay, so any base will do.

    Behind step k of a period of T steps what its first step picked is at (T - 1 - k) / (T - 1) of where the base has
    it, at last exactly zero, for good.

    Data need: D3, a training run; nothing beyond its gradients.

    Options:
        start_step: steps of the base alone before the first period.
        pruning_steps: steps of all periods together, pruning_steps // periods each.
        periods: how many, 10; at 1 step each what is picked is zero at once.
        criteria: the weights (see `Criteria`); None for 0.2 each but taylor2, which is 0.

    Raises UsageError for a schedule that cannot be, and as `SparseOptimizer`.

    Source: Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning,
    2024.

    Deviations: the lowest scores among groups that have not left are picked, where the papers' code cuts a surplus by
    position. What leaves is forgotten by the base's momentum, which would move it again. taylor2, which ranks as
    taylor does, is 0 unless told otherwise. A budget need not be a share of groups.
    """

    def scored_step(self) -> torch.Tensor:
        """A step of the base, and HESSO's scores of it."""
        return self.scored(self.whole())
