"""Arithmetic modulo a prime, in float64 so that BLAS does the work.

Residues are balanced: integers in [-(p-1)/2, (p-1)/2] held in float64. With p = 2**19 - 1 a product
is below 2**36, so 2**17 of them add up below 2**53 and every matrix product is exact whatever the
order of its sums. A float m * 2**e enters as m * 2**e mod p, a ring homomorphism: what is true of
exact real arithmetic stays true, and two floats one ulp apart become different residues.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from conformance.errors import UnsupportedOperation

PRIMES = (2**19 - 1, 2**19 - 19)
"""The default prime and a second one for independent confirmation."""

MAX_TERMS = 2**17
_ONE_REDUCTION = 2.0**50
_CHUNK = 1 << 16
_EXPONENTS = 2400


@dataclass(frozen=True)
class Field:
    """The integers modulo `prime`, with fixed random functions drawn from `seed`."""

    prime: int = PRIMES[0]
    seed: int = 0

    @property
    def half(self) -> int:
        return (self.prime - 1) // 2

    def reduce_(self, x: torch.Tensor, bound: float = 2.0**53) -> torch.Tensor:
        """Bring integers of magnitude up to `bound` back to balanced residues, in place.

        One rounding of x/p is exact below 2**50; larger values are reduced twice.
        """
        times = 1 if bound <= _ONE_REDUCTION else 2
        if not x.is_contiguous() or x.numel() <= _CHUNK:
            for _ in range(times):
                x.sub_(torch.round(x * (1.0 / self.prime)), alpha=self.prime)
            return x
        # In pieces that stay in the processor's cache: three passes cost little more than one.
        flat, quotient = x.view(-1), torch.empty(_CHUNK, dtype=torch.float64, device=x.device)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            whole = quotient[: part.numel()]
            for _ in range(times):
                torch.mul(part, 1.0 / self.prime, out=whole)
                part.sub_(whole.round_(), alpha=self.prime)
        return x

    def number(self, value: float) -> float:
        """A Python number as a residue."""
        if isinstance(value, complex):
            raise UnsupportedOperation("complex arithmetic", "complex numbers have no residue")
        return float(self.embed(torch.tensor(float(value), dtype=torch.float64)).item())

    def inverse(self, value: int) -> float:
        """1/value mod p as a balanced residue. Raises UnsupportedOperation for a multiple of p."""
        if value % self.prime == 0:
            raise UnsupportedOperation("aten.div", f"{value} has no inverse modulo {self.prime}")
        found = pow(value % self.prime, -1, self.prime)
        return float(found if found <= self.half else found - self.prime)

    def inverses(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise 1/x mod p of residues; 0 goes to 0."""
        return torch.take(_inverse_table(self.prime).to(x.device), x.long() + self.half).double()

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Residues of a floating, integer or boolean tensor, in float64 and of the same shape.

        Of a complex tensor those of its two parts, in complex128.
        """
        if x.is_complex():
            return torch.complex(self.embed(x.real), self.embed(x.imag))
        if not x.is_floating_point():
            return self.reduce_(torch.remainder(x.to(torch.int64), self.prime).double())
        out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        source, target = x.detach().reshape(-1), out.view(-1)
        narrow = x.dtype != torch.float64 and self.prime == 2**19 - 1
        for start in range(0, source.numel(), _CHUNK):
            part = source[start : start + _CHUNK].double()
            value = self._shifted(part) if narrow else None
            target[start : start + _CHUNK] = self._scaled(part, x.dtype) if value is None else value
        return out

    def _shifted(self, part: torch.Tensor) -> torch.Tensor | None:
        """Residues of float32 values by shifts alone: 2**19 is 1 modulo 2**19 - 1, so a multiplication by
        2**38 or 2**57 changes nothing but makes the values whole. None when one is out of range.
        """
        size = part.abs()
        small = size < 2.0**-14
        whole = torch.where(small, part * 2.0**57, part * 2.0**38)
        # float32 has 24 bits: whole for sizes of at least 2**-33, below 2**53 for sizes under 2**15.
        if bool((size >= 2.0**15).any()) or bool(((size < 2.0**-33) & (size > 0)).any()) or part.isnan().any():
            return None
        return self.reduce_(whole)

    def _scaled(self, part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Residues of any floats: mantissa times a power of two mod p."""
        powers = _powers_of_two(self.prime).to(part.device)
        mantissa, exponent = torch.frexp(part)
        scale = exponent.long().clamp_(-1150, 1150).add_(_EXPONENTS // 2)
        # 27 bits times a residue stay exact; float64 brings 26 more.
        high = mantissa.mul_(2.0**27)
        if dtype == torch.float64:
            whole = torch.floor(high)
            low = (high - whole).mul_(2.0**26)
            value = self.reduce_(whole * torch.take(powers, scale - 27), _ONE_REDUCTION)
            value += self.reduce_(low * torch.take(powers, scale - 53), _ONE_REDUCTION)
            self.reduce_(value, _ONE_REDUCTION)
        else:
            value = self.reduce_(high * torch.take(powers, scale - 27), _ONE_REDUCTION)
        return value if torch.isfinite(part).all() else self._special(part, value)

    def _special(self, part: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Infinities and NaN are no ring elements: each is a fixed random residue of its own."""
        infinite = float(_draw(f"infinity:{self.seed}", self.prime, 1)[0])
        not_a_number = float(_draw(f"nan:{self.seed}", self.prime, 1)[0])
        value = torch.where(part == math.inf, torch.full_like(value, infinite), value)
        value = torch.where(part == -math.inf, torch.full_like(value, -infinite), value)
        return torch.where(torch.isnan(part), torch.full_like(value, not_a_number), value)

    def apply(
        self, name: str, function: Callable[[torch.Tensor], torch.Tensor] | None, x: torch.Tensor
    ) -> torch.Tensor:
        """A fixed random function of residues, drawn for `name`, that agrees with `function` at 0."""
        table = _table(name, self.prime, self.seed, _at_zero(name, function))
        return torch.take(table.to(x.device), x.long() + self.half).double()

    def random(self, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        """Uniform residues."""
        return torch.randint(-self.half, self.half + 1, shape, generator=generator).double()


_ZERO_VALUES: dict[str, float] = {}


def _at_zero(name: str, function: Callable[[torch.Tensor], torch.Tensor] | None) -> float:
    if function is None:
        return math.nan
    if name not in _ZERO_VALUES:
        _ZERO_VALUES[name] = float(function(torch.zeros(1, dtype=torch.float64))[0])
    return _ZERO_VALUES[name]


@lru_cache(maxsize=96)
def _table(name: str, prime: int, seed: int, zero: float) -> torch.Tensor:
    table = _draw(f"{name}:{seed}", prime, prime)
    if math.isfinite(zero):
        table[(prime - 1) // 2] = Field(prime, seed).number(zero)
    return table


def _draw(name: str, prime: int, count: int) -> torch.Tensor:
    """Uniform residues determined by the name. float32 holds them exactly and halves the table."""
    digest = int.from_bytes(hashlib.sha256(f"{name}:{prime}".encode()).digest()[:8], "little")
    generator = torch.Generator().manual_seed(digest % 2**63)
    half = (prime - 1) // 2
    return torch.randint(-half, half + 1, (count,), generator=generator).float()


@lru_cache(maxsize=4)
def _powers_of_two(prime: int) -> torch.Tensor:
    half = (prime - 1) // 2
    values = [pow(2, exponent, prime) for exponent in range(-_EXPONENTS // 2, _EXPONENTS // 2)]
    return torch.tensor([float(v if v <= half else v - prime) for v in values], dtype=torch.float64)


@lru_cache(maxsize=4)
def _inverse_table(prime: int) -> torch.Tensor:
    half = (prime - 1) // 2
    inverse = [0, 1]
    for n in range(2, prime):
        inverse.append((prime - (prime // n) * inverse[prime % n] % prime) % prime)
    values = torch.tensor(inverse, dtype=torch.float64)
    values = torch.where(values > half, values - prime, values)
    return torch.cat([values[half + 1 :], values[: half + 1]])
