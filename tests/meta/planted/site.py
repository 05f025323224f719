"""A correct subnet beside the model it was cut from, and mutants of it: the subnet with one fault.

A kind of fault is a function of a site and a random generator. It looks at names, shapes and the
selection only, never at values, so the same generator plants the same fault at the same place in
the same net with other weights: `Site.holding` gives that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

import conformance as pc
from conformance.backend import Backend, Inputs, collections
from conformance.partition.groups import Labels
from conformance.subnet.state import sliced, tensor_at

State = Mapping[str, torch.Tensor]
Rewrite = Callable[[torch.nn.Module], torch.nn.Module]


@dataclass(frozen=True)
class Subject:
    """A model of the zoo with everything redrawn that would hide a fault, and its groups.

    fresh is the state of the model as its library initialises it, by name.
    """

    backend: Backend
    model: torch.nn.Module
    fresh: State
    groups: pc.Groups

    @classmethod
    def of(cls, spec: str, shape: tuple[int, ...] | None = None) -> Subject:
        prefix, _, name = spec.partition(":")
        backend = collections()[prefix].get(name, shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = backend.build().eval()
        model = pc.randomised(built, 0)
        groups = pc.partition(pc.trace(model, *backend.inputs(2, torch.Generator().manual_seed(0))))
        fresh = state_of(built)
        return cls(backend, model, {name: fresh[name] for name in groups.graph.names}, groups)

    def inputs(self, draw: int = 0, batch: int = 2) -> Inputs:
        """Example inputs; `draw` numbers independent ones, 0 are those the groups were traced with."""
        return self.backend.inputs(batch, torch.Generator().manual_seed(draw))


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under every name it has."""
    found = {name: p.detach() for name, p in module.named_parameters(remove_duplicate=False)}
    return found | dict(module.named_buffers(remove_duplicate=False))


@dataclass(frozen=True)
class Site:
    """A correct subnet: what a fault is planted in. full is the whole model's state by name."""

    choice: pc.Selection
    full: State
    subnet: torch.nn.Module
    calls: Mapping[str, list[int]] = field(default_factory=dict, repr=False)

    @property
    def groups(self) -> pc.Groups:
        return self.choice.groups

    def holding(self, full: State) -> Site:
        """The same selection of the same net with other weights and statistics."""
        state = {name: sliced(tensor, self.choice, self.index(name)) for name, tensor in full.items()}
        own = state_of(self.subnet)
        same = {name: tensor for name, tensor in state.items() if name in own}
        return replace(self, full=full, subnet=planted(self.subnet, same))

    # -- places --------------------------------------------------------------------------------

    def index(self, name: str) -> int:
        return self.groups.graph.names[name]

    def tensors(self, kind: str = "") -> list[str]:
        """First names of the state that the subnet has: of `parameter`s, of `buffer`s or of both."""
        values, own = self.groups.graph.values, dict(self.subnet.named_parameters(remove_duplicate=False))
        own |= dict(self.subnet.named_buffers(remove_duplicate=False))
        owners = self.groups.graph.owners()
        return [
            names[0]
            for index, names in owners.items()
            if names[0] in own and (not kind or values[index].kind == kind) and own[names[0]].numel()
        ]

    def floating(self, kind: str = "") -> list[str]:
        return [name for name in self.tensors(kind) if self.full[name].is_floating_point()]

    @cached_property
    def cut(self) -> list[tuple[str, int]]:
        """Dimensions of the state from which something was removed."""
        return [
            (name, dim)
            for name in self.tensors()
            for dim, labels in enumerate(self.labels(name))
            if self.kept(name, dim).size < labels.size
        ]

    @cached_property
    def producers(self) -> list[tuple[str, int]]:
        return [(name, dim) for name, dim in self.cut if (self.index(name), dim) in self.groups.producer_dims]

    @cached_property
    def consumers(self) -> list[tuple[str, int]]:
        return [(name, dim) for name, dim in self.cut if (self.index(name), dim) in self.groups.consumer_dims]

    def labels(self, name: str) -> list[Labels]:
        """The group of each position, for each dimension."""
        return self.groups.dims[self.index(name)]

    def kept(self, name: str, dim: int) -> np.ndarray:
        return self.choice.kept(self.index(name), dim)

    # -- tensors -------------------------------------------------------------------------------

    def right(self, name: str) -> torch.Tensor:
        """The subnet's tensor as it should be."""
        return tensor_at(self.subnet, name).detach()

    def taking(self, name: str, dim: int, positions: np.ndarray, full: torch.Tensor | None = None) -> torch.Tensor:
        """The full model's tensor, cut as it should be but for one dimension."""
        tensor = (self.full[name] if full is None else full).detach()
        for at in range(tensor.ndim):
            kept = positions if at == dim else self.kept(name, at)
            tensor = tensor.index_select(at, torch.from_numpy(kept.copy()))
        return tensor


