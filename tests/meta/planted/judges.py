"""Four judges of one subnet and its mutants, and what shows that a mutant is no fault at all.

What the full model computes is worked out once; each mutant costs one pass a judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

import conformance as pc
from conformance.backend import Inputs
from conformance.equivalence.bound import error_bound, evaluate_wide
from conformance.equivalence.compare import _close, _same, _within, doubled, evaluate, residues
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.modulus import PRIMES, Field
from conformance.equivalence.field.table import storage
from conformance.errors import UnsupportedOperation
from conformance.graph.tape import tensors_in
from conformance.graph.trace import reproducible
from conformance.subnet.norm_module import with_traced_norms
from conformance.subnet.tape_module import GraphSubnet
from planted.calls import recorded
from planted.site import Kind, Mutant, Site, State, Subject, planted

OTO_TOLERANCE = 1e-4
"""OTO's own test compares outputs with this absolute tolerance."""

SIZES = (1.0, 32.0) * 4
"""How large the weights of each redrawn net are: a clipping shows in large ones."""


@dataclass(frozen=True)
class Answer:
    """What the judges say of one mutant: which of the gate's oracles finds it ('' for none), and the others."""

    gate: str
    float64: bool
    assert_close: bool
    oto: bool


def site_of(subject: Subject, choice: pc.Selection) -> Site:
    subnet = pc.extract(subject.model, choice)
    return Site(choice, _named(subject), subnet, recorded(subnet, subject.inputs()))


def _named(subject: Subject) -> State:
    own = dict(subject.model.named_parameters(remove_duplicate=False))
    own |= dict(subject.model.named_buffers(remove_duplicate=False))
    return {name: own[name] for name in subject.groups.graph.names}


