"""Complex numbers in the field: rules run with plain floats against torch, and on residues against identities.

In a field that neither embeds nor reduces, a rule computes on the floats themselves; there it must give what
torch gives, up to rounding. That it reduces in the right places is shown on residues.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import conformance as pc
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.complex import COMPLEX_MOVES, COMPLEX_RULES
from conformance.equivalence.field.modulus import Field
from conformance.errors import UnsupportedOperation

FIELD = Field(seed=4)


@dataclass(frozen=True)
class Floats(Field):
    """Arithmetic on the numbers themselves."""

    def reduce_(self, x, bound=2.0**53):
        return x

    def number(self, value):
        return value

    def inverse(self, value):
        return 1 / value

    def embed(self, x):
        return x.to(torch.complex128) if x.is_complex() else x.double()

    def apply(self, name, function, x):
        return function(x)


def computed(function, *tensors, field=FIELD):
    mode = field_mode.FieldMode(field)
    held = [mode.marks.adopt(tensor.clone()) for tensor in tensors]
    with torch.no_grad(), mode:
        return function(*held)


def floats(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(*shape, seed=0):
    return FIELD.random(shape, torch.Generator().manual_seed(seed))


def parts(x):
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def paired(x):
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


TURNED = torch.polar(torch.ones(3), torch.tensor([0.3, 1.0, -2.0]))

CASES = {
    "polar": lambda x: torch.polar(x[0], x[1]),
    "complex": lambda x: torch.complex(x[0], x[1]),
    "view_as_complex": paired,
    "view_as_real": lambda x: torch.view_as_real(paired(x)),
    "_to_copy": lambda x: x.to(torch.complex128) * TURNED.repeat(2),
    "_conj": lambda x: torch.conj(paired(x)) * paired(x)[0],
    "_conj_physical": lambda x: torch.conj_physical(paired(x)),
    "mul": lambda x: paired(x) * TURNED * x[:, :3] * 2.0,
    "div": lambda x: paired(x) / 4,
    "add": lambda x: torch.add(paired(x), TURNED, alpha=3) + x[:, 3:] + 1.0,
    "sub": lambda x: torch.sub(paired(x), paired(x)[1], alpha=2) - x[:, 3:],
    "neg": lambda x: -paired(x),
    "sum": lambda x: (paired(x).sum(), paired(x).sum(0)),
    "mean": lambda x: (paired(x).mean(), paired(x).mean(1, keepdim=True)),
    "constant_pad_nd": lambda x: nn.functional.pad(paired(x), (1, 2, 0, 1), value=0.5),
    "abs": lambda x: paired(x).abs(),
    "mm": lambda x: paired(x) @ paired(x).t(),
    "bmm": lambda x: paired(x)[None] @ paired(x).t().conj()[None],
    "_fft_c2c": lambda x: (
        [torch.fft.fft(paired(x), dim=d, norm=n) for d in (0, 1) for n in (None, "ortho", "forward")]
        + [torch.fft.ifft2(paired(x))]
    ),
    "_fft_r2c": lambda x: (
        [torch.fft.rfft(x, dim=d, norm=n) for d in (0, 1) for n in (None, "ortho", "forward")]
        + [torch.fft.fft(x), torch.fft.rfft2(x), torch.fft.rfft(x, n=9), torch.fft.fftn(x)]
    ),
    "_fft_c2r": lambda x: (
        [torch.fft.irfft(paired(x), n=n, dim=d) for n in (1, 2, 5, 8) for d in (0, 1)]
        + [torch.fft.irfft2(paired(x), norm="ortho"), torch.fft.irfft2(paired(x), s=(4, 5)), torch.fft.hfft(paired(x))]
    ),
}


def test_every_rule_has_a_case():
    assert sorted(CASES) == sorted(COMPLEX_RULES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_on_floats_a_rule_computes_what_torch_computes(name):
    x = floats(4, 6)
    expected, found = CASES[name](x), computed(CASES[name], x, field=Floats())
    if isinstance(expected, torch.Tensor):
        expected, found = [expected], [found]
    for one, other in zip(expected, found, strict=True):
        assert one.is_complex() == other.is_complex()
        torch.testing.assert_close(parts(other), parts(one), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(CASES)))
def test_results_are_residues(name):
    found = computed(CASES[name], drawn(4, 6))
    for leaf in [found] if isinstance(found, torch.Tensor) else found:
        pairs = parts(leaf)
        assert torch.equal(pairs, pairs.round())
        assert pairs.abs().max() <= FIELD.half


@pytest.mark.parametrize(
    "move", [lambda z: z.t().reshape(-1), lambda z: torch.cat([z[1:], z[:1]]), lambda z: z[..., None]]
)
def test_values_are_moved_as_they_are(move):
    x = drawn(4, 6)
    assert torch.equal(computed(lambda t: torch.view_as_real(move(paired(t))), x), torch.view_as_real(move(paired(x))))
    assert not COMPLEX_MOVES & COMPLEX_RULES.keys()


def test_a_transform_of_whole_numbers_over_four_is_exact_and_goes_back():
    x = torch.randint(-8, 9, (3, 4)).double()
    assert torch.equal(parts(computed(torch.fft.fft, x)), parts(torch.fft.fft(x)).round())
    assert torch.equal(computed(lambda t: torch.fft.irfft(torch.fft.rfft(t), n=4), x), x)


@pytest.mark.parametrize(
    "function",
    [lambda z: z.exp(), lambda z: z / z, lambda z: z.clone().add_(1), lambda z: z.tanh(), lambda z: z.cumsum(0)],
)
def test_other_operations_are_refused(function):
    with pytest.raises(UnsupportedOperation):
        computed(lambda x: function(paired(x)), drawn(4, 6))


class Mixing(nn.Module):
    """Tokens mixed by a Fourier transform, and turned by their place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        y = torch.relu(self.inner(torch.fft.fftn(x, dim=(1, 2)).real))
        y = torch.fft.irfft(torch.fft.rfft(y, dim=1), n=x.shape[1], dim=1)
        turned = paired(self.outer(y).repeat(1, 1, 2)) * torch.polar(torch.ones(5, 1), torch.arange(5.0)[:, None])
        return torch.view_as_real(turned).flatten(2)


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


