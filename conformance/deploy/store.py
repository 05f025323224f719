"""Write a subnet as two files, and read it back: plan.json and subnet.safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from conformance.deploy.fingerprint import (
    loose_tensors,
    model_print,
    named_state,
    plain_attributes,
    require_same_model,
    shape_of,
    tape_print,
)
from conformance.deploy.plan import PLAN_FILE, WEIGHTS_FILE, Attribute, Plan, Proof, Weights, read_plan, write_plan
from conformance.deploy.rebuild import rebuilt
from conformance.equivalence.verdict import Verdict
from conformance.errors import PlanError
from conformance.graph.tape import as_arguments
from conformance.partition.selection import Selection
from conformance.report.environment import deciding_versions
from conformance.report.files import write_together
from conformance.subnet.norm_module import WholeWidth
from conformance.subnet.tape_module import GraphSubnet


def save_subnet(
    subnet: torch.nn.Module, folder: Path | str, choice: Selection, *, verdict: Verdict | None = None
) -> Plan:
    """Write the subnet that `choice` left of its model to `folder`: plan.json and subnet.safetensors.

    Both files are replaced together or not at all. Before that the subnet is rebuilt from them in
    memory and compared, so what is written can be loaded. Its weights may be trained further ones.
    `verdict` is kept in the plan. Every parameter and buffer is saved in its dtype, those that
    `state_dict` leaves out too. Returns the plan.

    Raises PlanError when the subnet is not that of the selection or was changed in a way that a plan
    cannot say, UsageError when nothing can be written.
    """
    graph = choice.groups.graph
    tensors = _tensors(subnet)
    held = {name: shape_of(tensor) for name, tensor in tensors.items()}
    attributes, norms = _changes(graph.model, subnet)
    draft = Plan(
        kind="graph" if isinstance(subnet, GraphSubnet) else "same class",
        versions=deciding_versions(),
        model=model_print(graph.model),
        tape=tape_print(graph),
        carry=choice.groups.carry,
        slices={
            name: {dim: tuple(positions) for dim, positions in dims.items()} for name, dims in choice.slices().items()
        },
        attributes=attributes,
        whole_width=norms,
        weights=Weights(length=0, sha256="0" * 64, tensors=held),
        verdict=None if verdict is None else _proof(verdict),
    )
    _require_tensors(draft, held)
    _require_same(subnet, rebuilt(graph.model, draft, tensors, graph.args, graph.kwargs))
    done: list[Plan] = []

    def weights(path: Path) -> None:
        safetensors.torch.save_file(tensors, path)
        length, sha256 = _file_digest(path)
        done.append(draft.model_copy(update={"weights": Weights(length=length, sha256=sha256, tensors=held)}))

    def plan(path: Path) -> None:
        path.write_text(write_plan(done[0]), encoding="utf-8", newline="\n")

    write_together(Path(folder), {WEIGHTS_FILE: weights, PLAN_FILE: plan})
    return done[0]


def load_subnet(
    model: torch.nn.Module, folder: Path | str, args: Any = None, kwargs: dict[str, Any] | None = None
) -> torch.nn.Module:
    """Rebuild the subnet that `save_subnet` wrote around the model it was made from.

    model: the original, built by its own code, with any weights or on the meta device. It is not changed;
    the subnet has its training mode and, unless that is meta, its device. args and kwargs: example inputs
    of the traced shapes (one tensor, or a tuple), needed for a traced graph and for norms that count the
    original width; given, the rebuilt subnet is also compared with a new trace of the original.

    Parameters and buffers are those saved, bit for bit. Only JSON and safetensors are read, nothing is
    unpickled. Raises PlanError, one sentence, when a file is damaged, or the model or the inputs are not
    those the plan was made from.
    """
    plan = read_plan(folder)
    require_same_model(plan.model, model)
    tensors = _read_weights(Path(folder) / WEIGHTS_FILE, plan)
    return rebuilt(model, plan, tensors, () if args is None else as_arguments(args), kwargs or {})


def _proof(verdict: Verdict) -> Proof:
    return Proof(status=verdict.status.value, oracle=verdict.oracle, compared=verdict.compared, reason=verdict.reason)


# -- the file of weights ---------------------------------------------------------------------------


def _tensors(subnet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer once, under its first name, on the CPU and in memory of its own."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in named_state(subnet).items():
        if tensor.is_meta:
            raise PlanError(f"{name} of the subnet is on the meta device and has no data to save")
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return found


def _read_weights(path: Path, plan: Plan) -> dict[str, torch.Tensor]:
    wanted = plan.weights
    try:
        length = path.stat().st_size
        if length != wanted.length:
            raise PlanError(f"{path} has {length} bytes, the plan's has {wanted.length}: it is cut off or another file")
        if _file_digest(path)[1] != wanted.sha256:
            raise PlanError(f"{path} is damaged or another file: its digest is not the one in the plan")
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise PlanError(f"{path} is no safetensors file: {error}") from error
    held = {name: shape_of(tensor) for name, tensor in tensors.items()}
    for name in sorted(held.keys() ^ wanted.tensors.keys()):
        raise PlanError(f"{path} {'lacks' if name in wanted.tensors else 'has an extra tensor'} {name}")
    for name, shape in wanted.tensors.items():
        if held[name] != shape:
            raise PlanError(f"{name} in {path} is {held[name]}, in the plan it is {shape}")
    _require_tensors(plan, held)
    return tensors


def _require_tensors(plan: Plan, held: dict[str, Any]) -> None:
    """The tensors are those the selection leaves of the original's: names and shapes."""
    state = {**plan.model.parameters, **plan.model.buffers}
    for name in plan.slices:
        if name not in state:
            raise PlanError(f"the plan removes positions of {name}, which the model does not have")
    again = {name for names in plan.model.tied for name in names[1:]}
    for name in sorted((set(state) - again) ^ set(held)):
        raise PlanError(f"the subnet has {'an extra tensor' if name in held else 'no tensor'} {name}")
    for name, tensor in held.items():
        if tensor.shape != (expected := plan.expected(name)):
            raise PlanError(f"{name} of the subnet has shape {tensor.shape}, the selection leaves {expected}")
    for names in plan.model.tied:
        if len({plan.expected(name) for name in names if name in state}) != 1:
            raise PlanError(f"the plan cuts {names[0]} and {names[1]} differently, but they are one tensor")


