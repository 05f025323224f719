"""What a model and its traced pass look like, so that a plan is never used on another one."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.deploy.plan import ModelPrint, TapePrint, TensorShape
from conformance.errors import PlanError
from conformance.graph.tape import Graph, Ref, tensors_in

_PLAIN = (int, float, bool, str, type(None), torch.dtype)
_OWN_TABLES = ("_parameters", "_buffers", "_modules")


def named_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by every name it has, those that `state_dict` leaves out too."""
    found: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def tied_names(state: dict[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    """The names of each tensor that has several."""
    owners: dict[int, list[str]] = {}
    for name, tensor in state.items():
        owners.setdefault(id(tensor), []).append(name)
    return tuple(tuple(names) for names in owners.values() if len(names) > 1)


def loose_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors held in other attributes of the modules, lists and dicts included, by a name of their own."""
    known = {id(tensor) for tensor in named_state(model).values()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in _OWN_TABLES:
                continue
            tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))
            for number, tensor in enumerate(tensors):
                if id(tensor) not in known:
                    yield f"{path}.{name}[{number}]".removeprefix("."), tensor


def plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Numbers, words and tuples or lists of them that a module holds; its mode and private ones left out."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return type(value) in _PLAIN


def shape_of(tensor: torch.Tensor) -> TensorShape:
    """Shape and dtype of a tensor."""
    return TensorShape(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def model_print(model: torch.nn.Module) -> ModelPrint:
    """The fingerprint of a model: names, shapes and dtypes of its state, how its modules are built."""
    return ModelPrint(
        parameters={name: shape_of(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)},
        buffers={name: shape_of(tensor) for name, tensor in model.named_buffers(remove_duplicate=False)},
        tied=tied_names(named_state(model)),
        modules={
            path: _sha(f"{type(module).__qualname__} {sorted(plain_attributes(module).items())}".encode())
            for path, module in model.named_modules(remove_duplicate=False)
        },
        loose={name: _tensor_digest(tensor) for name, tensor in loose_tensors(model)},
    )


def require_same_model(wanted: ModelPrint, model: torch.nn.Module) -> None:
    """Raise PlanError, naming the first difference, unless the model is built as the plan's original was."""
    found = model_print(model)
    for kind, theirs, ours in (
        ("parameter", wanted.parameters, found.parameters),
        ("buffer", wanted.buffers, found.buffers),
    ):
        _require_same_names(kind, theirs, ours)
        for name, tensor in theirs.items():
            if ours[name] != tensor:
                raise PlanError(f"this is another model: {name} is {ours[name]}, in the plan's it is {tensor}")
    _require_same_names("module", wanted.modules, found.modules)
    for path, digest in wanted.modules.items():
        if found.modules[path] != digest:
            kind = type(model.get_submodule(path)).__qualname__
            place = f"module {path}" if path else "the model itself"
            raise PlanError(f"this is another model: {place} ({kind}) is built otherwise than in the plan's")
    if sorted(map(sorted, wanted.tied)) != sorted(map(sorted, found.tied)):
        raise PlanError("this is another model: other parameters are tied than in the plan's")
    _require_same_names("tensor", wanted.loose, found.loose)
    for name, digest in wanted.loose.items():
        if found.loose[name] != digest:
            meta = dict(loose_tensors(model))[name].is_meta
            why = "has no data on the meta device" if meta else "holds other values than in the plan's model"
            raise PlanError(f"{name}, a tensor that is neither parameter nor buffer, {why}")


def _require_same_names(kind: str, wanted: Iterable[str], found: Iterable[str]) -> None:
    theirs, ours = list(wanted), list(found)
    for name in theirs:
        if name not in set(ours):
            near = difflib.get_close_matches(name, ours, n=1, cutoff=0.6)
            hint = f", but {near[0]}" if near else ""
            raise PlanError(f"this is another model: it has no {kind} {name}{hint}")
    for name in ours:
        if name not in set(theirs):
            raise PlanError(f"this is another model: the plan's has no {kind} {name}")


def tape_print(graph: Graph) -> TapePrint:
    """The fingerprint of a traced pass: every operation with its numbers, shapes and constants."""
    digest = hashlib.sha256()
    for value in graph.values:
        digest.update(f"{value.kind} {value.name} {value.shape} {value.dtype}\n".encode())
    for node in graph.nodes:
        digest.update(f"{node.name} {_text((node.args, node.kwargs, node.outputs))}\n".encode())
    for index, tensor in sorted(graph.constants.items()):
        digest.update(f"{index} {_tensor_digest(tensor)}\n".encode())
    digest.update(_text(graph.outputs).encode())
    inputs = (graph.values[index] for index in graph.inputs)
    return TapePrint(
        inputs=tuple(TensorShape(shape=v.shape, dtype=str(v.dtype).removeprefix("torch.")) for v in inputs),
        device="meta" if graph.device == "meta" else "real",
        operations=digest.hexdigest(),
    )


def require_same_inputs(wanted: TapePrint, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise PlanError unless these arguments hold tensors of the plan's shapes and dtypes."""
    found = tuple(shape_of(tensor) for tensor in tensors_in((args, kwargs)))
    if found != wanted.inputs:
        ours, theirs = ("; ".join(map(str, shapes)) or "none" for shapes in (found, wanted.inputs))
        raise PlanError(f"the plan was made on the inputs {theirs}, those given are {ours}")


def require_same_tape(wanted: TapePrint, graph: Graph) -> None:
    """Raise PlanError unless the pass ran the plan's operations."""
    if tape_print(graph).operations != wanted.operations:
        raise PlanError("this is another model: on these inputs it runs other operations than the plan's did")


def _text(tree: Any) -> str:
    """A structure of arguments as text, without where tensors are made."""
    if isinstance(tree, torch.device):
        return "device"
    if isinstance(tree, Ref):
        return f"%{tree.index}"
    if isinstance(tree, (tuple, list)):
        return f"[{', '.join(map(_text, tree))}]"
    if isinstance(tree, dict):
        return f"{{{', '.join(f'{key}: {_text(value)}' for key, value in tree.items())}}}"
    return repr(tree)


def _tensor_digest(tensor: torch.Tensor) -> str:
    head = f"{shape_of(tensor)}".encode()
    if tensor.is_meta:
        return _sha(head + b" without data")
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return _sha(head + plain.view(torch.uint8).numpy().tobytes())


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