class _Exact:
    """The field oracle at one round."""

    def __init__(self, full: torch.nn.Module, subnet: torch.nn.Module, inputs: Inputs, seed: int, number: int) -> None:
        self.field = Field(PRIMES[number], seed=seed + number)
        self.given = residues(inputs, self.field, seed + number)
        self.expected = field_mode.run(full, *self.given, self.field)[0]
        self.twin = field_mode.embedded(subnet, self.field)

    def equal(self, mutant: Mutant) -> bool:
        for name, tensor in mutant.state.items():  # refused before anything runs
            parameter = name in dict(self.twin.named_parameters(remove_duplicate=False))
            if tensor.is_floating_point() and (tensor.isnan().any() or (parameter and tensor.isinf().any())):
                return False
        try:
            found = field_mode.execute(planted(self.twin, mutant, self._embed), *self.given, self.field)[0]
        except UnsupportedOperation:
            return False
        except Exception:  # noqa: BLE001 - a subnet that does not run is found
            return False
        return not _same(self.expected, found, torch.equal)[0]

    def _embed(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return self.field.embed(tensor).to(storage(tensor.dtype))


class _Wide:
    """The float64 oracle: mutants of a subnet against what it should be equal to."""

    def __init__(self, reference: torch.nn.Module, subnet: torch.nn.Module, inputs: Inputs) -> None:
        self.expected, self.bound = error_bound(*doubled(reference, inputs))
        self.twin, self.given = doubled(subnet, inputs)

    def outputs(self, mutant: Mutant) -> Any:
        return evaluate_wide(planted(self.twin, mutant, _doubled), self.given)

    def equal(self, mutant: Mutant) -> bool:
        try:
            found = self.outputs(mutant)
        except Exception:  # noqa: BLE001 - as above
            return False
        return not _same(self.expected, found, lambda a, b: _within(a, b, self.bound))[0]

    @property
    def finite(self) -> bool:
        return all(torch.isfinite(t).all() for t in tensors_in(self.expected) if t.is_floating_point())


def _traced(full: torch.nn.Module, subnet: torch.nn.Module) -> torch.nn.Module:
    """The full model with the numbers of the traced dtype that the subnet has (an eps), as the engine compares."""
    return subnet.whole(full) if isinstance(subnet, GraphSubnet) else with_traced_norms(full, subnet)


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


class _Native:
    """float32 with its own kernels, and some closeness."""

    def __init__(
        self, full: torch.nn.Module, site: Site, inputs: Inputs, close: Callable[[torch.Tensor, torch.Tensor], bool]
    ) -> None:
        self.expected, self.site, self.given, self.close = evaluate(full, inputs), site, inputs, close

    def equal(self, mutant: Mutant) -> bool:
        try:
            with reproducible():
                found = planted(self.site.subnet, mutant).eval()(*self.given[0], **self.given[1])
        except Exception:  # noqa: BLE001 - as above
            return False
        return not _same(self.expected, found, self.close)[0]


def within_oto(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return a.shape == b.shape and float((a - b).abs().max()) <= OTO_TOLERANCE  # NaN is not


class Judges:
    """The judges of one site."""

    def __init__(self, subject: Subject, site: Site, seed: int = 0) -> None:
        self.subject, self.site, self.seed = subject, site, seed
        self._nets: dict[int, tuple[Site, _Wide]] = {}
        self.full = pc.zero(subject.model, site.choice)
        self.fresh = site.holding(subject.fresh)
        self.fresh_full = pc.zero(planted(subject.model, subject.fresh), site.choice)
        self.exact = _Exact(self.full, site.subnet, subject.inputs(), seed, 0)
        self.wide = _Wide(_traced(self.full, site.subnet), site.subnet, subject.inputs())
        self.native = _Native(self.full, site, subject.inputs(), _close)
        self.oto = _Native(self.fresh_full, self.fresh, subject.inputs(), within_oto)

    @cached_property
    def again(self) -> _Exact:
        """Another prime, other functions, another input: the second round of L2.random-50."""
        return _Exact(self.full, self.site.subnet, self.subject.inputs(1), self.seed, 1)

    def answer(self, kind: Kind, again: int, mutant: Mutant) -> Answer:
        wide = self.wide.equal(mutant)
        gate = "field" if not self.exact.equal(mutant) else "float64" if not wide else ""
        if not gate and not self.again.equal(mutant):
            gate = "field, second round"
        same = kind.plant(self.fresh, np.random.default_rng(again))
        # A fault that changes no bit of a fresh net cannot be seen in it.
        fresh = same is None or not same.changes(self.fresh) or self.oto.equal(same)
        return Answer(gate, not wide, not self.native.equal(mutant), not fresh)

    # -- no faults -----------------------------------------------------------------------------

    def no_fault(self, kind: Kind, again: int, mutant: Mutant) -> str:
        """`unread`, `same function`, or '' where nothing shows that the mutant is none."""
        if self.unread(mutant):
            return "unread"
        if self.same_function(kind, again):
            return "same function"
        return ""

    def unread(self, mutant: Mutant) -> bool:
        """Whether no output depends on the entries that changed: NaN there reaches none of them."""
        if mutant.rewrite is not None or mutant.apart or any(not t.is_floating_point() for t in mutant.state.values()):
            return False
        poisoned = {}
        for name, wrong in mutant.state.items():
            right = self.site.right(name)
            if wrong.shape != right.shape:
                return False
            poisoned[name] = torch.where(wrong != right, torch.full_like(right, torch.nan), right)
        found = tensors_in(self.wide.outputs(Mutant(mutant.where, poisoned)))
        return not any(tensor.is_floating_point() and tensor.isnan().any() for tensor in found)

    def same_function(self, kind: Kind, again: int) -> bool:
        """Whether the same mistake, made large, is none in float64 whatever the weights and inputs are.

        What cancels does so for every draw: an exchange of two equals, a shift that statistics take out.
        """
        looked = 0
        for site, wide in map(self._redrawn, range(len(SIZES))):
            mutant = kind.plant(site, np.random.default_rng(again))
            if mutant is None or not wide.finite:
                continue
            looked += 1
            louder = _louder(site, mutant) if kind.small else mutant
            if not wide.equal(louder):
                return False
        return looked > 0

    def _redrawn(self, number: int) -> tuple[Site, _Wide]:
        if number not in self._nets:
            site = self.site.holding(redrawn(self.site.full, number, SIZES[number]))
            draw = 0 if number % 4 < 2 else number  # what the judges were given, and others
            self._nets[number] = site, _Wide(site.subnet, site.subnet, self.subject.inputs(draw))
        return self._nets[number]


def _louder(site: Site, mutant: Mutant) -> Mutant:
    """The same change with its largest entry at 1, or as the kind of fault makes it large."""
    state = {}
    for name, wrong in mutant.state.items():
        change = wrong.double() - site.right(name).double()
        largest = float(change.abs().max())
        state[name] = site.right(name).double() + (change / largest if largest else change)
    return Mutant(mutant.where, state, mutant.louder or mutant.rewrite, mutant.apart)


def redrawn(full: State, seed: int, size: float) -> dict[str, torch.Tensor]:
    """Other values: parameters `size` times as large and of either sign, so that what never fired may now.

    Statistics keep their signs and size; tied tensors stay tied.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, torch.Tensor] = {}
    for tensor in full.values():
        if id(tensor) in made or not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            continue
        own = isinstance(tensor, torch.nn.Parameter)
        factor = size if own else 1.0
        if tensor.ndim < 2:
            noise = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            flips = own & (torch.rand(tensor.shape, generator=generator) < 0.5)
            values = tensor.detach() * torch.where(flips, -noise, noise)
        else:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            values = noise * tensor.detach().double().square().mean().sqrt()
        made[id(tensor)] = (factor * values).to(tensor.dtype)
    return {name: made.get(id(tensor), tensor) for name, tensor in full.items()}