@dataclass(frozen=True)
class Mutant:
    """One fault: tensors that are replaced, or a rewriting of the module, or both.

    apart: the replaced tensor goes under this one name, though it is tied to others. louder: the same
    rewriting with a larger mistake, for kinds that are small.
    """

    where: str
    state: State = field(default_factory=dict)
    rewrite: Rewrite | None = None
    apart: bool = False
    louder: Rewrite | None = None

    def changes(self, site: Site) -> bool:
        """Whether anything at all is different: a tensor with the same bits is no fault."""
        return self.rewrite is not None or any(
            tensor.shape != site.right(name).shape or not torch.equal(tensor, site.right(name))
            for name, tensor in self.state.items()
        )


def planted(
    module: torch.nn.Module,
    fault: Mutant | State,
    convert: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> torch.nn.Module:
    """A copy of the module with the fault in it, which shares all other parameters' memory.

    convert brings replaced tensors to the form of the module's own (residues, float64).
    """
    mutant = fault if isinstance(fault, Mutant) else Mutant("", fault)
    wrong = {} if mutant.apart else {id(tensor_at(module, name)): convert(t) for name, t in mutant.state.items()}
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = torch.nn.Parameter(wrong.get(id(parameter), parameter.detach()), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = wrong.get(id(buffer), buffer.detach()).clone()
    for part in module.modules():  # programs of traced operations are replaced, never written to
        held = (vars(part).get(name) for name in ("_program", "_last_use", "call", "traced"))
        memo |= {id(value): value for value in held if value is not None}
    twin = copy.deepcopy(module, memo)
    if mutant.apart:
        for name, tensor in mutant.state.items():
            path, _, leaf = name.rpartition(".")
            twin.get_submodule(path)._parameters[leaf] = torch.nn.Parameter(convert(tensor), requires_grad=False)
    return mutant.rewrite(twin) if mutant.rewrite else twin


Plant = Callable[[Site, np.random.Generator], Mutant | None]


@dataclass(frozen=True)
class Kind:
    """A kind of fault. fires names the oracle that must find it; plant returns None where it has no place.

    small: the fault is one of size, so the same fault made large shows whether its place matters at all.
    """

    name: str
    what: str
    fires: str
    plant: Plant
    small: bool = False


KINDS: dict[str, Kind] = {}


def kind(name: str, what: str, *, fires: str = "field", small: bool = False) -> Callable[[Plant], Plant]:
    """Register a function as a kind of fault. Raises ValueError when the name is taken."""

    def register(plant: Plant) -> Plant:
        if name in KINDS:
            raise ValueError(f"two kinds of fault are named {name!r}")
        KINDS[name] = Kind(name, what, fires, plant, small)
        return plant

    return register


def one_of(rng: np.random.Generator, places: list) -> object | None:
    """One of the places at random; None when there is none."""
    return places[rng.integers(len(places))] if places else None


def mutants(site: Site, seed: int, kinds: tuple[str, ...] = ()) -> Iterator[tuple[Kind, int, Mutant]]:
    """Endless mutants of a site with the seed that plants each again; every kind that has a place takes its turn.

    A kind that changed nothing in several tries has no place.
    """
    rng = np.random.default_rng(seed)
    open_kinds = [KINDS[name] for name in kinds or KINDS]
    rng.shuffle(open_kinds)
    while open_kinds:
        for one in tuple(open_kinds):
            for _ in range(5):
                again = int(rng.integers(2**32))
                mutant = one.plant(site, np.random.default_rng(again))
                if mutant is not None and mutant.changes(site):
                    yield one, again, mutant
                    break
            else:
                open_kinds.remove(one)
