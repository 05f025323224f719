"""Scores of groups from where they are (x) and where the optimizer is taking them (the step goes along -d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conformance.errors import UsageError
from reference_impls.oto.motion import Motion
from reference_impls.oto.stepping import Stepping


@dataclass(frozen=True)
class Criteria:
    """Weights of HESSO's criteria; low scores are redundant.

    magnitude ||x||, average ||x|| / |x|, cosine cos(x, d) + 1, taylor |<x, d>|, taylor2 <x, d>^2 / 2. Published is
    0.2 for all five; taylor2 ranks as taylor does and only counts it twice, so it is 0 here. cosine_sign 1 is
    HESSO's: groups that the step lengthens (cos(x, d) low) are redundant; -1 takes those it shortens. LHSPG has in
    place of d what was added to x, so that 1 there takes the groups that training has been shortening.
    """

    magnitude: float = 0.2
    average: float = 0.2
    cosine: float = 0.2
    taylor: float = 0.2
    taylor2: float = 0.0
    cosine_sign: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError for weights that cannot be."""
        weights = (self.magnitude, self.average, self.cosine, self.taylor, self.taylor2)
        if min(weights) < 0 or max(weights) <= 0:
            raise UsageError("the criteria's weights are at least 0, and one of them is above")
        if self.cosine_sign not in (1, -1):
            raise UsageError(f"cosine_sign is 1 or -1, not {self.cosine_sign}")


@dataclass(frozen=True)
class Products:
    """<x, x>, <x, d> and <d, d> of every group: figures of shape (count + 1,)."""

    xx: torch.Tensor
    xd: torch.Tensor
    dd: torch.Tensor


@dataclass(frozen=True)
class Along:
    """Long lines of <x, x>, <x, d> and <d, d> of a step from x, and of <z, x> of the point z where it ended."""

    xx: torch.Tensor
    xd: torch.Tensor
    dd: torch.Tensor
    zx: torch.Tensor


def along(motion: Motion, stepping: Stepping) -> Along:
    """Of the step just made. d is (x - z) / lr without decoupled weight decay, 0 where nothing was moved."""
    lines = motion.lines
    rates, decays = stepping.rates(lines.members)
    found = motion.products()
    # From the motion to d: divided by lr where it was copied.
    shrink = lines.shared([a / b if b else 0.0 for a, b in zip(motion.scales(), rates, strict=True)])
    decay = lines.shared(decays)
    moved = found.cross + found.scale * found.length
    zx = found.new + found.scale * found.cross
    xx = zx + found.scale * moved
    xd, dd = moved * shrink, found.length * (shrink * shrink)
    dd = dd - 2 * decay * xd + decay * decay * xx
    return Along(xx, xd - decay * xx, dd, zx)


def products(motion: Motion, stepping: Stepping, squares: torch.Tensor) -> Products:
    """Of the step just made. squares are <x, x> from before it: behind a step longer than x little is left of x."""
    found = along(motion, stepping)
    xd, dd = motion.lines.totals((found.xd, found.dd))
    dd = dd.clamp(min=0)  # by rounding it can be less, and <x, d> more than lengths allow
    most = (squares * dd).sqrt()
    return Products(squares, torch.clamp(xd, -most, most), dd)


def hesso_scores(found: Products, sizes: torch.Tensor, free: torch.Tensor, criteria: Criteria) -> torch.Tensor:
    """The weighted sum of the criteria, each divided by its norm over all groups that are `free` to leave."""
    x, d = found.xx.sqrt(), found.dd.sqrt()
    cosine = criteria.cosine_sign * found.xd / ((x + 1e-8) * (d + 1e-8)) + 1
    terms = (
        (criteria.magnitude, x),
        (criteria.average, x / (sizes + 1e-6)),
        (criteria.cosine, cosine),
        (criteria.taylor, found.xd.abs()),
        (criteria.taylor2, 0.5 * found.xd.square()),
    )
    total = torch.zeros_like(x)
    for weight, term in terms:
        if weight:
            norm = (torch.where(free, term, 0).square().sum() + 1e-8).sqrt() + 1e-8
            total += weight * term / norm
    return total


def dhspg_redundancy(found: Products, sizes: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """High is redundant: short group vectors, and those that the step takes towards the origin."""
    x, d = found.xx.sqrt(), found.dd.sqrt()
    cosine = found.xd / ((x + 1e-8) * (d + 1e-8))
    short = 1 / (x / sizes.clamp(min=1) + 1e-6)

    def unit(term: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = torch.where(free, term, 0)
        length: torch.Tensor = torch.linalg.vector_norm(kept)
        return kept / length.clamp(min=1e-12)

    return 0.5 * unit(cosine) + 0.5 * unit(short)
