"""The model under test as checks see it: randomised, traced, partitioned, with pairs on demand."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.backend import Backend, Inputs
from conformance.checks.registry import CheckFailed, CheckUnsupported
from conformance.diagnosis.locate import Comparison
from conformance.equivalence.compare import equivalent
from conformance.equivalence.verdict import Status, Verdict
from conformance.graph.tape import Graph
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection
from conformance.partition.words import from_words
from conformance.randomise import randomised
from conformance.subnet.extract import GRAPH, Candidate, candidates
from conformance.subnet.tape_module import GraphSubnet
from conformance.subnet.zero import zero

BATCH, OTHER_BATCH = 2, 3


@dataclass(frozen=True)
class Pair:
    """A selection's zeroed model and subnet, with the exact oracle's verdict on the traced inputs."""

    choice: Selection
    full: torch.nn.Module
    subnet: Candidate
    verdict: Verdict


def traits(model: torch.nn.Module) -> dict[str, str]:
    """What must stay as it is: a digest of every parameter and buffer, and every module's training mode."""
    state = [*model.named_parameters(), *model.named_buffers()]
    digests = {name: digest(tensor) for name, tensor in state}
    return digests | {
        f"the training mode of {name or 'the whole'}": str(m.training) for name, m in model.named_modules()
    }


