"""Are two modules the same function? Three oracles: field (exact), float64 (bounded), native."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from conformance.equivalence import gradient
from conformance.equivalence.bound import error_bound, evaluate_wide
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.modulus import PRIMES, Field
from conformance.equivalence.field.reads import Followed, Noted, NumbersNeededError, Reads, ReadsDifferentError, noted
from conformance.equivalence.field.table import may_hold_residues, storage
from conformance.equivalence.verdict import Status, Verdict
from conformance.errors import SelectionError, UnsupportedOperation, UsageError, sentence
from conformance.graph.tape import as_arguments, tensors_in
from conformance.graph.trace import reproducible, shadow
from conformance.partition.selection import Selection
from conformance.subnet.norm_module import with_traced_norms
from conformance.subnet.state import check_state
from conformance.subnet.tape_module import GraphSubnet

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def equivalent(
    full: torch.nn.Module,
    subnet: torch.nn.Module,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    oracle: str = "field",
    seed: int = 0,
    rounds: int = 1,
    choice: Selection | None = None,
) -> Verdict:
    """Compare what two modules compute, in evaluation mode.

    oracle `field`: both run in exact arithmetic modulo a prime on random residues in place of the
    floating inputs (integer inputs as given); equal means bit for bit. `rounds` beyond the first use
    another prime, other inputs and other random functions. `float64`: the largest difference against
    a rounding bound of the computation itself. `native`: the deployed dtype under
    torch.testing.assert_close's defaults. `gradient`: gradients of the kept parameters, and those after
    three steps of gradient descent; `choice` must say which positions the subnet keeps.

    Neither module, nor the random generator, is changed. Raises UsageError for an unknown oracle.
    """
    given = (as_arguments(args), kwargs or {})
    if oracle == "gradient":
        if choice is None:
            raise UsageError("the gradient oracle needs the selection that made the subnet")
        return _gradient(full, subnet, given, choice, seed)
    if oracle not in ORACLES:
        raise UsageError(f"unknown oracle {oracle!r}; there are {', '.join(ORACLES)}, gradient")
    for number in range(rounds):
        verdict = one_round(full, subnet, given, oracle, seed, number)
        if number == 0 or not verdict.equal:
            first = verdict
        if not verdict.equal:
            break
    return first


def one_round(
    full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments, oracle: str, seed: int, number: int
) -> Verdict:
    """Round `number` of an oracle.

    Code that reads computed values (how many rows a router sends to an expert) takes another way for other
    values, and a tape is the way that was traced. Where the tape at full size does not compute what the full
    model does either, a difference says nothing about the subnet, and the verdict is `unsupported`.
    """
    verdict = ORACLES[oracle](full, subnet, given, seed, number)
    if verdict.status is not Status.DIFFERENT or not (isinstance(subnet, GraphSubnet) and subnet._read_values):
        return verdict
    try:
        check_state(full, subnet._groups)
    except SelectionError:  # it was cut from a model that is itself cut
        return verdict
    whole = ORACLES[oracle](full, subnet.whole(full), given, seed, number)
    if whole.status is not Status.DIFFERENT:
        return verdict
    reason = f"the model's code goes by computed values, a traced graph cannot follow it: {whole.reason}"
    return Verdict(Status.UNSUPPORTED, oracle, reason)


def field_round(full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments, seed: int, number: int) -> Verdict:
    """Round `number` of the field oracle: its own prime, random functions and residues for inputs."""
    arithmetic = Field(PRIMES[number % len(PRIMES)], seed=seed + number)
    flaws = [nonfinite(full), nonfinite(subnet)]
    if any(flaws):
        status = Status.UNSUPPORTED if all(flaws) else Status.DIFFERENT
        return Verdict(status, "field", f"{flaws[0] or flaws[1]}, which has no residue")
    args, kwargs = residues(given, arithmetic, seed + number)
    reads = Reads(None)
    finished = False
    try:
        try:
            left, work = field_mode.run(full, args, kwargs, arithmetic, reads)
        except NumbersNeededError:
            reads = Reads(_numbers_read(full, given))
            left, work = field_mode.run(full, args, kwargs, arithmetic, reads)
        finished = True
        right, _ = field_mode.run(subnet, args, kwargs, arithmetic, Followed(reads.taken))
    except UnsupportedOperation as error:
        return Verdict(Status.UNSUPPORTED, "field", str(error))
    except ReadsDifferentError as error:
        return Verdict(Status.DIFFERENT, "field", str(error))
    except Exception as error:  # noqa: BLE001 - a subnet that does not run is a finding
        if reads.taken and not finished:  # numbers from one run beside an order from another: no fault of the model
            found = f"the full model does not run on residues and numbers it reads in float64: raised {sentence(error)}"
            return Verdict(Status.UNSUPPORTED, "field", found)
        return Verdict(Status.DIFFERENT, "field", f"raised {sentence(error)}")
    if work.contractions == 0:
        return Verdict(Status.UNSUPPORTED, "field", "nothing was exercised: no contraction ran")
    problem, count = _same(left, right, torch.equal)
    details = {"prime": arithmetic.prime, "operations": work.operations, "nonlinear": work.nonlinear}
    status = Status.DIFFERENT if problem else Status.EQUAL
    return Verdict(status, "field", problem, count, work.contractions, details=details)


def _numbers_read(model: torch.nn.Module, given: Arguments) -> list[Noted]:
    """What the model's code reads of computed values in float64. Raises UnsupportedOperation if it does not run."""
    twin, args = doubled(model, given)
    try:
        return noted(twin, lambda above: evaluate_wide(twin, args, above))
    except Exception as error:
        found = f"code reads computed values, and in float64 it raised {sentence(error)}"
        raise UnsupportedOperation("the model", found) from error