def test_a_model_with_transforms_conforms_and_faults_in_it_are_seen():
    net = pc.randomised(Mixing().eval())
    choice = pc.partition(pc.trace(net, X)).sample(0.5, seed=0)
    full, subnet = pc.zero(net, choice), pc.extract(net, choice)
    assert choice.removed
    for oracle in ("field", "float64"):
        pc.assert_equivalent(full, subnet, X, oracle=oracle)
    for name in ("inner.weight", "inner.bias", "outer.weight", "outer.bias"):
        wrong = copy.deepcopy(subnet)
        with torch.no_grad():
            wrong.get_parameter(name).view(-1)[0] += 1e-5
        assert pc.equivalent(full, wrong, X).status is pc.Status.DIFFERENT


class Split(nn.Module):
    """Pairs behind a part that may become odd: no view can show them as complex numbers then."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.narrow = nn.Linear(6, 4 + 4), nn.Linear(4, 3)

    def forward(self, x):
        first, rest = self.both(x).split([self.both.out_features - 4, 4], -1)
        turned = torch.view_as_complex(rest.reshape(*rest.shape[:-1], 2, 2)) * TURNED[:2]
        return self.narrow(first), torch.view_as_real(turned)


def test_pairs_behind_an_odd_number_of_positions():
    net = pc.randomised(Split().eval())
    groups = pc.partition(pc.trace(net, X))
    choice = groups.select([1])
    full, subnet = pc.zero(net, choice), pc.extract(net, choice)
    assert subnet.get_parameter("both.weight").shape == (7, 6)
    for oracle in ("field", "float64", "native"):
        pc.assert_equivalent(full, subnet, X, oracle=oracle)
