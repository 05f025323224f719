"""Faults planted in correct subnets: what a wrong extraction, or a wrong pruning method, leaves behind.

Every fault replaces one state tensor of the subnet. Kinds:
    ulp         one weight moved by one unit in the last place
    nan         one entry not a number
    swap        two kept channels exchanged in one of the tensors that share them
    drop        one entry of a bias zeroed
    first       the first positions of a dimension in place of the chosen ones
    shift       every chosen position off by one
    column      one chosen position of a consumer replaced by a removed one
    statistic   running statistics of the first channels in place of the chosen ones
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import conformance as pc
from conformance.backend import Backend, Inputs, collections
from conformance.equivalence.compare import residues
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.modulus import Field
from conformance.graph.tape import tensors_in
from conformance.subnet.state import tensor_at

FIELD = Field(seed=1)


def backend_of(spec: str, shape: tuple[int, ...] | None = None) -> Backend:
    prefix, _, name = spec.partition(":")
    return collections()[prefix].get(name, shape)


@dataclass(frozen=True)
class Subject:
    """A zoo model with everything redrawn that would hide a fault, and its groups."""

    model: torch.nn.Module
    inputs: Inputs
    groups: pc.Groups

    @classmethod
    def of(cls, spec: str, shape: tuple[int, ...] | None = None) -> Subject:
        backend = backend_of(spec, shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = pc.randomised(backend.build().eval(), 0)
        inputs = backend.inputs(2, torch.Generator().manual_seed(0))
        return cls(model, inputs, pc.partition(pc.trace(model, *inputs)))


@dataclass(frozen=True)
class Fault:
    """One replaced state tensor. louder is the same mistake made large, for kinds that are small."""

    kind: str
    name: str
    wrong: torch.Tensor
    louder: torch.Tensor


class Plant:
    """Draws faults for one subnet."""

    def __init__(self, subject: Subject, choice: pc.Selection, subnet: torch.nn.Module, seed: int) -> None:
        self.subject, self.choice, self.subnet = subject, choice, subnet
        self.rng = np.random.default_rng(seed)
        self.parameters = {name: p.detach() for name, p in subnet.named_parameters() if p.is_floating_point()}
        self.statistics = {
            name: b for name, b in subnet.named_buffers() if name.endswith(("running_mean", "running_var"))
        }
        kinds: dict[str, Callable[[], Fault | None]] = {
            "ulp": self.ulp, "nan": self.nan, "swap": self.swap, "drop": self.drop, "first": self.first,
            "shift": self.shift, "column": self.column, "statistic": self.statistic,
        }  # fmt: skip
        self.biases = [name for name in self.parameters if "bias" in name.rpartition(".")[2]]
        self.cut = self._cut(self.parameters)
        self.cut_statistics = self._cut(self.statistics)
        missing = {"drop": not self.biases, "statistic": not self.cut_statistics, "column": not self._consumers()}
        self.kinds = {kind: draw for kind, draw in kinds.items() if not missing.get(kind, False)}

    def draw(self) -> Fault:
        """A fault that changes at least one bit."""
        while True:
            kind = str(self.rng.choice(list(self.kinds)))
            fault = self.kinds[kind]()
            if fault is not None and not torch.equal(fault.wrong, tensor_at(self.subnet, fault.name)):
                return fault

    # -- the kinds -----------------------------------------------------------------------------

    def ulp(self) -> Fault:
        name, old, at = self._element()
        wrong, louder = old.clone(), old.clone()
        wrong.view(-1)[at] = torch.nextafter(old.view(-1)[at], torch.tensor(math.inf, dtype=old.dtype))
        louder.view(-1)[at] += 1
        return Fault("ulp", name, wrong, louder)

    def nan(self) -> Fault:
        name, old, at = self._element()
        wrong = old.clone()
        wrong.view(-1)[at] = math.nan
        return Fault("nan", name, wrong, wrong)

    def drop(self) -> Fault:
        name = str(self.rng.choice(self.biases))
        wrong = self.parameters[name].clone()
        wrong.view(-1)[self.rng.integers(wrong.numel())] = 0
        return Fault("drop", name, wrong, wrong)

    def swap(self) -> Fault | None:
        name, dim = self._axis(self.cut)
        old = self.parameters[name]
        if old.shape[dim] < 2:
            return None
        i, j = self.rng.choice(old.shape[dim], 2, replace=False)
        order = torch.arange(old.shape[dim])
        order[[i, j]] = order[[j, i]]
        wrong = old.index_select(dim, order)
        return Fault("swap", name, wrong, wrong)

    def first(self) -> Fault:
        name, dim = self._axis(self.cut)
        return self._other_positions("first", name, dim, np.arange(self.parameters[name].shape[dim]))

    def shift(self) -> Fault:
        name, dim = self._axis(self.cut)
        kept = self.choice.kept(self._index(name), dim)
        return self._other_positions("shift", name, dim, (kept + 1) % self._full_size(name, dim))

    def column(self) -> Fault:
        name, dim = self._axis(self._consumers())
        positions = self.choice.kept(self._index(name), dim).copy()
        removed = np.setdiff1d(np.arange(self._full_size(name, dim)), positions)
        positions[self.rng.integers(positions.size)] = self.rng.choice(removed)
        return self._other_positions("column", name, dim, positions)

    def statistic(self) -> Fault:
        name, dim = self._axis(self.cut_statistics)
        return self._other_positions("statistic", name, dim, np.arange(self.statistics[name].shape[dim]))

    # -- helpers -------------------------------------------------------------------------------

    def _index(self, name: str) -> int:
        return self.subject.groups.graph.names[name]

    def _full_size(self, name: str, dim: int) -> int:
        return self.subject.groups.graph.values[self._index(name)].shape[dim]

    def _cut(self, tensors: dict[str, torch.Tensor]) -> list[tuple[str, int]]:
        """Dimensions from which something was removed."""
        return [
            (name, dim)
            for name, tensor in tensors.items()
            for dim, size in enumerate(tensor.shape)
            if size != self._full_size(name, dim)
        ]

    def _consumers(self) -> list[tuple[str, int]]:
        readers = self.subject.groups.consumer_dims
        return [(name, dim) for name, dim in self.cut if (self._index(name), dim) in readers]

    def _axis(self, among: list[tuple[str, int]]) -> tuple[str, int]:
        return among[self.rng.integers(len(among))]

    def _element(self) -> tuple[str, torch.Tensor, int]:
        name = str(self.rng.choice(list(self.parameters)))
        old = self.parameters[name]
        return name, old, int(self.rng.integers(old.numel()))

    def _other_positions(self, kind: str, name: str, dim: int, positions: np.ndarray) -> Fault:
        """The full model's tensor, cut as it should be but for one dimension."""
        tensor = tensor_at(self.subject.model, name).detach()
        for at in range(tensor.ndim):
            kept = positions if at == dim else self.choice.kept(self._index(name), at)
            tensor = tensor.index_select(at, torch.from_numpy(kept))
        return Fault(kind, name, tensor, tensor)


