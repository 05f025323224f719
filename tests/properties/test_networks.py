"""Random networks: every subnet of every partition is exact, by both oracles."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import conformance as pc
from conformance.strategies import INPUTS, Network, networks, selections
from conformance.strategies.layers import (
    Activation,
    Conv,
    Dropout,
    Embedding,
    Linear,
    Norm,
    PerPosition,
    Scale,
)
from conformance.strategies.reshaping import Flatten
from conformance.subnet.tape_module import GraphSubnet

EXAMPLES = {"dev": 48, "ci": 204, "nightly": 10_002}
"""Networks of a profile, by all inputs together."""

FEW = 6
"""Where there are no more groups than this, each of them leaves alone too."""

UNSUPPORTED: frozenset[str] = frozenset()
"""What the field oracle may say it cannot decide. Nothing: every operation that is drawn has an exact rule."""

profile = settings(
    max_examples=EXAMPLES[settings.get_current_profile_name()] // len(INPUTS),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
Args = tuple[Tensor, ...]


# -- the property ----------------------------------------------------------------------------------


def groups_of(model: nn.Module, args: Args) -> pc.Groups:
    return pc.partition(pc.trace(model, args))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def disjoint(groups: pc.Groups) -> None:
    """Each position of the state is in one group or held back for a reason, and each group has some of it."""
    seen = np.zeros(groups.count + 1, dtype=bool)
    for index, lines in groups.state.items():
        for dim, labels in enumerate(lines):
            events = groups.held[index, dim]
            assert ((labels == 0) == (events >= 0)).all(), groups.graph.values[index]
            assert labels.size == 1 or not (labels[0] and (labels == labels[0]).all())
            seen[labels] = True
    assert seen[1:].all()


def exact(model: nn.Module, choice: pc.Selection, args: Args, *, seed: int = 0, thorough: bool = True) -> nn.Module:
    """The subnet, which equals the zeroed model."""
    full, subnet = pc.zero(model, choice), pc.extract(model, choice)
    for oracle in ("field", "float64") if thorough else ("field",):
        verdict = pc.equivalent(full, subnet, args, oracle=oracle, seed=seed)
        undecided = verdict.status is pc.Status.UNSUPPORTED and verdict.reason in UNSUPPORTED
        assert verdict.equal or undecided, f"{verdict.status} by {oracle}: {verdict.reason}; without {choice.slices()}"
    return subnet


def another_batch(net: Network, model: nn.Module, choice: pc.Selection, subnet: nn.Module) -> None:
    """A graph has the traced shapes only: it is made anew from the same selection."""
    args = net.inputs(3)
    groups = groups_of(model, args)
    assert sorted(groups.kinds) == sorted(choice.groups.kinds), "the batch has nothing to say about groups"
    if isinstance(subnet, GraphSubnet):
        subnet = GraphSubnet(groups.graph, pc.Selection.from_json(choice.to_json(), groups))
    pc.assert_equivalent(pc.zero(model, choice), subnet, args, seed=1)


def check(net: Network, data: st.DataObject) -> int:
    """How many groups the network has, all of which was found to be right."""
    model, args = net.build()
    before, given_args = state_of(model), copy.deepcopy(args)
    groups = groups_of(model, args)
    disjoint(groups)
    choice = data.draw(selections(groups), label="choice")
    another_batch(net, model, choice, exact(model, choice, args))
    if groups.count <= FEW:
        for number in range(1, groups.count + 1):
            exact(model, groups.select([number]), args, thorough=False)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(torch.equal(one, other) for one, other in zip(given_args, args, strict=True))
    assert not model.training
    plain = plain_groups(net)
    assert plain is None or groups.count == plain, f"{groups.count} groups, where a plain chain has {plain}"
    return groups.count


def plain_groups(net: Network) -> int | None:
    """How many groups a network must have when all it does is obvious; None otherwise.

    In a chain without branches each row of a layer whose result nothing but the next layer reads is a group. One that
    is alone in its layer stays.
    """
    form, count = net.input, 0
    for layer in net.layers:
        match layer:
            case Conv(groups=1) | Linear() | PerPosition() | Embedding():
                form = layer.after(form)
                count += form.width if form.width > 1 else 0
            case Norm(kind="batch") | Dropout() | Scale() | Flatten():
                if not count:  # of the input itself
                    return None
                form = layer.after(form)
            case Activation(kind=kind) if kind != "softmax":
                pass
            case _:
                return None
    return None if net.readout == "tied" else count


@pytest.mark.parametrize("inputs", INPUTS)
def test_every_subnet_of_a_random_network_is_exact(inputs):
    counts = []

    @given(net=networks([inputs]), data=st.data())
    @profile
    def holds(net, data):
        counts.append(check(net, data))

    holds()
    assert len(counts) >= profile.max_examples / 2
    assert np.count_nonzero(counts) >= len(counts) / 4, "many networks have groups"
