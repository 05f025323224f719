"""Copies of sparse optimizers, by copy.deepcopy and by torch.save: as torch's own, they go on as the original does."""

from __future__ import annotations

import copy
import functools
import io

import oto_nets as on
import pytest
import torch

from conformance.errors import UsageError
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, LHSPG, AdaHSPG, Cycles, Lora, Quota, Rows, attach

PERIODS = {"start_step": 4, "pruning_steps": 20, "periods": 4}
MADE = {
    "hesso": (HESSO, PERIODS),
    "hesso-cric": (HESSOCRIC, {"start_step": 4, "fade_steps": 6, "cycles": Cycles(4, 2)}),
    "hspg": (HSPG, {"start_step": 4, "penalty": 0.02, "epsilon": 0.97, "complete": (20, 34), "adapt_every": 5}),
    "dhspg": (DHSPG, {"start_step": 4, "penalty": 0.02, "epsilon": 0.97, "complete": (20, 34)}),
    "lhspg": (LHSPG, PERIODS),
    "adahspg": (AdaHSPG, {"phase_steps": 4, "penalty": 0.02, "epsilon": 0.9, "complete": (20, 34)}),
}
names = pytest.mark.parametrize("name", MADE)
stops = pytest.mark.parametrize("stop", [2, 9, 17, 27, 38])
END = 44


def full(model):
    on.give_gradients(model, 999)


def pair(name, base="momentum", budget="groups=0.5"):
    """A model and its optimizer."""
    made, options = MADE[name]
    model = on.net()
    if made is AdaHSPG:
        options = {**options, "full": functools.partial(full, model)}
    if made is not LHSPG:
        return model, on.wrapped(made, model, base, budget, **options)
    groups = on.groups_of(model)
    adapters = attach(model, groups, Lora(2, 4.0, 0.0), torch.Generator().manual_seed(1))
    rows = Rows(adapters.units(units(model, groups)))
    quota = Quota(groups, Budget.parse(budget), Limits(), Cost(groups))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, LHSPG(on.BASES[base](trained), rows, quota, adapters, **options)


def saved(both):
    file = io.BytesIO()
    torch.save(both, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def goes_on_as(one, other):
    """Both for the rest of the steps, one after the other: neither touches what the other has."""
    for model, optimizer in (one, other):
        on.train(model, optimizer, END - optimizer.steps, optimizer.steps)
    assert on.same(on.state_of(one[0]), on.state_of(other[0]))
    assert one[1].zero_groups.tolist() == other[1].zero_groups.tolist()
    assert one[1].finished
    assert one[1].sparsity == other[1].sparsity == 0.5


@names
@stops
@pytest.mark.parametrize("copied", [copy.deepcopy, saved])
def test_a_copy_with_its_model_goes_on_bit_for_bit(name, stop, copied):
    model, optimizer = pair(name)
    on.train(model, optimizer, stop)
    twin, other = copied((model, optimizer))
    assert {id(tensor) for tensor in other.rows.parameters} <= {id(tensor) for tensor in twin.parameters()}
    assert other.param_groups is other.base.param_groups
    assert other.state is other.base.state
    before = on.state_of(twin)
    on.train(model, optimizer, 1, stop)
    assert on.same(before, on.state_of(twin))
    goes_on_as((twin, other), (model, optimizer))


@names
@pytest.mark.parametrize("base", ["sgd", "adamw", "rmsprop"])
def test_copies_around_other_bases_and_budgets(name, base):
    for budget in ("macs=0.3", "params=0.3"):
        model, optimizer = pair(name, base, budget)
        on.train(model, optimizer, 9)
        pairs = [(model, optimizer), copy.deepcopy((model, optimizer)), saved((model, optimizer))]
        for one, other in pairs:
            on.train(one, other, END - 9, 9)
        for one, other in pairs[1:]:
            assert on.same(on.state_of(one), on.state_of(model))
            assert other.sparsity == optimizer.sparsity > 0


@names
def test_an_optimizer_alone_is_copied_with_its_own_parameters(name):
    model, optimizer = pair(name)
    on.train(model, optimizer, 9)
    for other in (copy.deepcopy(optimizer), saved(optimizer)):
        mine = [tensor for group in other.param_groups for tensor in group["params"]]
        given = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        assert all(torch.equal(one, two) and one is not two for one, two in zip(mine, given, strict=True))
        assert {id(tensor) for tensor in mine} >= {id(one) for one in other.rows.parameters if one.requires_grad}
        other.load_state_dict(optimizer.state_dict())


class Counting(torch.optim.SGD):
    """A base with attributes of the wrapper's names."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.05, momentum=0.9)
        self.steps, self.gone, self.rows = 5, None, None


def test_a_base_may_have_attributes_of_the_same_names():
    model = on.net()
    optimizer = on.wrapped(HESSO, model, Counting, **PERIODS)
    on.train(model, optimizer, 9)
    twin, other = copy.deepcopy((model, optimizer))
    assert other.steps == 9
    goes_on_as((twin, other), (model, optimizer))


def test_a_schedulers_patch_stays_with_the_original():
    model, optimizer = pair("hesso")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    on.train(model, optimizer, 3)
    schedule.step()
    twin, other = copy.deepcopy((model, optimizer))
    before = on.state_of(model)
    on.train(twin, other, 1, 3)
    assert other.steps == 4
    assert optimizer.steps == 3
    assert on.same(before, on.state_of(model))
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_adahspg_wants_a_function_over_the_copied_model():
    model = on.net()
    optimizer = on.wrapped(AdaHSPG, model, **MADE["adahspg"][1])  # a lambda over this model
    with pytest.raises(UsageError, match=r"save its state_dict\(\)"):
        saved(optimizer)
    twin, other = copy.deepcopy((model, optimizer))
    with pytest.raises(UsageError, match="set its `full`"):
        on.train(twin, other, 1)
    other.full = functools.partial(full, twin)
    goes_on_as((twin, other), (model, optimizer))


def test_what_measures_time_cannot_be_pickled():
    model, optimizer = pair("hesso")
    groups = optimizer.quota.groups
    cost = Cost(groups, latency=lambda choice: 1 - len(choice) / groups.count)
    quota = Quota(groups, Budget("latency", 0.5), Limits(), cost)
    timed = HESSO(torch.optim.SGD(model.parameters(), lr=0.1), optimizer.rows, quota, **PERIODS)
    with pytest.raises(UsageError, match=r"save its state_dict\(\)"):
        saved(timed)
    assert copy.deepcopy(timed).quota is quota
