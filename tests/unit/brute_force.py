"""The oracle of the rules: run every operation on the reduced tensors and compare.

A partition claims that removing a group commutes with every operation of the tape: cutting the
operands and running the operation gives what running it on the whole operands and cutting the
result gives. Here that is simply tried, operation by operation, on float64 numbers. Nothing of the
rules is used but the labels they ended in.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from conformance.graph.tape import Graph, Node, Ref, Value, refs, replace
from conformance.partition import build
from conformance.partition.groups import CONSUMERS, Groups
from conformance.partition.labels import Facts, Labels, Pass
from conformance.partition.propagate import propagate, state_labels
from conformance.partition.resolve import CARRIES, resolve
from conformance.partition.rules import RULES, base_name
from conformance.partition.selection import Selection
from conformance.subnet.state import tensor_at
from conformance.subnet.tape_module import GraphSubnet, _program
from conformance.subnet.zero import zero

aten = torch.ops.aten
TOLERANCE = 1e-12
"""Relative to the largest number of operands and result: sums of another order differ in the last bits."""

SUMMED = {
    "mm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "bmm": ("self", "mat2"), "baddbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"), "dot": ("self", "tensor"), "vdot": ("self", "other"), "linear": ("input", "weight"),
    "convolution": ("input", "weight"), "_grouped_mm": ("self", "mat2"), "sum": ("self",), "nansum": ("self",),
    "mean": ("self",), "var": ("self",), "var_mean": ("self",), "native_layer_norm": ("input",), "layer_norm": ("input",),
    "rms_norm": ("input",), "_fused_rms_norm": ("input",), "native_group_norm": ("input",), "group_norm": ("input",),
    "linalg_vector_norm": ("self",), "norm": ("self",), "_weight_norm_interface": ("v",),
}  # fmt: skip
"""Operations that sum over a removable dimension: exact once any one of these operands is zero there."""


class Wrong(AssertionError):
    """What a partition claims does not hold; the message names the operation."""


class Board:
    """A graph written operation by operation, run as it is written. Parameters are its state."""

    def __init__(self, seed: int = 0) -> None:
        self.model = torch.nn.Module()
        self.generator = torch.Generator().manual_seed(seed)
        self.values: list[Value] = []
        self.reals: list[torch.Tensor] = []
        self.nodes: list[Node] = []
        self.inputs: list[int] = []
        self.names: dict[str, int] = {}

    def _add(self, real: torch.Tensor, kind: str, name: str = "") -> Ref:
        self.values.append(Value(kind, name, tuple(real.shape), real.dtype))
        self.reals.append(real)
        return Ref(len(self.values) - 1)

    def draw(self, *shape: int, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
        """Uniform float64 numbers, none of them tiny."""
        made = torch.rand(shape, generator=self.generator, dtype=torch.float64) * (high - low) + low
        return torch.where(made.abs() < 0.05, made.sign() * 0.05 + made, made)

    def param(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Ref:
        """A parameter: a label of its own for every position."""
        name = f"p{len(self.names)}"
        made = torch.nn.Parameter(self.draw(*shape, low=low, high=high), requires_grad=False)
        self.model.register_parameter(name, made)
        ref = self._add(made, "parameter", name)
        self.names[name] = ref.index
        return ref

    def statistic(self, *shape: int) -> Ref:
        """A buffer of positive numbers."""
        name = f"b{len(self.names)}"
        self.model.register_buffer(name, self.draw(*shape, low=0.5, high=1.5))
        ref = self._add(getattr(self.model, name), "buffer", name)
        self.names[name] = ref.index
        return ref

    def given(self, real: torch.Tensor) -> Ref:
        """An input of the model: FIXED."""
        ref = self._add(real, "input")
        self.inputs.append(ref.index)
        return ref

    def act(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Ref:
        """An activation whose every position is free, and zero once its groups are zero."""
        made: Ref = self.op(
            aten.mul.Tensor, self.given(torch.ones((), dtype=torch.float64)), self.param(*shape, low=low, high=high)
        )
        return made

    def unit(self, *shape: int) -> Ref:
        """An activation of numbers between 0.2 and 0.9, where every function is defined."""
        return self.act(*shape, low=0.2, high=0.9)

    def op(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one operation and write it down; tensors are given and returned as Refs."""
        real_args, real_kwargs = replace((args, kwargs), lambda ref: self.reals[ref.index].clone())
        torch.default_generator.manual_seed(len(self.nodes))
        outputs = self._results(op(*real_args, **real_kwargs))
        self.nodes.append(Node(len(self.nodes), op, args, kwargs, outputs, "", None))
        return outputs

    def _results(self, result: Any) -> Any:
        if isinstance(result, torch.Tensor):
            return self._add(result, "result")
        return tuple(self._results(item) for item in result)

    def graph(self, results: Any, *, strict: bool) -> Graph:
        """The graph that ends in one number a result.

        strict: the plain sum, exact only where a removed slice is zero. Else the sum of the products
        with a further parameter, which silences what is not zero.
        """
        outputs = [self._head(Ref(index), strict=strict) for index in refs(results) if self.values[index].shape]
        outputs += [Ref(index) for index in refs(results) if not self.values[index].shape]
        return Graph(
            model=self.model, args=tuple(self.reals[index] for index in self.inputs), kwargs={}, values=tuple(self.values),
            nodes=tuple(self.nodes), names=dict(self.names), inputs=tuple(self.inputs),
            outputs=tuple(ref.index for ref in outputs), output_tree=tuple(outputs), device="real",
        )  # fmt: skip

    def _head(self, ref: Ref, *, strict: bool) -> Ref:
        if self.values[ref.index].dtype.is_complex:
            ref = self.op(aten.view_as_real.default, ref)
        elif not self.values[ref.index].dtype.is_floating_point:
            ref = self.op(aten._to_copy.default, ref, dtype=torch.float64)
        if not strict:
            ref = self.op(aten.mul.Tensor, ref, self.act(*self.values[ref.index].shape))
        made: Ref = self.op(aten.sum.default, ref)
        return made


