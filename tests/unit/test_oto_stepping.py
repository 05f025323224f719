"""Steps made by torch's fused kernels: the same as the base's, and left to the base where they must."""

from __future__ import annotations

import oto_nets as on
import pytest
import torch

from conformance.errors import UsageError
from reference_impls.oto import DHSPG, HESSO, HSPG, stepping
from reference_impls.oto.stepping import Stepping

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=1e-2),
    "ascent": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=1e-2, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.5, 0.99), amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "unfused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2, fused=False),
}
bases = pytest.mark.parametrize("base", BASES)
NEAR = dict.fromkeys(("adam", "adamw", "amsgrad", "fused"), 0.995) | {"sgd": 0.93}
"""Epsilons at which groups leave in a few steps."""
METHODS = {
    "hspg": (HSPG, {"start_step": 2, "penalty": 0.02}),
    "dhspg": (DHSPG, {"start_step": 2, "penalty": 0.3}),
    "hesso": (HESSO, {"start_step": 2, "pruning_steps": 6, "periods": 2}),
}


def run(method, base, steps=10, without=False, silent=()):
    """A net after some steps, its groups at zero after each, and what the base remembers."""
    cls, options = METHODS[method]
    model = on.net()
    near = {} if cls is HESSO else {"epsilon": NEAR.get(base, 0.98)}
    optimizer = on.wrapped(cls, model, BASES[base], **near, **options)
    if without:
        optimizer.stepping = Nothing(optimizer.base)
    gone = []
    for step in range(steps):
        on.give_gradients(model, step)
        for name, parameter in model.named_parameters():
            if name in silent and step % 3 == 1:
                parameter.grad = None
        optimizer.step()
        gone.append(optimizer.zero_groups.tolist())
    held = {
        f"{name}.{key}": torch.as_tensor(value).clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    return on.state_of(model), gone, held


class Nothing(Stepping):
    """Nothing fits."""

    usable = False


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name} {text}"
        )


@bases
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("silent", [(), ("conv1.weight", "norm2.bias")], ids=["", "silent"])
def test_a_run_is_the_same_as_with_the_bases_own_steps(method, base, silent):
    one, other = (run(method, base, without=without, silent=silent) for without in (False, True))
    assert one[1] == other[1]
    assert one[1][-1]
    assert_close(one[0], other[0])
    assert_close(one[2], other[2])


@pytest.mark.parametrize("fault", ["parameter", "decay"])
def test_a_parameter_or_decay_that_is_left_out_shows(fault, monkeypatch):
    """The comparison above can fail."""
    step = Stepping._step
    if fault == "parameter":
        monkeypatch.setattr(Stepping, "_step", lambda self, group, tensors: step(self, group, tensors[:-1]))
    else:
        monkeypatch.setattr(Stepping, "_step", lambda self, group, some: step(self, {**group, "weight_decay": 0}, some))
    one, other = (run("dhspg", "adamw", without=without) for without in (False, True))
    with pytest.raises(AssertionError):
        assert_close(one[0] | one[2], other[0] | other[2])


def usable(base, model=None):
    """An optimizer after two steps, and the parameters that it steps itself, by id."""
    model = on.net() if model is None else model
    optimizer = on.wrapped(HSPG, model, base, start_step=0)
    for step in range(2):
        on.give_gradients(model, step)
        optimizer.step()
    (group,) = optimizer.param_groups
    return optimizer, {id(tensor) for tensor in optimizer.stepping._fitting(group)}


@pytest.mark.parametrize(
    "base",
    [
        lambda p: torch.optim.RMSprop(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), capturable=False),
        type("Own", (torch.optim.SGD,), {}),
    ],
    ids=["rmsprop", "foreach", "lr tensor", "subclass"],
)
def test_other_bases_step_themselves(base):
    model = on.net()
    optimizer = on.wrapped(HSPG, model, base, start_step=0)
    on.train(model, optimizer, 2)
    assert not optimizer.stepping.usable


@pytest.mark.parametrize("base", ["adam", "adamw", "amsgrad"])
def test_counts_are_sent_to_where_the_parameters_are(base, monkeypatch):
    """As for parameters on a GPU whose base keeps its counts on the CPU: the same kernel, the same bits."""
    made, full = [], torch.full
    silent = ("conv1.weight", "norm2.bias")  # two counts that differ from the others'
    wanted = run("hspg", base, silent=silent)
    monkeypatch.setattr(stepping, "_elsewhere", lambda count, device: True)
    monkeypatch.setattr(torch, "full", lambda *args, **told: made.append(args[1]) or full(*args, **told))
    found = run("hspg", base, silent=silent)
    assert found[1] == wanted[1]
    for one, other in ((found[0], wanted[0]), (found[2], wanted[2])):
        assert on.same(one, other)
    assert 9 < len([number for number in made if number >= 1]) <= 2 * 9  # after the first step one or two each


