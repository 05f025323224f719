"""Find the first module at which a subnet's run parts from the full model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from conformance.diagnosis.align import Event, align, events_of
from conformance.diagnosis.finding import Divergence
from conformance.diagnosis.removed import removed_in
from conformance.diagnosis.source import raised_at
from conformance.diagnosis.watch import ENTER, OPERATION, Replayed, Visitor, Watch, watched
from conformance.equivalence.compare import Arguments, arithmetic, doubled, nonfinite
from conformance.errors import ConformanceError, SelectionError, sentence
from conformance.graph.tape import Graph, Node, tensors_in
from conformance.graph.trace import trace
from conformance.partition.build import partition
from conformance.partition.selection import Selection
from conformance.subnet.norm_module import with_traced_norms
from conformance.subnet.state import check_state, sliced, tensor_at
from conformance.subnet.tape_module import GraphSubnet, tape_of


class NotLocated(ConformanceError):  # noqa: N818 - reads as the answer it is
    """No module could be named; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Two models, what they are compared on and how.

    choice says what the subnet lacks, None that this is to be read off the zeros of the full model.
    number is the round of the field oracle, seed that of its inputs and functions.
    """

    full: torch.nn.Module
    subnet: torch.nn.Module
    given: Arguments
    choice: Selection | None = None
    oracle: str = "field"
    seed: int = 0
    number: int = 0


def locate(comparison: Comparison, *, room: int = 1 << 28) -> Divergence:
    """The first module whose inputs agree and whose result does not, in the verdict's own arithmetic.

    Both models run again; up to `room` bytes of values are kept at a time, and where that is too little they
    run several times. Neither model nor the random generator is changed. Raises NotLocated, saying why.
    """
    choice = _fitting(comparison)
    graph = choice.groups.graph
    whole = GraphSubnet(dataclasses.replace(graph, model=comparison.full), choice.groups.select([]))
    events = events_of(graph)
    refused = nonfinite(comparison.subnet)
    if refused and comparison.oracle == "field":
        return _holding(comparison, choice, refused)
    run, agree = arithmetic(comparison.oracle, comparison.full, comparison.given, comparison.seed, comparison.number)
    first = 0
    while True:
        watch = Watch(first, room)
        raised = _run(lambda: run(watched(comparison.subnet, watch)))  # noqa: B023 - called at once
        pairs = align(graph, events, watch.moments)
        if not pairs and raised is None:
            raise NotLocated("the subnet runs other operations than the full model: no module can be compared")
        look = _Look(choice, events, pairs, watch, agree)
        failed = _run(lambda: run(Replayed(whole, Visitor(look.visit))))  # noqa: B023 - called at once
        if failed is not None:
            raise NotLocated(f"the traced graph of the full model does not run: {sentence(failed)}")
        if look.found:
            at = min(look.found)
            return _divergence(comparison, choice, events, at, look.found[at])
        if watch.end is None:
            break
        first = watch.end
    if raised is not None:
        return _raising(comparison, choice, watch, raised)
    raise NotLocated(_NOWHERE if comparison.oracle != "gradient" else _GRADIENTS)


_NOWHERE = "every module whose result can be compared agrees with the full model's"
_GRADIENTS = "the forward pass agrees in every module: the gradients differ"


def _run(function: Callable[[], Any]) -> Exception | None:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - a model that does not run is what is looked for
        return error
    return None


def _fitting(comparison: Comparison) -> Selection:
    """The selection on a tape of the full model at the shapes of these inputs."""
    full, given = comparison.full, comparison.given
    shapes = [tuple(leaf.shape) for leaf in tensors_in(given)]
    if isinstance(comparison.subnet, GraphSubnet):  # its own tape, if it is one of this full model
        own = tape_of(comparison.subnet)[1]
        try:
            check_state(full, own.groups)
        except SelectionError:
            pass
        else:
            return own
    try:
        choice = comparison.choice
        if choice is None:
            choice = removed_in(full, comparison.subnet, given)
        check_state(full, choice.groups)
        if comparison.oracle == "float64":  # a tape holds constants of the traced dtype: a mask's minimum, an eps
            wide, args = doubled(with_traced_norms(full, comparison.subnet), given)
            return Selection.from_json(choice.to_json(), partition(trace(wide, *args)))
        if [choice.groups.graph.values[index].shape for index in choice.groups.graph.inputs] == shapes:
            return choice
        return Selection.from_json(choice.to_json(), partition(trace(full, *given)))
    except ConformanceError as error:
        raise NotLocated(str(error)) from error


@dataclass
class _Difference:
    differing: int
    elements: int
    reason: str = ""


class _Look:
    """Compares each value of the full model's replay, cut to the kept positions, with what the watch kept."""

    def __init__(
        self,
        choice: Selection,
        events: Sequence[Event],
        pairs: dict[int, int],
        watch: Watch,
        agree: Callable[[torch.Tensor, torch.Tensor], bool],
    ) -> None:
        self.choice, self.graph, self.agree = choice, choice.groups.graph, agree
        self.found: dict[int, _Difference] = {}
        self._wanted: dict[int, list[tuple[int, torch.Tensor]]] = {}
        for at, moment in pairs.items():
            seen = watch.values.get(moment)
            if seen is None or len(seen) != len(events[at].values):
                continue
            for index, tensor in zip(events[at].values, seen, strict=True):
                if tensor is not None and index >= 0:
                    self._wanted.setdefault(index, []).append((at, tensor))
        made = {index for event in events if event.kind == OPERATION for index in event.values}
        self._at_once = [index for index in self._wanted if index not in made]
        self._made = {event.node: event.values for event in events if event.kind == OPERATION}

    def visit(self, step: int, env: dict[int, Any]) -> None:
        """See `Replayed`."""
        for index in self._made[step] if step >= 0 else self._at_once:
            if index in self._wanted and isinstance(env.get(index), torch.Tensor):
                with _disable_current_modes():
                    self._compare(index, env[index])

    def _compare(self, index: int, full: torch.Tensor) -> None:
        if not full.is_floating_point():
            return
        kept = sliced(full, self.choice, index)
        for at, seen in self._wanted[index]:
            if kept.shape != seen.shape:
                reason = f"has shape {tuple(seen.shape)}, not {tuple(kept.shape)}"
                self.found.setdefault(at, _Difference(-1, kept.numel(), reason))
            elif not self.agree(kept, seen.to(kept.dtype)):
                self.found.setdefault(at, _Difference(int((kept != seen).sum()), kept.numel()))


