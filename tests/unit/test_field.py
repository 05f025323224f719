"""The arithmetic of the exact oracle: embedding, reduction, random functions, long sums."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from conformance.equivalence.field.linear import matmul
from conformance.equivalence.field.modulus import MAX_TERMS, PRIMES, Field
from conformance.equivalence.field.table import Exact
from conformance.errors import UnsupportedOperation

FIELDS = [Field(prime, seed=3) for prime in PRIMES]
fields = pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.prime))


def residue(value: float | Fraction, prime: int) -> int:
    """m/n mod p by Python integers, balanced."""
    exact = Fraction(value)
    found = exact.numerator * pow(exact.denominator, -1, prime) % prime
    return found if found <= (prime - 1) // 2 else found - prime


def balanced(value: int, prime: int) -> int:
    found = value % prime
    return found if found <= (prime - 1) // 2 else found - prime


def exact_of(field: Field) -> Exact:
    return Exact(field, torch.ops.aten.mm.default, (), {}, "mm")


def floats(dtype: torch.dtype, count: int = 400) -> torch.Tensor:
    """Finite values of every size the type has: normal, huge, tiny, subnormal, signed zeros."""
    generator = torch.Generator().manual_seed(1)
    info = torch.finfo(dtype)
    low, high = math.log2(info.smallest_normal), math.log2(info.max)
    spread = torch.rand(count, generator=generator, dtype=torch.float64) * (high - low - 1) + low
    signs = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    mantissa = 1 + torch.rand(count, generator=generator, dtype=torch.float64)
    small = torch.rand(50, generator=generator, dtype=torch.float64) * info.smallest_normal
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, info.max, info.min, info.eps], dtype=torch.float64)
    ordinary = torch.randn(count, generator=generator, dtype=torch.float64)
    return torch.cat([(signs * mantissa * 2.0**spread), small, special, ordinary]).to(dtype)


class TestPrimes:
    def test_both_are_prime_and_differ(self):
        for prime in PRIMES:
            assert all(prime % divisor for divisor in range(2, math.isqrt(prime) + 1))
        assert len(set(PRIMES)) == 2

    def test_a_full_contraction_fits_float64(self):
        for field in FIELDS:
            assert MAX_TERMS * field.half**2 < 2**53 - field.prime


class TestEmbedding:
    @fields
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_is_the_residue_of_the_exact_fraction(self, field, dtype):
        values = floats(dtype)
        found = field.embed(values)
        assert found.dtype == torch.float64
        expected = [residue(float(value), field.prime) for value in values.double()]
        assert found.tolist() == expected

    @fields
    def test_subnormal_doubles(self, field):
        values = torch.tensor([5e-324, -5e-324, 2.0**-1060, 3 * 2.0**-1070, 2.2e-308], dtype=torch.float64)
        assert field.embed(values).tolist() == [residue(float(v), field.prime) for v in values]

    def test_subnormal_singles(self):
        values = torch.tensor([2.0**-149, -(2.0**-149), 3 * 2.0**-140], dtype=torch.float32)
        for field in FIELDS:
            assert field.embed(values).tolist() == [residue(float(v), field.prime) for v in values]

    @fields
    def test_is_a_ring_homomorphism(self, field):
        a, b = floats(torch.float32)[-200:], floats(torch.float32)[-400:-200]
        left, right = field.embed(a), field.embed(b)
        exact_sum = [residue(Fraction(float(x)) + Fraction(float(y)), field.prime) for x, y in zip(a, b, strict=True)]
        exact_product = [
            residue(Fraction(float(x)) * Fraction(float(y)), field.prime) for x, y in zip(a, b, strict=True)
        ]
        assert field.reduce_(left + right).tolist() == exact_sum
        assert field.reduce_(left * right).tolist() == exact_product
        assert field.embed(torch.zeros(1)).item() == 0
        assert field.embed(torch.ones(1)).item() == 1

    @fields
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_one_ulp_apart_is_another_residue(self, field, dtype):
        values = floats(dtype)
        above = torch.nextafter(values, torch.full_like(values, math.inf))
        finite = torch.isfinite(above)
        assert (field.embed(values)[finite] != field.embed(above)[finite]).all()

    @fields
    def test_integers_and_booleans(self, field):
        p = field.prime
        values = torch.tensor([0, 1, -1, p, p + 1, -p - 5, 2**62, -(2**62), 2**63 - 1, -(2**63)])
        assert field.embed(values).tolist() == [balanced(int(v), p) for v in values]
        assert field.embed(torch.tensor([True, False])).tolist() == [1.0, 0.0]
        small = torch.tensor([0, 255, 7], dtype=torch.uint8)
        assert field.embed(small).tolist() == [0.0, 255.0, 7.0]

    @fields
    def test_python_numbers(self, field):
        for value in (0, 1, -3, 0.1, 1e-5, 12345.678, 1e300, True):
            assert field.number(value) == residue(float(value), field.prime)

    @fields
    def test_infinities_and_nan_are_three_fixed_residues(self, field):
        values = torch.tensor([math.inf, -math.inf, math.nan, 1.0, math.inf])
        first = field.embed(values)
        assert first.tolist() == field.embed(values.double()).tolist()
        assert first[0] == -first[1] == first[4] != 0
        assert first[2] not in {first[0], first[1], torch.tensor(0.0)}
        assert first[3] == 1
        assert first.abs().max() <= field.half
        other = Field(field.prime, seed=field.seed + 1).embed(values)
        assert (first != other).tolist() == [True, True, True, False, True]

    def test_large_and_strided_tensors(self):
        field = FIELDS[0]
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(300, 500, generator=generator)
        whole = field.embed(values)
        assert whole.shape == values.shape
        assert torch.equal(field.embed(values.T), whole.T)
        assert torch.equal(field.embed(values.double()), whole)
        places = torch.randint(values.numel(), (200,), generator=generator)
        for place in places.tolist():
            assert whole.flatten()[place] == residue(float(values.flatten()[place]), field.prime)

    def test_empty(self):
        assert FIELDS[0].embed(torch.zeros(0, 3)).shape == (0, 3)

    def test_complex_tensors_are_pairs_of_residues(self):
        parts = torch.randn(2, 5, dtype=torch.float64)
        made = FIELDS[0].embed(torch.complex(parts[0], parts[1]))
        assert torch.equal(torch.stack([made.real, made.imag]), FIELDS[0].embed(parts))

    def test_a_complex_number_has_no_residue(self):
        with pytest.raises(UnsupportedOperation, match="complex"):
            FIELDS[0].number(1j)


class TestReduction:
    @fields
    @pytest.mark.parametrize("size", [100, 70_000])
    @pytest.mark.parametrize("bits", [20, 37, 50, 53])
    def test_is_exact_up_to_the_stated_bound(self, field, bits, size):
        generator = torch.Generator().manual_seed(bits)
        limit = min(2**bits, MAX_TERMS * field.half**2)
        values = torch.randint(-limit, limit + 1, (size,), generator=generator)
        p = field.prime
        edges = [limit, -limit, limit - 1, 0, p, -p, field.half, field.half + 1, -field.half - 1, p * (limit // p)]
        ties = [k * p + p // 2 + d for k in (0, 1, limit // p // 2, limit // p - 1) for d in (0, 1)]
        values[: len(edges + ties)] = torch.tensor(edges + ties)
        made = field.reduce_(values.double(), 2.0**bits)
        expected = torch.remainder(values, p)
        expected = torch.where(expected > field.half, expected - p, expected)
        assert torch.equal(made.long(), expected)

    @fields
    def test_works_on_tensors_that_are_not_contiguous(self, field):
        values = torch.randint(-(2**50), 2**50, (400, 300), generator=torch.Generator().manual_seed(0))
        turned = values.double().T
        expected = torch.remainder(values, field.prime)
        expected = torch.where(expected > field.half, expected - field.prime, expected)
        assert torch.equal(field.reduce_(turned).long(), expected.T)


class TestInverses:
    @fields
    def test_product_with_the_inverse_is_one(self, field):
        for value in (1, -1, 2, 49, -1000, field.half, field.prime + 3):
            assert balanced(int(field.inverse(value)) * value, field.prime) == 1
        x = torch.arange(-field.half, field.half + 1).double()
        one = field.reduce_(field.inverses(x) * x)
        assert (one[x != 0] == 1).all()
        assert one[field.half] == 0

    @fields
    def test_zero_has_none(self, field):
        with pytest.raises(UnsupportedOperation, match="no inverse"):
            field.inverse(2 * field.prime)


class TestRandomFunctions:
    @fields
    @pytest.mark.parametrize(
        ("name", "function", "at_zero"),
        [
            ("relu", torch.relu, 0), ("tanh", torch.tanh, 0), ("exp", torch.exp, 1), ("cos", torch.cos, 1),
            ("sigmoid", torch.sigmoid, Fraction(1, 2)), ("gelu", torch.nn.functional.gelu, 0),
        ],
    )  # fmt: skip
    def test_agree_with_the_function_at_zero(self, field, name, function, at_zero):
        assert field.apply(name, function, torch.zeros(3)).tolist() == [residue(at_zero, field.prime)] * 3

    def test_without_a_value_at_zero_zero_is_like_any_place(self):
        made = {Field(PRIMES[0], seed).apply("rsqrt", None, torch.zeros(1)).item() for seed in range(5)}
        assert len(made) > 1

    @fields
    def test_are_functions_balanced_and_look_uniform(self, field):
        x = torch.arange(-field.half, field.half + 1).float()
        made = field.apply("silu", torch.nn.functional.silu, x)
        assert torch.equal(made, field.apply("silu", torch.nn.functional.silu, x))
        assert made.abs().max() <= field.half
        # Uniform values hit about 1 - 1/e of all residues.
        assert abs(made.unique().numel() / field.prime - (1 - math.exp(-1))) < 0.01
        assert abs(made.mean().item()) < 5 * field.half / math.sqrt(3 * field.prime)

    def test_name_seed_and_prime_each_give_another_function(self):
        x = torch.arange(1, 1001).float()
        tables = [
            field.apply(name, None, x)
            for field in (Field(PRIMES[0], 0), Field(PRIMES[0], 1), Field(PRIMES[1], 0))
            for name in ("silu", "mish")
        ]
        for at, one in enumerate(tables):
            for other in tables[:at]:
                assert (one == other).float().mean() < 0.01

    @fields
    def test_uniform_inputs(self, field):
        drawn = field.random((1000, 50), torch.Generator().manual_seed(0))
        assert drawn.abs().max() <= field.half
        assert torch.equal(drawn, drawn.round())
        assert drawn.unique().numel() > 45_000


class TestLongSums:
    @fields
    @pytest.mark.parametrize("terms", [1, 1000, 2**14 + 1, 2**17, 2**17 + 1, 3 * 2**17 + 5])
    def test_matrix_products_of_any_length_are_exact(self, field, terms):
        generator = torch.Generator().manual_seed(terms)
        a, b = field.random((2, terms), generator), field.random((terms, 2), generator)
        a[0], b[:, 0] = field.half, field.half  # the largest sum there is
        made = matmul(exact_of(field), a, b)
        rows, columns = a.long().tolist(), b.T.long().tolist()
        expected = [
            [balanced(sum(x * y for x, y in zip(row, column, strict=True)), field.prime) for column in columns]
            for row in rows
        ]
        assert made.tolist() == expected

    @fields
    def test_a_vector_on_the_right(self, field):
        generator = torch.Generator().manual_seed(0)
        a, b = field.random((2, 2**17 + 3), generator), field.random((2**17 + 3,), generator)
        expected = [
            balanced(sum(x * y for x, y in zip(row, b.long().tolist(), strict=True)), field.prime)
            for row in a.long().tolist()
        ]
        assert matmul(exact_of(field), a, b).tolist() == expected