@pytest.mark.parametrize("base", ["adam", "adamw", "amsgrad"])
def test_the_kernel_is_called_as_torch_calls_it(base):
    def prepared():
        torch.manual_seed(0)
        some = [torch.randn(6, 3), torch.randn(5, dtype=torch.float64), torch.randn(4, 2)]
        parameters = [torch.nn.Parameter(one) for one in some]
        optimizer = BASES[base](parameters)
        for step in range(3):
            for number, parameter in enumerate(parameters):
                parameter.grad = None if number == step else torch.full_like(parameter, 0.1 * step - 0.3 * number)
            optimizer.step()
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return parameters, optimizer

    parameters, optimizer = prepared()
    (group,) = optimizer.param_groups
    Stepping(optimizer)._step(group, parameters)
    others, other = prepared()
    other.param_groups[0]["fused"] = True
    other.step()
    for one, twin in zip(parameters, others, strict=True):
        assert torch.equal(one, twin)
        assert on.same(optimizer.state[one], other.state[twin])


@pytest.mark.parametrize("key", ["exp_avg", "step"])
def test_state_of_another_sort_is_left_to_the_base(key):
    optimizer, fitting = usable("adamw")
    (group,) = optimizer.param_groups
    parameter = group["params"][0]
    assert id(parameter) in fitting
    held = optimizer.state[parameter]
    held[key] = held[key].to("meta")
    assert not any(one is parameter for one in optimizer.stepping._fitting(group))


class Asked(torch.Tensor):
    """A learning rate that counts how often it is read: on a GPU each time waits for it."""

    count = 0

    def __float__(self):
        Asked.count += 1
        return self.item()


@pytest.mark.parametrize("base", [lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), torch.optim.AdamW])
def test_a_learning_rate_is_read_once_a_param_group(base):
    model = on.net()
    optimizer = on.wrapped(DHSPG, model, lambda p: base(p, lr=0.01), start_step=0, penalty=0.1)
    on.train(model, optimizer, 2)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.01).as_subclass(Asked)
    members = optimizer.rows.members
    Asked.count = 0
    rates, _ = optimizer.stepping.rates(members)
    assert Asked.count == 1
    assert rates == pytest.approx([0.01] * len(members))
    shifts = optimizer.stepping.shifts()
    assert Asked.count <= 2
    assert all(rate == pytest.approx(0.01) for _, rate in shifts.values())


def test_a_base_with_hooks_steps_itself():
    optimizer, fitting = usable("momentum")
    assert fitting
    optimizer.base.register_step_post_hook(lambda *_: None)
    assert not optimizer.stepping.usable


def test_what_does_not_lie_in_one_piece_is_left_to_the_base():
    model = on.net().to(memory_format=torch.channels_last)
    _, fitting = usable("momentum", model)
    assert id(model.conv1.weight) not in fitting  # conv2 and conv3 have kernels of 1
    assert id(model.fc.weight) in fitting
    half, fitting = usable("momentum", on.net(dtype=torch.bfloat16))
    assert half.stepping.usable
    assert not fitting


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_not_captured(method, monkeypatch):
    cls, options = METHODS[method]
    model = on.net()
    optimizer = on.wrapped(cls, model, "momentum", **options)
    on.train(model, optimizer, 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(UsageError, match="CUDA graph"):
        on.train(model, optimizer, 1, start=2)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    on.train(model, optimizer, 1, start=2)


def test_gradients_are_back_whatever_happens(monkeypatch):
    model = on.net()
    optimizer = on.wrapped(HSPG, model, "momentum", start_step=0, penalty=0.0)
    on.train(model, optimizer, 2)
    on.give_gradients(model, 2)
    given = [parameter.grad for parameter in model.parameters()]
    seen = []

    def fail():
        seen.extend(parameter.grad for parameter in model.parameters())
        raise RuntimeError("the base fails")

    monkeypatch.setattr(optimizer.base, "step", fail)
    with pytest.raises(RuntimeError, match="the base fails"):
        optimizer.step()
    assert all(gradient is None for gradient in seen)
    assert all(parameter.grad is gradient for parameter, gradient in zip(model.parameters(), given, strict=True))
