"""The gradient oracle: training the subnet goes on where the zeroed model's training would.

Both run in float64, in training mode with dropout off, on the same loss: random weights on every
output. Gradients of the kept parameters must agree, and kept parameters after some steps of plain
gradient descent, when the removed slices of the full model are put back to zero after each step.
As in the float64 oracle the bound is measured: how far the same trajectory of the full model moves
when its parameters are moved a little.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from conformance.equivalence.bound import FLOOR, MARGIN, _perturb_, _Wide
from conformance.equivalence.verdict import Status, Verdict
from conformance.graph.tape import tensors_in
from conformance.graph.trace import decomposed
from conformance.partition.selection import Selection
from conformance.subnet.state import sliced
from conformance.subnet.tape_module import GraphSubnet
from conformance.subnet.zero import zero_

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Trajectory = dict[str, torch.Tensor]
"""What is compared: `gradient of NAME` at the start, `NAME after N steps` at the end."""

STEPS, RATE = 3, 1e-3
_GRADIENT, _AFTER = "gradient of ", f" after {STEPS} steps"

_DROPOUTS = {
    torch.nn.functional.dropout, torch.nn.functional.alpha_dropout, torch.nn.functional.dropout1d,
    torch.nn.functional.dropout2d, torch.nn.functional.dropout3d, torch.nn.functional.feature_alpha_dropout,
    torch.dropout, torch.dropout_, torch.feature_dropout, torch.alpha_dropout, torch.native_dropout,
}  # fmt: skip


class NoDropout(TorchFunctionMode):
    """Dropout passes its input on: what it draws depends on sizes, which differ by design."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is torch.nn.functional.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {name: 0.0 if name == "dropout_p" else value for name, value in kwargs.items()}
        return func(*args, **kwargs)


def compare(full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments, choice: Selection, seed: int) -> Verdict:
    """full and subnet in float64, the caller's own copies; full has the selection's slices at zero.

    A GraphSubnet was recorded in evaluation mode: both then run in that.
    """
    train = not isinstance(subnet, GraphSubnet)
    details = {"mode": "training" if train else "evaluation", "steps": STEPS}
    moved = copy.deepcopy(full)
    _perturb_(moved)
    zero_(moved, choice)
    try:
        expected = _cut(_trajectory(full, given, seed, choice, train=train), choice)
        around = _cut(_trajectory(moved, given, seed, choice, train=train), choice)
    except Exception as error:  # noqa: BLE001 - the model's own code decides what it can
        first = str(error).strip().splitlines() or ["no message"]
        reason = f"the full model does not train: {type(error).__name__}: {first[0]}"
        return Verdict(Status.UNSUPPORTED, "gradient", reason, details=details)
    found = _trajectory(subnet, given, seed, None, train=train)
    if not expected:
        return Verdict(Status.UNSUPPORTED, "gradient", "no parameter has a gradient", details=details)
    steepest = max(float(tensor.abs().max()) for name, tensor in expected.items() if name.startswith(_GRADIENT))
    worst, problem = 0.0, ""
    for name, mine in expected.items():
        other = found.get(name)
        if other is None or other.shape != mine.shape:
            problem = problem or f"{name} is missing in the subnet"
            continue
        # A gradient that cancels to zero is rounding: what counts is how steep the others are.
        scale = steepest if name.startswith(_GRADIENT) else float(mine.abs().max())
        bound = max(MARGIN * float((mine - around[name]).abs().max()), FLOOR * scale)
        away = float((mine - other).abs().nan_to_num(nan=float("inf")).max())
        worst = max(worst, away)
        if not away <= bound:
            problem = problem or f"{name} differs by {away:.3g}, the bound is {bound:.3g}"
    compared = sum(tensor.numel() for tensor in expected.values())
    status = Status.DIFFERENT if problem else Status.EQUAL
    return Verdict(status, "gradient", problem, compared, max_abs=worst, details=details)


def _trajectory(
    model: torch.nn.Module, given: Arguments, seed: int, choice: Selection | None, *, train: bool
) -> Trajectory:
    model.train(train)
    found: Trajectory = {}
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(parameter.is_floating_point())
    for step in range(STEPS):
        loss = _loss(model, given, seed)
        used = {name: p for name, p in parameters.items() if p.requires_grad}
        # torch's types leave out that unused parameters have none.
        gradients: Sequence[Any] = torch.autograd.grad(loss, list(used.values()), allow_unused=True)
        with torch.no_grad():
            for (name, parameter), gradient in zip(used.items(), gradients, strict=True):
                if gradient is None:
                    continue
                if step == 0:
                    found[f"{_GRADIENT}{name}"] = gradient
                parameter.sub_(gradient, alpha=RATE)
            if choice is not None:
                zero_(model, choice)
    return found | {f"{name}{_AFTER}": p.detach() for name, p in parameters.items()}


def _loss(model: torch.nn.Module, given: Arguments, seed: int) -> torch.Tensor:
    """Every floating output with fixed random weights, in the mean."""
    args, kwargs = given
    with _deterministic(seed):
        outputs = [out for out in tensors_in(model(*args, **kwargs)) if out.is_floating_point() and out.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in outputs]
    parts = [(out * weight.to(out.device)).mean() for out, weight in zip(outputs, weights, strict=True)]
    return torch.stack(parts).sum()


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    with decomposed(grad=True), torch.random.fork_rng(devices=[]), NoDropout(), _Wide():  # type: ignore[no-untyped-call]
        torch.manual_seed(seed)
        yield


def _cut(trajectory: Trajectory, choice: Selection) -> Trajectory:
    """The kept positions of the full model's parameters."""
    names = choice.groups.graph.names
    made = {}
    for title, tensor in trajectory.items():
        name = title.removeprefix(_GRADIENT).removesuffix(_AFTER)
        made[title] = sliced(tensor, choice, names[name])
    return made
