"""Rebuild a subnet from the original model, a plan and the weights; nothing is cut or compared here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.deploy.fingerprint import named_state, require_same_inputs, require_same_tape
from conformance.deploy.plan import Attribute, Plan
from conformance.errors import ExtractionError, PlanError, SelectionError, TraceError
from conformance.graph.tape import Graph, as_arguments
from conformance.graph.trace import shadow, trace
from conformance.partition.build import partition
from conformance.partition.selection import Selection
from conformance.subnet.extract import plan_matches
from conformance.subnet.norm_module import counting, put_whole_widths
from conformance.subnet.state import sliced
from conformance.subnet.tape_module import GraphSubnet

_OWN_TABLES = ("_parameters", "_buffers", "_modules")
Tensors = Mapping[str, torch.Tensor]


def rebuilt(model: torch.nn.Module, plan: Plan, tensors: Tensors, args: Any, kwargs: dict[str, Any]) -> torch.nn.Module:
    """The subnet with these tensors, in the original's training mode, on its device.

    The original must have been compared with `plan.model` and the tensors with `plan.weights`.
    Raises PlanError where the plan asks for what the model does not have.
    """
    given = bool(args) or bool(kwargs)
    if plan.needs_inputs and not given:
        what = "is a traced graph" if plan.kind == "graph" else "has norms that count the original width"
        raise PlanError(f"this subnet {what}: give the example inputs it was made on, to trace the original again")
    choice = traced_choice(model, plan, args, kwargs) if given else None
    if plan.kind == "graph" and choice is not None:
        subnet: torch.nn.Module = GraphSubnet(choice.groups.graph, choice)
        put_state(subnet, plan, tensors, model)
        return subnet
    return _same_class(model, plan, tensors, choice)


def traced_choice(model: torch.nn.Module, plan: Plan, args: Any, kwargs: dict[str, Any]) -> Selection:
    """The plan's selection, on the original traced again. Raises PlanError when the pass is another one."""
    require_same_inputs(plan.tape, as_arguments(args), kwargs)
    try:
        graph: Graph = trace(model, args, kwargs, device=plan.tape.device)
    except TraceError as error:
        raise PlanError(f"the original cannot be traced again: {error}") from error
    require_same_tape(plan.tape, graph)
    slices = {name: {dim: list(at) for dim, at in dims.items()} for name, dims in plan.slices.items()}
    try:
        return Selection.from_slices(slices, partition(graph, carry=plan.carry))
    except SelectionError as error:
        raise PlanError(f"the plan's selection is none of this model: {error}") from error


def _same_class(model: torch.nn.Module, plan: Plan, tensors: Tensors, choice: Selection | None) -> torch.nn.Module:
    subnet = shadow(model)  # shares the parameters' memory: they are all replaced
    if len(set(plan.whole_width)) < len(plan.whole_width):
        raise PlanError("the plan names a norm twice")
    if plan.whole_width and choice is not None:
        try:
            named, meant = (
                {id(subnet.get_submodule(path)) for path in paths}
                for paths in (plan.whole_width, counting(choice.groups.graph, choice))
            )
            if named != meant:
                raise PlanError("the plan's norms are not those that the selection makes narrower")
            put_whole_widths(subnet, choice.groups.graph, choice, plan.whole_width)
        except (ExtractionError, AttributeError) as error:
            raise PlanError(f"the plan's norms are none of this model: {error}") from error
    for attribute in plan.attributes:
        _assign(subnet, attribute)
    if choice is not None and choice.removed:
        # With the model's own weights: those of the file may have another dtype than the inputs.
        graph, full = choice.groups.graph, named_state(model)
        own = {name: sliced(full[name], choice, graph.names[name]) for name in tensors}
        put_state(subnet, plan, own, model)
        if not plan_matches(subnet, graph, choice, frozenset(plan.whole_width)):
            raise PlanError("the sizes in the plan do not make the subnet that its selection describes")
    put_state(subnet, plan, tensors, model)
    return subnet


def _assign(subnet: torch.nn.Module, attribute: Attribute) -> None:
    """Write one smaller size where the original has a larger one, and nowhere else."""
    label = f"{attribute.module}.{attribute.name}".removeprefix(".")
    try:
        owner = subnet.get_submodule(attribute.module)
    except AttributeError as error:
        raise PlanError(f"the plan sets {label}, but there is no module {attribute.module}") from error
    value = vars(owner).get(attribute.name)
    if attribute.name.startswith("_") or value is None:
        raise PlanError(f"the plan sets {label}, which the model does not have")
    at = attribute.place
    if (at is None) == isinstance(value, (tuple, list)) or (at is not None and at >= len(value)):
        raise PlanError(f"the plan sets {label} at a place it does not have")
    before = value if at is None else value[at]
    if type(before) is not int or before <= attribute.value:
        raise PlanError(f"the plan sets {label} to {attribute.value}, which is no smaller size than {before!r}")
    if at is None:
        setattr(owner, attribute.name, attribute.value)
    else:
        setattr(owner, attribute.name, type(value)([*value[:at], attribute.value, *value[at + 1 :]]))


def put_state(subnet: torch.nn.Module, plan: Plan, tensors: Tensors, model: torch.nn.Module) -> None:
    """Replace every parameter and buffer by the file's, tied ones by one tensor.

    Lists and other attributes that hold a replaced parameter (torch's RNNs do) get the new one, too.
    """
    full = named_state(model)
    first = {name: names[0] for names in plan.model.tied for name in names}
    made: dict[str, torch.Tensor] = {}
    renewed: dict[int, torch.Tensor] = {}
    for name, old in named_state(subnet).items():
        source = first.get(name, name)
        if source not in made:
            made[source] = _like(full[source], tensors[source])
        renewed[id(old)] = made[source]
        path, _, leaf = name.rpartition(".")
        owner = subnet.get_submodule(path)
        table: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
        table[leaf] = made[source]
    _follow(subnet, renewed)


def _like(original: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The file's tensor on the original's device, a parameter where that is one."""
    if not original.is_meta:
        tensor = tensor.to(original.device)
    if isinstance(original, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, requires_grad=original.requires_grad)
    return tensor


def _follow(subnet: torch.nn.Module, renewed: dict[int, torch.Tensor]) -> None:
    def new(leaf: torch.Tensor) -> torch.Tensor:
        return renewed.get(id(leaf), leaf)

    replace: Callable[[Any], Any] = lambda value: pytree.tree_map_only(torch.Tensor, new, value)  # noqa: E731
    for module in subnet.modules():
        for name, value in list(vars(module).items()):
            if name in _OWN_TABLES:
                continue
            if any(id(leaf) in renewed for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)):
                vars(module)[name] = replace(value)
