"""Run a model once and write down every ATen operation it dispatches.

A dispatch mode below autograd sees composite operations (linear, attention, einsum, LSTM)
already decomposed into a small set of ATen operations, works where torch.export refuses
(data-dependent code is simply run) and costs a tenth of it. The pass runs on the meta device
when the model allows it, so neither weights nor time are needed; code that must look at data
falls back to a real pass.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.errors import TraceError, sentence
from conformance.graph.calls import follow
from conformance.graph.tape import Call, Graph, Node, Ref, Source, Value, as_arguments, refs, tensors_in

_TORCH = Path(torch.__file__).parent
_SKIPPED_SOURCES = (f"{_TORCH}{os.sep}", f"{Path(__file__).resolve().parent.parent}{os.sep}")
_NN_MODULES = f"{_TORCH / 'nn' / 'modules'}{os.sep}"


@contextlib.contextmanager
def decomposed(*, grad: bool = False) -> Iterator[None]:
    """Evaluation, without autograd unless `grad`, in which fused kernels decompose into plain ATen operations."""
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    try:
        with torch.set_grad_enabled(grad), math, _without_onednn():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """oneDNN has kernels for whole LSTMs; setting its flags warns about hardware that is not there."""
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


@contextlib.contextmanager
def reproducible(seed: int = 0) -> Iterator[None]:
    """Evaluation as deployed: no autograd, a fixed random state that is put back afterwards."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def shadow(model: torch.nn.Module, device: str | None = None) -> torch.nn.Module:
    """A copy that shares the parameters' memory (or none, on `meta`) and owns everything else."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        data = parameter.detach() if device is None else parameter.detach().to(device)
        memo[id(parameter)] = torch.nn.Parameter(data, requires_grad=False)
    if device is not None:
        for buffer in model.buffers():
            memo[id(buffer)] = buffer.detach().to(device)
    return copy.deepcopy(model, memo)


class _NeedsDataError(Exception):
    """The meta pass cannot go on; the real pass can."""


def _layout(tensor: torch.Tensor) -> tuple[object, ...]:
    return (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views of one storage share an element: exact for dense and for small views, else True."""
    (a_first, a_last), (b_first, b_last) = _extent(a), _extent(b)
    if not a.numel() or not b.numel() or a_last < b_first or b_last < a_first:
        return False
    dense = a_last - a_first + 1 == a.numel() or b_last - b_first + 1 == b.numel()
    if dense or max(a.numel(), b.numel()) > 1 << 18:
        return True
    return bool(np.intersect1d(_places(a), _places(b)).size)


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last place in the storage."""
    first = int(tensor.storage_offset())
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + int(reach)


def _places(tensor: torch.Tensor) -> npt.NDArray[np.int64]:
    places = np.array([tensor.storage_offset()])
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = (places[:, None] + np.arange(size)[None, :] * stride).reshape(-1)
    return places


_STRIDED = {torch.ops.aten.as_strided.default, torch.ops.aten.as_strided_.default}
_ALIAS = torch.ops.aten.alias.default
_ITEM = torch.ops.aten._local_scalar_dense.default
_LOOKS = (torch.Tensor.tolist, torch.Tensor.numpy)
"""How code reads whole tensors without an operation."""


def _same_places(
    x: torch.Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> bool:
    """Whether as_strided leaves a tensor as it is: other strides only where there is one position."""
    longer = [at for at, length in enumerate(x.shape) if length > 1]
    return (
        tuple(size) == tuple(x.shape)
        and all(stride[at] == x.stride(at) for at in longer)
        and storage_offset in (None, x.storage_offset())
    )


def calling_line(depth: int) -> Source | None:
    """The line of the model's code, or of a module of torch.nn it called, that runs `depth` frames up from here."""
    frame: FrameType | None = sys._getframe(depth)
    library: Source | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_SKIPPED_SOURCES):
            if not file.startswith("<"):
                return library or Source(file, frame.f_lineno)
        elif library is None and file.startswith(_NN_MODULES) and not file.endswith("module.py"):
            library = Source(file, frame.f_lineno)
        frame = frame.f_back
    return library


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.names: dict[str, int] = {}
        self.constants: dict[int, torch.Tensor] = {}
        self._known: dict[int, tuple[torch.Tensor, int]] = {}
        self._storages: dict[int, list[tuple[torch.Tensor, int]]] = {}
        self._written: list[tuple[int, torch.Tensor, list[tuple[torch.Tensor, int]]]] = []
        self.calls: list[Call] = []
        self.reads: list[tuple[int, int]] = []
        self._counts: dict[str, int] = {}
        self._open: list[int] = []
        self._model = model
        for kind, named in (
            ("parameter", model.named_parameters(remove_duplicate=False)),
            ("buffer", model.named_buffers(remove_duplicate=False)),
        ):
            for name, tensor in named:
                known = self._known.get(id(tensor))
                self.names[name] = self.add(tensor, kind, name) if known is None else known[1]

    def add(self, tensor: torch.Tensor, kind: str, name: str = "") -> int:
        index = len(self.values)
        self.values.append(Value(kind, name, tuple(tensor.shape), tensor.dtype))
        self._known[id(tensor)] = (tensor, index)
        self._storages.setdefault(tensor.untyped_storage()._cdata, []).append((tensor, index))
        return index

    def lookup(self, tensor: torch.Tensor) -> int:
        known = self._known.get(id(tensor))
        if known is not None:
            return known[1]
        for other, index in reversed(self._storages.get(tensor.untyped_storage()._cdata, [])):
            if _layout(other) == _layout(tensor):  # `parameter.data` and the like
                self._known[id(tensor)] = (tensor, index)
                return index
        index = self.add(tensor, "constant")
        if tensor.device.type == "meta":
            raise _NeedsDataError("a tensor without data came from outside the traced operations")
        self.constants[index] = tensor.detach().clone()
        return index

    def _refer(self, tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return Ref(self.lookup(tree))
        if isinstance(tree, (tuple, list)):
            return (
                type(tree)([self._refer(item) for item in tree])
                if type(tree) in (tuple, list)
                else tuple(self._refer(item) for item in tree)
            )
        if isinstance(tree, dict):
            return {key: self._refer(item) for key, item in tree.items()}
        return tree

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _ITEM:
            self.reads.append((len(self.nodes), self.lookup(args[0])))
        seen_args, seen_kwargs = self._refer(tuple(args)), self._refer(kwargs)
        if func in _STRIDED and _same_places(*args, **kwargs):
            func, seen_args, seen_kwargs, result = _ALIAS, seen_args[:1], {}, func(*args, **kwargs)
        else:
            # Python scalars read from tensors are frozen into the tape; the values are simply used.
            result = func(*args, **kwargs)
        index = len(self.nodes)
        if func._schema.is_mutable:
            self._note_write(index, func, args, kwargs)
        outputs = self._record_outputs(result)
        if outputs is not None or func._schema.is_mutable:
            module = self.calls[self._open[-1]].module if self._open else ""
            self.nodes.append(Node(index, func, seen_args, seen_kwargs, outputs, module, calling_line(2)))
        return result

    def _record_outputs(self, result: Any) -> Any:
        if isinstance(result, torch.Tensor):
            return Ref(self.add(result, "result"))
        if isinstance(result, (tuple, list)):
            items = [self._record_outputs(item) for item in result]
            return tuple(items) if any(item is not None for item in items) else None
        return None

    def _note_write(self, index: int, func: Any, args: Any, kwargs: Any) -> None:
        """Remember which other values alias the memory an in-place operation writes to."""
        for position, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            target = args[position] if position < len(args) else kwargs.get(argument.name)
            if isinstance(target, torch.Tensor):
                own = self._known[id(target)][1] if id(target) in self._known else -1
                aliases = self._storages.get(target.untyped_storage()._cdata, [])
                self._written.append((index, target, [entry for entry in aliases if entry[1] != own]))

    def finish(self, outputs: tuple[int, ...]) -> tuple[Node, ...]:
        """The nodes, each write annotated with the aliases that are still read after it."""
        if not self._written:
            return tuple(self.nodes)
        last_use = dict.fromkeys(outputs, len(self.nodes))
        for node in self.nodes:
            for index in refs((node.args, node.kwargs)):
                last_use[index] = max(last_use.get(index, -1), node.index)
        nodes = list(self.nodes)
        for index, target, aliases in self._written:
            stale = tuple(
                alias for tensor, alias in aliases if last_use.get(alias, -1) > index and _overlap(tensor, target)
            )
            node = nodes[index]
            nodes[index] = Node(
                node.index, node.op, node.args, node.kwargs, node.outputs, node.module, node.source, stale
            )
        return tuple(nodes)

    def module_calls(self) -> contextlib.AbstractContextManager[None]:
        """Keep the calls of the model's modules while the context is open."""
        return follow(self._model, self._enter, self._leave)

    def _enter(self, path: str | None, args: Any) -> None:
        if path is None:  # a module from elsewhere: its operations are the caller's
            return
        number, at = self._counts.get(path, 0), len(self.nodes)
        self._counts[path] = number + 1
        parent = self._open[-1] if self._open else -1
        self._open.append(len(self.calls))
        self.calls.append(Call(path, number, at, at, parent, self._seen(args), ()))

    def _leave(self, path: str | None, output: Any) -> None:
        if path is None:
            return
        index = self._open.pop()
        while self.calls[index].module != path:  # a call that ended in an exception, which the model caught
            index = self._open.pop()
        call = self.calls[index]
        self.calls[index] = dataclasses.replace(call, last=len(self.nodes), outputs=self._seen(output))

    def _seen(self, tree: Any) -> tuple[int, ...]:
        return tuple(self._known[id(leaf)][1] if id(leaf) in self._known else -1 for leaf in tensors_in(tree))


class _Looks(TorchFunctionMode):
    """Tells a recorder when code reads a tensor by other means than an operation."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOOKS:
            self.recorder.reads.append((len(self.recorder.nodes), self.recorder.lookup(args[0])))
        return func(*args, **(kwargs or {}))


def _to(tree: Any, device: str) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), tree)


def _clone(tree: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.clone(), tree)


def _record(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], device: str | None) -> Graph:
    twin = shadow(model, device).eval()
    run_args, run_kwargs = _to((args, kwargs), device) if device else _clone((args, kwargs))
    recorder = _Recorder(twin)
    inputs = tuple(recorder.add(tensor, "input") for tensor in tensors_in((run_args, run_kwargs)))
    looks = contextlib.nullcontext() if device else _Looks(recorder)  # a pass without data reads none
    with decomposed(), torch.random.fork_rng(devices=[]), recorder.module_calls(), recorder, looks:
        result = twin(*run_args, **run_kwargs)
    leaves = tensors_in(result)
    if not leaves:
        raise TraceError(f"the model returned no tensor but {type(result).__name__}")
    outputs = tuple(recorder.lookup(leaf) for leaf in leaves)
    tree = pytree.tree_map_only(torch.Tensor, lambda leaf: Ref(recorder.lookup(leaf)), result)
    return Graph(
        model=model,
        args=args,
        kwargs=kwargs,
        values=tuple(recorder.values),
        nodes=recorder.finish(outputs),
        names=recorder.names,
        inputs=inputs,
        outputs=outputs,
        output_tree=tree,
        device=device or "real",
        constants=recorder.constants,
        calls=tuple(recorder.calls),
        reads=tuple(recorder.reads),
    )


def trace(
    model: torch.nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    device: str | None = None,
) -> Graph:
    """Record one evaluation-mode forward pass of `model(*args, **kwargs)` (args: a tuple, or one tensor).

    The model, its parameters, buffers, training mode and the random generator are left as they
    were. `device` forces the pass to run on `meta` (no data) or `real` (as given); by default
    meta is tried first. Use a batch of 2 or more: a batch of 1 hides in reshapes.

    Raises TraceError when the model does not run on these inputs.
    """
    args, kwargs = as_arguments(args), kwargs or {}
    if device != "real":
        try:
            return _record(model, args, kwargs, "meta")
        except TraceError:
            raise
        except (Exception, SystemExit) as error:
            # Code that reads tensor values cannot run on meta; the real pass below decides
            # whether the model itself is at fault.
            if device == "meta":
                raise TraceError(f"the model does not run on the meta device: {sentence(error)}") from error
    try:
        return _record(model, args, kwargs, None)
    except TraceError:
        raise
    except (Exception, SystemExit) as error:
        raise TraceError(f"the model's forward raised {sentence(error)}") from error