def nonfinite(model: torch.nn.Module) -> str:
    """Names state that no ring can stand for: zero times NaN or infinity is not zero. '' where all is well."""
    for name, parameter in model.named_parameters():
        if may_hold_residues(parameter.dtype) and not torch.isfinite(parameter).all():
            return f"{name} holds NaN or infinity"
    for name, buffer in model.named_buffers():
        if torch.isnan(buffer).any():  # infinities are masks, and stand for themselves
            return f"{name} holds NaN"
    return ""


def arithmetic(
    oracle: str, full: torch.nn.Module, given: Arguments, seed: int, number: int
) -> tuple[Callable[[torch.nn.Module], Any], Callable[[torch.Tensor, torch.Tensor], bool]]:
    """What an oracle computes with: how it runs a module on the given arguments, and when it takes two values as equal.

    seed and number are those of `field_round`. The gradient oracle's forward pass is taken in the field.
    """
    if oracle == "float64":
        _, bound = error_bound(*doubled(full, given))
        return lambda model: evaluate_wide(*doubled(model, given)), lambda a, b: _within(a, b, bound)
    if oracle == "native":
        return lambda model: evaluate(model, given), _close
    field = Field(PRIMES[number % len(PRIMES)], seed=seed + number)
    args, kwargs = residues(given, field, seed + number)
    numbers: list[Noted] = []

    def run(model: torch.nn.Module) -> Any:
        try:
            return field_mode.run(model, args, kwargs, field, Reads(numbers or None))[0]
        except NumbersNeededError:
            numbers.extend(_numbers_read(full, given))
            return field_mode.run(model, args, kwargs, field, Reads(numbers))[0]

    return run, torch.equal


def residues(given: Arguments, arithmetic: Field, seed: int) -> Arguments:
    """The arguments with uniform random residues in place of every floating tensor."""
    generator = torch.Generator().manual_seed(seed)

    def draw(leaf: torch.Tensor) -> torch.Tensor:
        if not leaf.is_floating_point():
            return leaf
        return arithmetic.random(tuple(leaf.shape), generator).to(storage(leaf.dtype)).to(leaf.device)

    drawn: Arguments = pytree.tree_map_only(torch.Tensor, draw, given)
    return drawn


def evaluate(model: torch.nn.Module, given: Arguments) -> Any:
    """One forward pass in evaluation mode on copies; nothing of the caller's changes."""
    twin = shadow(model).eval()
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.clone(), given)
    with reproducible():
        return twin(*args, **kwargs)


