"""ThiNet: a greedy order by what the next layers' output loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from conformance.method import DataNeed, Driver, Facts
from reference_impls.baselines.moments import Moments
from reference_impls.baselines.reconstruction import Array, Reconstruction, solve_with_ridge


@dataclass(frozen=True)
class ThiNet(Reconstruction):
    """Channels leave one by one, each the one that adds least to what the next layers' output has lost.

    Score: the place of the group in a greedy order of its axis, from 1. What is lost with a set T is the sum over j, k
    in T of G_jk, G of shape (n, n) the mean over samples of sum_o y_oj y_ok, y_oj what channel j adds to output o
    through the columns of W (out, in, kh, kw); all readers of an axis add up. Shape (count + 1,), float64, without a
    unit. Channels that add nothing share a place. A group that no convolution (but transposed ones) or linear layer
    reads stays.

    Data: D1, unlabelled training batches.

    Options:
        ranking=local: axes lose equal shares; isomorphic: classes of axes built alike do; global: compares all groups.
        reduce=mean: without effect: readers add up.
        normalise=none: axes compare by score over the axis' mean, sum or max; standardise (to [0, 1]), lamp, none.
        members=all: without effect: readers are looked at.
        steps=1: equal parts of the budget, with scores anew before each; what has left is at zero then.
        batches=10, size=64: how many batches, and samples in each.
        positions=10: output positions drawn from each sample.
        refit=false: true scales the kept columns by least squares, so that the readers' output is nearest to the dense
            one.

    The result depends on the weights, the data and the seed, which shuffles it and draws the positions. The model is
    in evaluation mode. Raises UsageError for an option that does not exist and a budget out of reach, and when no
    group is read by such a module.

    Source: Luo et al., ThiNet: A Filter Level Pruning Method, ICCV 2017. There one output entry is drawn at each
    position, and layers are pruned in turn with fine-tuning between; here all output channels count, coupled groups
    are chosen together, and refitting is from the dense model's inputs. Tied weights are not refitted.
    """

    facts: ClassVar[Facts] = Facts(
        name="thinet",
        summary="channels the next layer's output misses least leave first, chosen greedily",
        driver=Driver.POST,
        data=DataNeed.UNLABELLED,
        paper="Luo et al., ThiNet: A Filter Level Pruning Method, ICCV 2017; over coupled groups",
    )

    def order(self, gram: Array) -> Array:
        """The place of each channel among those that leave, from 1."""
        return greedy(gram)

    def refitted(self, found: Moments, gone: torch.Tensor) -> torch.Tensor:
        """Columns times the factors that bring the sum of contributions nearest to the dense one."""
        lost = gone[:: found.kernel]
        gram = found.gram()
        kept = ~lost
        change = solve_with_ridge(gram[kept][:, kept], gram[kept][:, lost].sum(1, keepdim=True)).flatten()
        factors = torch.ones_like(gram[0])
        factors[kept] += change
        return found.weight * factors.repeat_interleave(found.kernel)


def greedy(gram: Array) -> Array:
    """For inner products (n, n) of contributions the place, from 1, of each when what is lost grows least.

    What is lost with a set T is the squared norm of its sum: sum over j, k in T of gram[j, k]. Channels that
    contribute nothing share a place: no order among them is better than another.
    """
    size = gram.shape[0]
    cost = np.diag(gram).copy()  # what each adds to the loss when it goes next
    dead = np.asarray(~gram.any(axis=1))
    place = np.zeros(size)
    number = 1
    while number <= size:
        chosen = int(np.argmin(np.where(place == 0, cost, np.inf)))
        if dead[chosen]:
            place[dead] = number
            number += int(dead.sum())
            continue
        place[chosen] = number
        cost += 2 * gram[chosen]
        number += 1
    return place