# -- running ---------------------------------------------------------------------------------------


def steps(
    graph: Graph, model: torch.nn.Module, inputs: list[torch.Tensor]
) -> Iterator[tuple[Node, dict[int, Any], Any]]:
    """Run the tape on real tensors: each node, its operands before it ran, and its result."""
    env: dict[int, Any] = {
        index: tensor_at(model, names[0]).detach().clone() for index, names in graph.owners().items()
    }
    env |= {index: tensor.clone() for index, tensor in graph.constants.items()}
    env |= {index: tensor.clone() for index, tensor in zip(graph.inputs, inputs, strict=True)}
    for node in graph.nodes:
        operands = {index: env[index] for index in refs((node.args, node.kwargs))}
        if node.op._schema.is_mutable:
            operands = {index: tensor.clone() for index, tensor in operands.items()}
        args, kwargs = replace((node.args, _on_cpu(node.kwargs)), lambda ref: env[ref.index])
        torch.default_generator.manual_seed(node.index)
        result = node.op(*args, **kwargs)
        for ref, made in _pairs(node.outputs, result):
            env[ref] = made
        yield node, operands, result


def live(graph: Graph) -> set[int]:
    """Values that something reads. Others may differ between devices (saved statistics of a batch norm)."""
    return {*graph.outputs, *(index for node in graph.nodes for index in refs((node.args, node.kwargs)))}


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") is not None else kwargs


def _pairs(outputs: Any, result: Any) -> Iterator[tuple[int, torch.Tensor]]:
    if isinstance(outputs, Ref):
        yield outputs.index, result
    elif isinstance(outputs, (tuple, list)):
        for output, item in zip(outputs, result, strict=True):
            yield from _pairs(output, item)


def cut(choice: Selection, index: int, tensor: torch.Tensor) -> torch.Tensor:
    """The kept positions of a value."""
    for dim, labels in enumerate(choice.groups.dims[index]):
        if choice.gone[labels].any():
            tensor = tensor.index_select(dim, torch.from_numpy(choice.kept(index, dim)))
    return tensor.clone()


def silenced(choice: Selection, index: int, tensor: torch.Tensor) -> torch.Tensor:
    """The value with its removed positions at zero."""
    tensor = tensor.clone()
    for dim, labels in enumerate(choice.groups.dims[index]):
        if choice.gone[labels].any():
            tensor.index_fill_(dim, torch.from_numpy(np.flatnonzero(choice.gone[labels])), 0)
    return tensor


# -- the three oracles -----------------------------------------------------------------------------


def check_commutes(graph: Graph, choice: Selection, *, zeroed: torch.nn.Module | None = None) -> int:
    """Every operation on cut operands gives the cut result. Returns how many really had less to do.

    Operands are those of the model as it is, so that the labels alone are tried; for a sum over removed
    positions one operand is put to zero there first, each of them in turn. With `zeroed` they are those
    of the zeroed model and nothing is put to zero here: then the zeros must be where they are needed.
    """
    smaller, read = 0, live(graph)
    program = _program(graph, choice)
    for node, operands, result in steps(graph, zeroed or graph.model, _inputs(graph)):
        silencing: tuple[str, ...] | tuple[None] = SUMMED.get(base_name(node.op), (None,))
        for name in silencing if zeroed is None else (None,):
            given, whole = operands, result
            if name is not None:
                given = _with_silenced(node, choice, operands, name)
                args, kwargs = replace((node.args, node.kwargs), lambda ref, given=given: given[ref.index])
                whole = node.op(*args, **kwargs)
            _compare_step(choice, node, program[node.index], given, whole, read)
        smaller += any(choice.shape(index) != graph.values[index].shape for index in refs((node.args, node.outputs)))
    return smaller