def digest(tensor: torch.Tensor) -> str:
    """Changes with any bit; a copy of the tensor would cost memory."""
    held = tensor.detach().cpu().contiguous()
    seen = hashlib.sha256(held.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
    return f"{held.dtype}{tuple(held.shape)}{seen}"


@dataclass
class Subject:
    """One model under test. kinds counts which kind of subnet each selection ended as.

    given is a selection that checks take in place of the ones they would draw, as a user named it in words;
    chosen is the one last taken.
    """

    backend: Backend
    model: torch.nn.Module
    seed: int
    device: str = "cpu"
    command: str = ""
    given: Selection | None = None
    words: tuple[str, ...] = ()
    chosen: Selection | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    _before: dict[str, str] = field(default_factory=dict)
    _pairs: dict[tuple[str, tuple[int, ...]], Pair] = field(default_factory=dict)
    _inputs: dict[tuple[int, int], Inputs] = field(default_factory=dict)

    def inputs(self, batch: int = BATCH, draw: int = 0) -> Inputs:
        """Example inputs of a batch size; `draw` numbers independent ones."""
        key = (batch, draw)
        if key not in self._inputs:
            generator = torch.Generator().manual_seed(1000 * self.seed + draw)
            dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
            self._inputs[key] = pytree.tree_map_only(
                torch.Tensor,
                lambda leaf: leaf.to(self.device, dtype if leaf.is_floating_point() else None),
                self.backend.inputs(batch, generator),
            )
        return self._inputs[key]

    @cached_property
    def graph(self) -> Graph:
        """The traced model."""
        return trace(self.model, *self.inputs())

    @cached_property
    def groups(self) -> Groups:
        """Its partition."""
        return partition(self.graph)

    def sample(self, fraction: float, seed: int, **which: Any) -> Selection:
        """As `Groups.sample`; of a given selection the groups of the wanted kinds and modes."""
        if self.given is None:
            self.chosen = self.groups.sample(fraction, seed, **which)
            return self.chosen
        kinds, modes = which.get("kinds") or self.groups.kinds, which.get("modes", self.groups.modes)
        fitting = [n for n in self.given.removed if self.groups.kinds[n] in kinds and self.groups.modes[n] in modes]
        self.chosen = self.groups.select(fitting)
        return self.chosen

    def take(self, choice: Selection) -> Selection:
        """The selection that a check made itself, noted for a diagnosis; a given one takes its place."""
        self.chosen = choice if self.given is None else self.given
        return self.chosen

    def take_of(self, groups: Groups, choice: Selection) -> Selection | None:
        """As `take`, for a selection of another partition of the model; None when the given one is not of it."""
        if self.given is not None and self.given.groups.carry == self.groups.carry:
            choice = from_words(self.words, groups)
        elif self.given is not None:
            if self.given.groups.fingerprint != groups.fingerprint:
                return None
            choice = self.given
        self.chosen = choice
        return choice

    def with_given(self, choice: Selection | None) -> Subject:
        """The same subject for checks of this selection only; it shares the model, inputs and groups."""
        twin = copy.copy(self)
        twin.given, twin.chosen, twin.kinds, twin._pairs = choice, None, {}, {}
        return twin

    def pair(self, choice: Selection) -> Pair:
        """The zeroed model and the best subnet of a selection; each selection is built once."""
        if not self._before:
            self._before = traits(self.model)
        key = choice.groups.fingerprint, choice.removed
        if key not in self._pairs:
            self._pairs.clear()  # one pair at a time: it holds two copies of the model
            full = zero(self.model, choice)
            made = self._build(choice, full)
            self._pairs[key] = made
            self.kinds[made.subnet.kind] = self.kinds.get(made.subnet.kind, 0) + 1
        return self._pairs[key]

    def _build(self, choice: Selection, full: torch.nn.Module) -> Pair:
        verdict = Verdict(Status.DIFFERENT, "field", "no subnet could be built")
        last = None
        for candidate in candidates(self.model, choice):
            last = candidate
            verdict = equivalent(full, candidate.module, *self.inputs(), oracle="field", seed=self.seed)
            if verdict.status is not Status.DIFFERENT:  # the model itself cannot be decided: no candidate can
                break
        if last is None:
            raise CheckFailed(verdict.reason)
        return Pair(choice, full, last, verdict)

    def touched(self) -> str:
        """What of the original is not as it was before the first pair was made; '' where all is."""
        now = traits(self.model)
        return next((name for name in {**self._before, **now} if self._before.get(name) != now.get(name)), "")

    def at(self, pair: Pair, batch: int, draw: int) -> torch.nn.Module:
        """The pair's subnet for inputs of another batch: a graph subnet is traced again for them."""
        if pair.subnet.kind != GRAPH or batch == BATCH:
            return pair.subnet.module
        graph = trace(self.model, *self.inputs(batch, draw))
        groups = partition(graph, carry=pair.choice.groups.carry)
        text = pair.choice.to_json().replace(pair.choice.groups.fingerprint, groups.fingerprint)
        return GraphSubnet(graph, Selection.from_json(text, groups))

    def require(self, verdict: Verdict, choice: Selection, what: str, compared: Comparison | None = None) -> int:
        """Turn a verdict into a count of comparisons, CheckFailed or CheckUnsupported.

        compared says what was compared where it is not the selection's pair on the traced inputs.
        """
        if verdict.equal:
            return verdict.compared
        details: dict[str, Any] = {
            "selection_size": len(choice),
            "oracle": verdict.oracle,
            "selection": _named(choice),
            "repeat": self.command,
        }
        if verdict.max_abs is not None:
            details["max_abs"] = verdict.max_abs
        what = what if self.given is None else f"{what}, of the given groups only"
        text = f"{what}: {verdict.status.value} by the {verdict.oracle} oracle: {verdict.reason}"
        if verdict.status is Status.UNSUPPORTED:
            raise CheckUnsupported(text, **details)
        raise CheckFailed(
            text,
            comparison=compared or self._comparison(verdict, choice),
            kind=f"{verdict.oracle}: {verdict.kind}",
            **details,
        )

    def _comparison(self, verdict: Verdict, choice: Selection) -> Comparison | None:
        pair = self._pairs.get((choice.groups.fingerprint, choice.removed))
        if pair is None:
            return None
        return Comparison(pair.full, pair.subnet.module, self.inputs(), choice, verdict.oracle, self.seed)


def _named(choice: Selection) -> Any:
    """Which slices a selection removes, or how many groups when those are many."""
    if not choice.removed:
        return "nothing"
    return choice.slices() if len(choice) <= 16 else f"{len(choice)} groups"


def prepare(backend: Backend, seed: int, device: str, dtype: str | None) -> Subject:
    """Build and randomise the model of a backend in a forked random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = backend.build()
    model = randomised(model.eval(), seed)
    if dtype:
        model = model.to(getattr(torch, dtype))
    return Subject(backend, model.to(device), seed, device)