def doubled(model: torch.nn.Module, given: Arguments) -> tuple[torch.nn.Module, Arguments]:
    """Model copy (sharing nothing) and arguments in float64."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        wide = parameter.detach().to(torch.float64, copy=True) if parameter.is_floating_point() else parameter.detach()
        memo[id(parameter)] = torch.nn.Parameter(wide, requires_grad=False)
    twin = copy.deepcopy(model, memo).double()
    args = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, given)
    return twin, args


def _float64(full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments, *_: int) -> Verdict:
    # A tape holds constants of the traced dtype (an eps, a mask's minimum): so must the reference.
    full = subnet.whole(full) if isinstance(subnet, GraphSubnet) else with_traced_norms(full, subnet)
    try:
        left, bound = error_bound(*doubled(full, given))
    except Exception as error:  # noqa: BLE001 - as above
        return _without_reference(subnet, given, f"raised {sentence(error)}")
    try:
        right = evaluate_wide(*doubled(subnet, given))
    except Exception as error:  # noqa: BLE001 - as above
        return Verdict(Status.DIFFERENT, "float64", f"raised {sentence(error)}")
    worst = _largest(left, right)
    problem, count = _same(left, right, lambda a, b: _within(a, b, bound))
    details = {"relative_bound": bound}
    return Verdict(
        Status.DIFFERENT if problem else Status.EQUAL,
        "float64",
        problem,
        count,
        max_abs=worst,
        details=details,
    )


def _without_reference(subnet: torch.nn.Module, given: Arguments, raised: str) -> Verdict:
    """The full model raised: no difference where the subnet does so too, whose code is the same."""
    try:
        evaluate_wide(*doubled(subnet, given))
    except Exception:  # noqa: BLE001 - as above
        return Verdict(Status.UNSUPPORTED, "float64", f"the model does not run in float64: it {raised}")
    return Verdict(Status.DIFFERENT, "float64", raised)


def _gradient(
    full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments, choice: Selection, seed: int
) -> Verdict:
    full = subnet.whole(full) if isinstance(subnet, GraphSubnet) else with_traced_norms(full, subnet)
    try:
        wide, args = doubled(full, given)
        return gradient.compare(wide, doubled(subnet, given)[0], args, choice, seed)
    except Exception as error:  # noqa: BLE001 - as above
        return Verdict(Status.DIFFERENT, "gradient", f"raised {sentence(error)}")


def _within(a: torch.Tensor, b: torch.Tensor, relative: float) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return False
    if not finite.any():
        return True
    scale = float(a[finite].abs().max())
    return float((a[finite] - b[finite]).abs().max()) <= relative * max(scale, torch.finfo(torch.float64).tiny)


def _native(full: torch.nn.Module, subnet: torch.nn.Module, given: Arguments, *_: int) -> Verdict:
    try:
        left, right = evaluate(full, given), evaluate(subnet, given)
    except Exception as error:  # noqa: BLE001 - as above
        return Verdict(Status.DIFFERENT, "native", f"raised {sentence(error)}")
    problem, count = _same(left, right, _close)
    bitwise = not _same(left, right, torch.equal)[0]
    return Verdict(
        Status.DIFFERENT if problem else Status.EQUAL, "native", problem, count, max_abs=_largest(left, right),
        details={"bitwise": bitwise, "ulp": _ulps(left, right)},
    )  # fmt: skip


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    try:
        torch.testing.assert_close(b, a, equal_nan=True)
    except AssertionError:
        return False
    return True


def _ulps(left: Any, right: Any) -> float:
    """The largest difference in units of the last place of the larger tensor entry."""
    worst = 0.0
    for a, b in zip(tensors_in(left), tensors_in(right), strict=False):
        if a.is_floating_point() and a.numel() and a.shape == b.shape:
            step = (torch.nextafter(a.abs(), torch.full_like(a, float("inf"))) - a.abs()).clamp_min(
                torch.finfo(a.dtype).tiny
            )
            worst = max(worst, float(((a - b).abs() / step).nan_to_num().max()))
    return worst


def _same(left: Any, right: Any, judge: Callable[[torch.Tensor, torch.Tensor], bool]) -> tuple[str, int]:
    """(what differs first or '', how many elements were compared)."""
    mine, theirs = tensors_in(left), tensors_in(right)
    if len(mine) != len(theirs):
        return f"{len(mine)} outputs against {len(theirs)}", 0
    compared = 0
    for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        if a.shape != b.shape:
            return f"output {number} has shape {tuple(a.shape)} against {tuple(b.shape)}", compared
        if not judge(a, b):
            wrong = int((a != b).sum())
            return (
                f"output {number} of shape {tuple(a.shape)} differs in {wrong} of {a.numel()} elements",
                compared,
            )
        compared += a.numel()
    return ("" if compared else "the outputs have no elements"), compared


def _largest(left: Any, right: Any) -> float:
    worst = 0.0
    for a, b in zip(tensors_in(left), tensors_in(right), strict=False):
        if a.is_floating_point() and a.shape == b.shape and a.numel():
            worst = max(worst, float((a - b).abs().nan_to_num(nan=float("inf")).max()))
    return worst


ORACLES: dict[str, Callable[[torch.nn.Module, torch.nn.Module, Arguments, int, int], Verdict]] = {
    "field": field_round,
    "float64": _float64,
    "native": _native,
}