# -- findings ----------------------------------------------------------------------------------------


def _divergence(
    comparison: Comparison, choice: Selection, events: Sequence[Event], at: int, difference: _Difference
) -> Divergence:
    graph, event = choice.groups.graph, events[at]
    node = graph.nodes[event.node] if event.kind == OPERATION else None
    if event.kind == OPERATION:
        call, what = event.call, node.name.removesuffix(".default")  # type: ignore[union-attr]
    elif event.kind == ENTER:
        inner = graph.calls[event.call]
        call, what = inner.parent, f"what it hands to {inner.module}"
    else:
        call, what = event.call, "the output"
    module = graph.calls[call].module if call >= 0 else (node.module if node else "")
    last = node or _own_node(graph, events, at, call)
    source = str(last.source) if last is not None and last.source else ""
    return _named(comparison, choice, module, call, what, source, difference)


def _own_node(graph: Graph, events: Sequence[Event], at: int, call: int) -> Node | None:
    """The last operation in the code of a call before an event."""
    for event in reversed(events[:at]):
        if event.kind == OPERATION and event.call == call:
            return graph.nodes[event.node]
    return None


def _named(
    comparison: Comparison, choice: Selection, module: str, call: int, what: str, source: str, difference: _Difference
) -> Divergence:
    graph = choice.groups.graph
    return Divergence(
        module=module,
        kind=_kind(comparison.full, module),
        call=graph.calls[call].number + 1 if call >= 0 else 1,
        calls=sum(other.module == module for other in graph.calls) or 1,
        what=what,
        source=source,
        differing=difference.differing,
        elements=difference.elements,
        reason=difference.reason,
        state=_state(comparison, choice, module),
    )


def _kind(full: torch.nn.Module, path: str) -> str:
    return type(full.get_submodule(path)).__name__


def _raising(comparison: Comparison, choice: Selection, watch: Watch, error: Exception) -> Divergence:
    """The module whose code raised: until then everything that can be compared agrees."""
    path, number = watch.open[-1] if watch.open else ("", 0)
    graph = choice.groups.graph
    call = next((at for at, c in enumerate(graph.calls) if (c.module, c.number) == (path, number)), -1)
    difference = _Difference(-1, 0, f"raised {sentence(error)}")
    return _named(comparison, choice, path, call, "its code", raised_at(error), difference)


def _holding(comparison: Comparison, choice: Selection, refused: str) -> Divergence:
    """A parameter or buffer that no exact arithmetic can take: nothing ran."""
    name, _, what = refused.partition(" ")
    module, graph = name.rpartition(".")[0], choice.groups.graph
    call = next((at for at, c in enumerate(graph.calls) if c.module == module), -1)
    return _named(comparison, choice, module, call, name, "", _Difference(-1, 0, what))


def _state(comparison: Comparison, choice: Selection, module: str) -> tuple[str, ...]:
    """The module's own parameters and buffers that are not the kept slices of the full model's."""
    found = []
    for name, index in choice.groups.graph.names.items():
        path, _, leaf = name.rpartition(".")
        if path != module:
            continue
        try:
            theirs = tensor_at(comparison.subnet, name).detach()
        except (AttributeError, SelectionError):  # the subnet keeps its state elsewhere
            continue
        ours = sliced(tensor_at(comparison.full, name), choice, index)
        if ours.shape != theirs.shape:
            found.append(f"{leaf} has shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        elif wrong := int(((ours != theirs) & ~(ours.isnan() & theirs.isnan())).sum()):
            found.append(f"{leaf} differs in {wrong} of {ours.numel()} elements")
    return tuple(found)
