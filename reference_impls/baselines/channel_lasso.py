"""Channel pruning by LASSO on the next layers' output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.moments import Moments
from reference_impls.baselines.reconstruction import Array, Reconstruction, solve_with_ridge


@dataclass(frozen=True)
class ChannelLasso(Reconstruction):
    """Channels leave in the order in which a growing L1 penalty on their coefficients turns them off.

    Score: b minimises b^T G b / 2 - (G 1)^T b + penalty |b|_1, with G of shape (n, n) as for `thinet`: the inner
    products of what the channels of an axis add to their readers' outputs through W (out, in, kh, kw). On a falling
    series of 50 penalties, over four decades, a group's score is the number of the first one at which b_j is not zero
    (from 50 down to 1; 0 for none), plus b_j's share of all, which parts equals. Shape (count + 1,), float64, without
    a unit. A group that no convolution (but transposed ones) or linear layer reads stays.

    Data: D1, unlabelled training batches.

    Options:
        ranking=local: axes lose equal shares; isomorphic: classes of axes built alike do; global: compares all groups.
        reduce=mean: without effect: readers add up.
        normalise=none: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: without effect: readers are looked at.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=10, size=64: how many batches, and samples in each.
        positions=10: output positions drawn from each sample.
        refit=true: the readers' kept weights are solved for by least squares; false leaves them as they are.

    The result depends on the weights, the data and the seed, which shuffles it and draws the positions. The model is
    in evaluation mode. Raises UsageError for an option that does not exist and a budget out of reach, and when no
    group is read by such a module.

    Source: He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017. There the penalty grows
    for each layer until the wanted number is left, from inputs that are pruned already; here one path gives the whole
    order, so that a larger budget removes a superset, from the dense model's inputs. Tied weights are not refitted.
    """

    facts: ClassVar[Facts] = Facts(
        name="cp",
        summary="channels that a LASSO on the next layer's output turns off first leave first",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017; over coupled groups",
    )
    refit: bool = True

    def order(self, gram: Array) -> Array:
        """The largest penalty on the path at which the coefficient is not zero; the coefficient parts equal ones."""
        return lasso_order(gram)

    def refitted(self, found: Moments, gone: torch.Tensor) -> torch.Tensor:
        """W + W_lost M_lost,kept M_kept,kept^-1 on the kept columns, M the second moments of the inputs."""
        weight, kept = found.weight.clone(), ~gone
        for group, inputs in enumerate(found.inputs):
            missing = inputs[kept][:, gone] @ weight[group][:, gone].T
            weight[group, :, kept] += solve_with_ridge(inputs[kept][:, kept], missing).T
        return weight


def lasso_order(gram: Array, penalties: int = 50) -> Array:
    """For inner products (n, n) of contributions a score: at which penalty of a falling series each is turned on.

    The target is the sum of all contributions. Whole numbers count down the series, from `penalties`; the
    coefficient at that penalty, as a share of all, is added to part channels that come on together.
    """
    target = gram.sum(1)
    top = np.abs(target).max()
    score, beta = np.zeros(gram.shape[0]), np.zeros(gram.shape[0])
    size = np.sqrt(np.clip(np.diag(gram), 0, None))
    for number in range(penalties, 0, -1):
        if top == 0:
            break
        penalty = top * 10 ** (-4 * (penalties - number + 1) / penalties)
        beta = lasso(gram, target, penalty, beta)
        share = np.abs(beta) * size
        score = np.where((score == 0) & (beta != 0), number + share / (share.sum() or 1) * (1 - 1e-9), score)
    return score


def lasso(gram: Array, target: Array, penalty: float, start: Array, iterations: int = 300) -> Array:
    """The minimiser of b^T gram b / 2 - target^T b + penalty |b|_1, by accelerated proximal steps from `start`.

    Ends when a step moves nothing by more than 1e-7 of the largest coefficient, or after `iterations`.
    """
    rate = 1 / np.linalg.norm(gram, 2)
    beta = ahead = start
    t = 1.0
    for _ in range(iterations):
        moved = ahead - rate * (gram @ ahead - target)
        new: Array = np.sign(moved) * np.maximum(np.abs(moved) - rate * penalty, 0)
        after = (1 + math.sqrt(1 + 4 * t * t)) / 2
        ahead = new + (t - 1) / after * (new - beta)
        if np.abs(new - beta).max() <= 1e-7 * np.abs(new).max():
            return new
        beta, t = new, after
    return beta
