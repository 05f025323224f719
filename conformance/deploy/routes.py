"""The ways a module is deployed: torch.export, torch.compile and ONNX; each runs it and returns its outputs.

A route is judged against the module run as it is. What the full model cannot do either is no fault of
its subnet: that is told apart here, with the reason.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

import torch
from torch.utils import _pytree as pytree

from conformance.equivalence.compare import Arguments, evaluate
from conformance.graph.tape import tensors_in
from conformance.graph.trace import reproducible, shadow

Route = Callable[[torch.nn.Module, Arguments], list[torch.Tensor]]
"""Takes a module in evaluation mode and its inputs; gives the outputs it has after the journey."""


class Arrival(StrEnum):
    """How a journey ended: the same to the bit, close by assert_close, otherwise, or not at all."""

    SAME = "same"
    CLOSE = "close"
    OTHER = "other"
    NEVER = "never"


@dataclass(frozen=True)
class Journey:
    """What came of one module on one route. compared counts output elements; reason says what went wrong."""

    arrival: Arrival
    compared: int = 0
    largest: float = 0.0
    reason: str = ""

    @property
    def good(self) -> bool:
        return self.arrival in (Arrival.SAME, Arrival.CLOSE)


def travel(module: torch.nn.Module, given: Arguments, route: Route) -> Journey:
    """Run the module as it is and by the route, on copies, and compare. An exception of the route is a result."""
    expected = tensors_in(evaluate(module, given))
    inputs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.clone(), given)
    try:
        with reproducible(), _quiet():
            found = route(shadow(module).eval(), inputs)
    except Exception as error:  # noqa: BLE001 - compilers raise whatever they like
        return Journey(Arrival.NEVER, reason=sentence(error))
    return _judged(expected, [tensor.detach() for tensor in found])


def _judged(expected: list[torch.Tensor], found: list[torch.Tensor]) -> Journey:
    if len(found) != len(expected):
        return Journey(Arrival.OTHER, reason=f"{len(found)} outputs in place of {len(expected)}")
    arrival, largest = Arrival.SAME, 0.0
    for number, (mine, theirs) in enumerate(zip(expected, found, strict=True)):
        if mine.dtype == theirs.dtype and torch.equal(mine, theirs):
            continue
        arrival = Arrival.CLOSE
        try:
            torch.testing.assert_close(theirs, mine, equal_nan=True)
        except AssertionError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Journey(Arrival.OTHER, reason=f"output {number} is not close: {'; '.join(lines[:3])}")
        largest = max(largest, float((mine.double() - theirs.double()).abs().max()))
    compared = sum(tensor.numel() for tensor in expected)
    if not compared:
        return Journey(Arrival.OTHER, reason="the outputs have no elements")
    return Journey(arrival, compared, largest)


# -- the routes ------------------------------------------------------------------------------------


def exported(module: torch.nn.Module, given: Arguments) -> list[torch.Tensor]:
    """By torch.export.export, run as the exported program."""
    args, kwargs = given
    program = torch.export.export(module, args, kwargs)
    return tensors_in(program.module()(*args, **kwargs))


class Compiled:
    """By torch.compile with a backend; a route. graphs is how many graphs the last run was compiled to.

    Code that cannot be compiled runs as it is between them; when no graph is left the route ends in an error.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.graphs = 0

    def __call__(self, module: torch.nn.Module, given: Arguments) -> list[torch.Tensor]:
        import torch._inductor.config as inductor
        from torch._dynamo.utils import counters

        args, kwargs = given
        torch.compiler.reset()
        counters.clear()
        try:
            with inductor.patch(compile_threads=1):  # a pool of compilers would outlive the check
                found = tensors_in(torch.compile(module, backend=self.backend)(*args, **kwargs))
            self.graphs = counters["stats"]["unique_graphs"]
        finally:
            torch.compiler.reset()
        if not self.graphs:
            raise RuntimeError("nothing was compiled: all of it ran as it is")
        return found


def as_onnx(module: torch.nn.Module, given: Arguments) -> list[torch.Tensor]:
    """By torch.onnx.export, run by onnxruntime on the CPU."""
    leaves = tensors_in(given)
    device = leaves[0].device if leaves else torch.device("cpu")
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.cpu(), given)
    program = torch.onnx.export(module.cpu(), args, kwargs=kwargs, dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("the exporter gave no program")
    return [tensor.to(device) for tensor in tensors_in(list(program(*args, **kwargs)))]


ONNX_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def missing_for_onnx() -> list[str]:
    """The libraries ONNX needs that are not installed."""
    return [name for name in ONNX_LIBRARIES if find_spec(name) is None]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn and log a page about each module; what matters they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def sentence(error: BaseException) -> str:
    """The kind of an exception and the first line of its message."""
    first = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {first[0][:300] if first else 'no message'}"