def _file_digest(path: Path) -> tuple[int, str]:
    """Length and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


# -- what a subnet of the same class changed -------------------------------------------------------


def _changes(model: torch.nn.Module, subnet: torch.nn.Module) -> tuple[tuple[Attribute, ...], tuple[str, ...]]:
    """The sizes that differ from the original's, and the paths of the norms that were replaced."""
    if isinstance(subnet, GraphSubnet):
        return (), ()
    originals = dict(model.named_modules())
    attributes: list[Attribute] = []
    norms = []
    for path, module in subnet.named_modules():
        if isinstance(module, WholeWidth) and not isinstance(originals.get(path), WholeWidth):
            norms.append(path)
        elif path in originals:
            attributes += _smaller(path, plain_attributes(originals[path]), plain_attributes(module))
    return tuple(attributes), tuple(norms)


def _smaller(path: str, before: dict[str, Any], after: dict[str, Any]) -> list[Attribute]:
    """One entry for each size that shrank; what changed otherwise shows when the subnet is rebuilt."""
    found = []
    for name, value in after.items():
        old = before.get(name)
        pairs: list[tuple[int | None, Any, Any]] = [(None, old, value)]
        if isinstance(value, (tuple, list)) and isinstance(old, type(value)) and len(value) == len(old):
            pairs = list(zip(range(len(old)), old, value, strict=True))
        for place, was, now in pairs:
            if type(was) is int and type(now) is int and 1 <= now < was:
                found.append(Attribute(module=path, name=name, place=place, value=now))
    return found


# -- the rehearsal ---------------------------------------------------------------------------------


def _require_same(subnet: torch.nn.Module, again: torch.nn.Module) -> None:
    """Raise PlanError, naming the first difference, unless both modules are the same one."""
    mine, theirs = dict(subnet.named_modules(remove_duplicate=False)), dict(again.named_modules(remove_duplicate=False))
    for path in [*mine, *theirs]:
        one, other = mine.get(path), theirs.get(path)
        if one is None or other is None or type(one) is not type(other):
            raise PlanError(f"module {path} of the subnet is not what the model has there: a plan cannot say that")
        left, right = plain_attributes(one), plain_attributes(other)
        for name in [*left, *right]:
            if name not in left or name not in right or left[name] != right[name]:
                label = f"{path}.{name}".removeprefix(".")
                raise PlanError(
                    f"{label} of the subnet is {left.get(name)!r}, not a smaller size: a plan cannot say that"
                )
        if program_text(one) != program_text(other):
            raise PlanError(f"module {path} of the subnet runs other operations than when it is rebuilt")
    ours, rebuilt_state = named_state(subnet), named_state(again)
    for name, tensor in [*ours.items(), *loose_tensors(subnet)]:
        twin = rebuilt_state.get(name)
        if twin is None:
            twin = dict(loose_tensors(again)).get(name)
        if twin is None or not same_bits(tensor, twin):
            raise PlanError(f"{name} of the subnet is not what it is when rebuilt: a plan cannot say that")


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Same shape, dtype and bits, those of NaN and of negative zero included."""
    if shape_of(one) != shape_of(other):
        return False
    left, right = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(left, right)


def program_text(module: torch.nn.Module) -> str:
    """What a module that replays operations runs, as text; empty for any other module."""
    if isinstance(module, GraphSubnet):
        return str((module._program, module._names, module._input_shapes))
    return str(module.call) if isinstance(module, WholeWidth) else ""