class Judge:
    """Compares one subnet with faults in it with its full model; the full model runs only once."""

    def __init__(self, subject: Subject, choice: pc.Selection, subnet: torch.nn.Module) -> None:
        self.subject, self.subnet = subject, subnet
        self.full = pc.zero(subject.model, choice)
        self.given = residues(subject.inputs, FIELD, seed=1)
        self.expected = tensors_in(field_mode.run(self.full, *self.given, FIELD)[0])
        self.twin = copy.deepcopy(field_mode.embedded(subnet, FIELD))  # its own residues: they are written to

    def equal(self, fault: Fault | None) -> bool:
        """Whether the exact oracle finds no difference."""
        if fault is None:
            return self._runs_equal()
        if fault.wrong.isnan().any():  # refused before anything runs
            return pc.equivalent(self.full, self.mutant(fault, fault.wrong), *self.subject.inputs, oracle="field").equal
        held = tensor_at(self.twin, fault.name).data
        right = held.clone()
        held.copy_(FIELD.embed(fault.wrong))
        try:
            return self._runs_equal()
        finally:
            held.copy_(right)

    def _runs_equal(self) -> bool:
        found = tensors_in(field_mode.execute(self.twin, *self.given, FIELD)[0])
        return all(torch.equal(a, b) for a, b in zip(self.expected, found, strict=True))

    def mutant(self, fault: Fault, tensor: torch.Tensor) -> torch.nn.Module:
        """The subnet with the fault in its weights."""
        mutant = copy.deepcopy(self.subnet)
        tensor_at(mutant, fault.name).data.copy_(tensor)
        return mutant

    def inert(self, fault: Fault) -> bool:
        """Whether the mistake, made large, leaves the float64 results alone: then no fault was planted."""
        return pc.equivalent(
            self.subnet, self.mutant(fault, fault.louder), *self.subject.inputs, oracle="float64"
        ).equal
