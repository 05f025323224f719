"""What a run leaves: zeros that are zero, a subnet that is exact, masks that hold, names that are kept."""

from __future__ import annotations

from dataclasses import replace

import torch

from conformance.equivalence.compare import equivalent
from conformance.equivalence.verdict import Status
from conformance.method.contract.registry import CheckFailed, CheckSkipped, CheckUnsupported, Finding, check
from conformance.method.contract.subject import Subject
from conformance.method.masks import Masks
from conformance.partition.selection import Selection
from conformance.subnet.state import tensor_at
from conformance.subnet.zero import zero


@check("M.zero")
def zeros(subject: Subject) -> Finding:
    """What leaves is exactly zero in the full-size model, after training already where the method declares it."""
    subject.must_remove()
    if subject.masks:
        raise CheckSkipped("the method masks single weights: see M.masks")
    looked = 0
    if subject.facts.zeroes:
        trained = subject.plan()
        looked += _zero_in(trained.run.model, subject.selection(trained), "after training, of what is to leave,")
    result = subject.result()
    return Finding(looked + _zero_in(result.model, subject.selection(result), "in the full-size model"))


def _zero_in(model: torch.nn.Module, choice: Selection, where: str) -> int:
    """How many parameters and buffers were compared with the same model put to zero once more."""
    before, after = model.state_dict(), zero(model, choice).state_dict()
    for name, tensor in after.items():
        if not torch.equal(tensor, before[name]):
            largest = float((before[name] - tensor).abs().max())
            raise CheckFailed(f"{where} {name} is not zero: its largest entry is {largest:.3g}")
    return len(after) if len(choice) else 0


@check("M.exact")
def exact(subject: Subject) -> Finding:
    """The subnet computes what the full-size model computes, by field with two primes and inputs, and in float64."""
    if subject.masks:
        raise CheckSkipped("the method masks single weights: model and subnet are one")
    result = subject.result()
    compared = 0
    for oracle, rounds, draw in (("field", 2, 0), ("field", 1, 1), ("float64", 1, 0)):
        args, kwargs = subject.base.inputs(draw=draw)
        verdict = equivalent(
            result.model, result.subnet, args, kwargs, oracle=oracle, rounds=rounds, seed=subject.seed + draw
        )
        text = f"{verdict.status.value} by the {oracle} oracle: {verdict.reason}"
        if verdict.status is Status.UNSUPPORTED:
            raise CheckUnsupported(text)
        if not verdict.equal:
            raise CheckFailed(f"the subnet is {text}", max_abs=verdict.max_abs)
        compared += verdict.compared
    return Finding(compared)


@check("M.masks")
def masks_hold(subject: Subject) -> Finding:
    """Masked weights are exactly zero in the result, also after fine-tuning, and the density is the true one."""
    if not subject.masks:
        raise CheckSkipped("the method removes groups: see M.zero")
    result = subject.result()
    masks = result.decision
    assert isinstance(masks, Masks)
    if subject.facts.zeroes:
        trained = subject.plan()
        assert isinstance(trained.decision, Masks)
        _hold(trained.decision, trained.run.model, "after training")
    _hold(masks, result.model, "in the result")
    _hold(masks, result.subnet, "in the subnet")
    zero_share = 1 - sum(int(mask.sum()) for mask in masks.kept.values()) / max(_masked(masks), 1)
    if abs(result.removed["weights"] - zero_share) > 1e-12:
        raise CheckFailed(
            f"it reports {result.removed['weights']:.6f} of the weights as zero, masked are {zero_share:.6f}"
        )
    # A task of its own: what fine-tuning reads, the host reads.
    task = subject.task_of(subject.base.model, None)
    tuned = subject.ran(subject.method(), recipe=replace(subject.recipe, finetune_epochs=1), task=task)
    assert isinstance(tuned.decision, Masks)
    _hold(tuned.decision, tuned.subnet, "after fine-tuning")
    return Finding(_masked(masks))


def _masked(masks: Masks) -> int:
    return sum(mask.numel() for mask in masks.kept.values())


def _hold(masks: Masks, model: torch.nn.Module, where: str) -> None:
    for name, mask in masks.kept.items():
        wrong = int((tensor_at(model, name)[~mask] != 0).sum())
        if wrong:
            raise CheckFailed(f"{where} {wrong} masked weights of {name} are not zero")


@check("M.keys")
def keys(subject: Subject) -> Finding:
    """Model and subnet have the state_dict entries of the caller's model, or a declared one-to-one renaming."""
    result, method = subject.result(), subject.given
    wanted = subject.base.model.state_dict()
    looked = 0
    for what, module in (("model", result.model), ("subnet", result.subnet)):
        state = module.state_dict()
        named = {key: method.original_key(key) for key in state}
        if len(set(named.values())) < len(named):
            raise CheckFailed(f"two entries of the {what} are said to be the same original one")
        if missing := sorted(wanted.keys() - named.values()):
            raise CheckFailed(f"the {what} has no {missing[0]} ({len(missing)} entries are missing)")
        if extra := sorted(key for key, name in named.items() if name not in wanted):
            raise CheckFailed(
                f"the {what} has {extra[0]}, which the caller's model has not ({len(extra)} such entries)"
            )
        for key, name in named.items():
            if state[key].dtype != wanted[name].dtype:
                raise CheckFailed(f"{key} of the {what} is {state[key].dtype}, and was {wanted[name].dtype}")
            if what == "model" and state[key].shape != wanted[name].shape:
                raise CheckFailed(f"{key} has shape {tuple(state[key].shape)}, and had {tuple(wanted[name].shape)}")
        looked += len(named)
    return Finding(looked)