def _inputs(graph: Graph) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves((graph.args, graph.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _with_silenced(node: Node, choice: Selection, operands: dict[int, Any], name: str) -> dict[int, Any]:
    place = [argument.name for argument in node.op._schema.arguments].index(name)
    index = node.args[place].index
    return {**operands, index: silenced(choice, index, operands[index])}


def _compare_step(
    choice: Selection, node: Node, step: tuple[Any, ...], operands: dict[int, Any], whole: Any, read: set[int]
) -> None:
    op, args, kwargs, outputs = step
    small_args, small_kwargs = replace((args, _on_cpu(kwargs)), lambda ref: cut(choice, ref.index, operands[ref.index]))
    torch.default_generator.manual_seed(node.index)
    try:
        small = op(*small_args, **small_kwargs)
    except Exception as error:
        raise Wrong(f"{node.where} does not run on the cut operands: {error}") from error
    if base_name(node.op) in _UNDEFINED:
        return
    name = base_name(node.op)
    rule = RULES.get(name)
    among = _largest(operands)
    moved = rule is not None and rule.__module__.endswith(_MOVING) and name not in _ARITHMETIC
    for (index, mine), (_, full) in zip(_pairs(outputs, small), _pairs(node.outputs, whole), strict=True):
        if index not in read:
            continue
        expected = cut(choice, index, full)
        if mine.shape != expected.shape:
            raise Wrong(f"{node.where} gives {tuple(mine.shape)}, the labels say {tuple(expected.shape)}")
        if not same(expected, mine, 0 if moved else TOLERANCE, among):
            raise Wrong(f"{node.where} on the cut operands does not give the cut result")


def _largest(operands: dict[int, Any]) -> float:
    """The largest finite number: what rounding of a sum is relative to, also where the sum cancels."""
    sizes = [t.abs().nan_to_num(0, 0, 0).max() for t in operands.values() if t.is_floating_point() and t.numel()]
    return max((float(size) for size in sizes), default=0.0)


_MOVING = (".shape", ".indexing", ".creation")
_ARITHMETIC = frozenset(
    ("glu", "col2im", "_embedding_bag", "_embedding_bag_forward_only", "_fft_r2c", "_fft_c2r", "_fft_c2c")
)
"""Families whose operations move numbers and must agree bit for bit, and their members that compute."""

_UNDEFINED = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"))


def same(expected: torch.Tensor, got: torch.Tensor, tolerance: float, among: float = 0.0) -> bool:
    """Equal up to `tolerance` times the largest of `among` and expected; infinities and NaNs in the same places."""
    if expected.dtype != got.dtype or expected.shape != got.shape:
        return False
    if not (expected.is_floating_point() or expected.is_complex()) or not tolerance:
        return (
            torch.equal(expected.nan_to_num(), got.nan_to_num())
            if expected.is_floating_point()
            else torch.equal(expected, got)
        )
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(got)):
        return False
    if not finite.any():
        return True
    scale = max(float(expected[finite].abs().max()), among)
    return float((expected[finite] - got[finite]).abs().max()) <= tolerance * max(scale, 1e-300)


def check_whole(
    graph: Graph, choice: Selection, full: torch.nn.Module, run: Callable[[torch.nn.Module], Any] | None = None
) -> None:
    """The subnet gives what the zeroed model `full` gives. `run` evaluates a model; by default its tape is run."""
    if run is None:
        whole = GraphSubnet(dataclasses.replace(graph, model=full), choice.groups.select([]))
        run = lambda _full: whole(*graph.args, **graph.kwargs)  # noqa: E731
    torch.default_generator.manual_seed(0)
    expected = run(full)
    torch.default_generator.manual_seed(0)
    got = GraphSubnet(graph, choice)(*graph.args, **graph.kwargs)
    pairs = zip(_leaves(expected), _leaves(got), strict=True)
    ends = [
        operands
        for node, operands, _ in steps(graph, full, _inputs(graph))
        if set(refs(node.outputs)) & set(graph.outputs)
    ]
    summed = max((_largest(operands) for operands in ends), default=0.0)
    for number, (one, other) in enumerate(pairs):
        if one.is_floating_point() and not torch.isfinite(one).all():
            raise Wrong(f"output {number} of the zeroed model is not finite")
        if not same(one, other, TOLERANCE, summed):
            raise Wrong(f"output {number} of the subnet differs from the zeroed model by {(one - other).abs().max()}")


def _leaves(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def zero_claims(graph: Graph, groups: Groups) -> dict[bool, dict[int, list[Labels]]]:
    """Group numbers with a sign, + where the analysis says the slice is zero; by mode `consumers` or not."""
    facts = Facts()
    collect = Pass(facts)
    state = state_labels(collect, graph)
    end = facts.size
    propagate(collect, graph, state)
    classes = resolve(facts, carry=groups.carry)
    build._hold_unused(graph, state, classes)
    first = build._number(classes, end)
    alive = np.zeros(int(first.max(initial=0)) + 1, dtype=np.int64)
    for index, lines in state.items():
        for raw, final in zip(lines, groups.dims[index], strict=True):
            alive[first[raw]] = final
    alive[0] = 0
    producers, consumers = build._mark(facts, facts.producers), build._mark(facts, facts.consumers)
    final = alive[first]
    return {
        False: build._zero_pass(facts, final, graph, state, producers)[0],
        True: build._zero_pass(facts, final, graph, state, producers | consumers)[0],
    }


def check_claims(
    graph: Graph, choice: Selection, full: torch.nn.Module, claims: dict[bool, dict[int, list[Labels]]]
) -> int:
    """Every slice said to be zero is zero in the zeroed model `full`. Returns how many claims were looked at."""
    by_reader = np.array([mode == CONSUMERS for mode in choice.groups.modes])
    looked, read = 0, live(graph)
    for node, _, result in steps(graph, full, _inputs(graph)):
        if base_name(node.op) in _UNDEFINED:
            continue
        for index, tensor in _pairs(node.outputs, result):
            for dim in range(tensor.ndim if index in read else 0):
                said = np.zeros(tensor.shape[dim], dtype=bool)
                for consumer_pass, dims in claims.items():
                    labels = dims[index][dim]
                    ours = choice.gone[np.abs(labels)] & (by_reader[np.abs(labels)] == consumer_pass)
                    said |= (labels > 0) & ours
                places = torch.from_numpy(np.flatnonzero(said))
                looked += len(places)
                if len(places) and not (tensor.index_select(dim, places) == 0).all():
                    raise Wrong(f"{node.where}: a slice of dimension {dim} is said to be zero and is not")
    return looked


# -- all together ----------------------------------------------------------------------------------


def selections(groups: Groups, *, singles: int = 4, fractions: tuple[float, ...] = (0.5, 1.0)) -> list[Selection]:
    """Some groups alone, spread evenly over their numbers, and random ones; empty without groups."""
    if not groups.count:
        return []
    # Groups of one axis behave alike: the first, the last and some between.
    numbers = np.unique(np.linspace(1, groups.count, min(singles, groups.count)).astype(int))
    alone = [groups.select([number]) for number in numbers if not groups.emptied(np.array([number])).size]
    drawn = [groups.sample(fraction, seed) for seed, fraction in enumerate(fractions)]
    return [choice for choice in (*alone, *drawn) if choice.removed]


@torch.no_grad()
def check_graph(
    graph: Graph, groups: Groups, chosen: list[Selection], run: Callable[[torch.nn.Module], Any] | None = None
) -> None:
    """All oracles on every selection; raises Wrong where a claim does not hold."""
    claims = zero_claims(graph, groups)
    for choice in chosen:
        full = zero(graph.model, choice)
        check_commutes(graph, choice)
        check_commutes(graph, choice, zeroed=full)
        check_claims(graph, choice, full, claims)
        check_whole(graph, choice, full, run)


def check_case(make: Callable[[Board], Any]) -> tuple[int, int]:
    """Verify one written graph under both heads, and with either factor of its grids.

    (groups under the strict head, under the loose one), as they are when nobody says which factor.
    """
    counts = []
    for strict in (True, False):
        board = Board()
        graph = board.graph(make(board), strict=strict)
        known = {carry: build.partition(graph, carry=carry) for carry in CARRIES}
        for groups in {groups.fingerprint: groups for groups in known.values()}.values():
            check_graph(graph, groups, selections(groups))
        counts.append(known["auto"].count)
    return counts[0], counts[1]


__all__ = ["Board", "Wrong", "aten", "check_case", "check_claims", "check_commutes", "check_graph", "check_whole",
           "copy", "cut", "same", "selections", "silenced", "steps", "zero_claims"]  # fmt: skip
