"""AdaHSPG+ (reconstructed): its gradients, its proximal step, its phases, and where it ends up on a convex problem."""

from __future__ import annotations

import itertools

import oto_nets as on
import pytest
import torch
from torch import nn

import conformance as pc
from conformance.errors import UsageError
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import OTO, AdaHSPG, Quota, Rows

SAMPLES, BATCH = 12, 3


class Losses:
    """Twelve samples in batches of three, and closures for a batch and for all of them."""

    def __init__(self, model, seed=0):
        draw = torch.Generator().manual_seed(seed)
        dtype = next(model.parameters()).dtype
        self.model = model
        self.x = torch.randn(SAMPLES, 3, 6, 6, generator=draw, dtype=dtype)
        self.y = torch.randn(SAMPLES, 4, generator=draw, dtype=dtype)

    def of(self, samples):
        def closure():
            loss = (self.model(self.x[samples]) - self.y[samples]).square().mean()
            loss.backward()
            return loss.detach()

        return closure

    def batch(self, number):
        start = BATCH * (number % (SAMPLES // BATCH))
        return self.of(slice(start, start + BATCH))

    @property
    def full(self):
        return self.of(slice(None))


def made(model, losses, base=lambda p: torch.optim.SGD(p, lr=0.05), budget="groups=0.5", **options):
    options = {"phase_steps": 4, "full": losses.full, "buffers": model.buffers(), **options}
    groups = on.groups_of(model)
    quota = Quota(groups, Budget.parse(budget), Limits(), Cost(groups))
    return AdaHSPG(base(model.parameters()), Rows(units(model, groups)), quota, **options)


def gradients(model, closure):
    model.zero_grad()
    closure()
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters()}


def test_a_corrected_gradient_is_that_of_low_variance():
    """g(x) - g(anchor) + mu, and over all batches its mean is the gradient of all data at x."""
    model = on.net(norm=False)
    losses = Losses(model)
    optimizer = made(model, losses, phase_steps=10)
    anchor = on.state_of(model)
    mu = gradients(model, losses.full)
    for step in range(3):
        model.zero_grad()
        optimizer.step(losses.batch(step))
    here = on.state_of(model)
    full = gradients(model, losses.full)
    total = {name: torch.zeros_like(value) for name, value in full.items()}
    for number in range(SAMPLES // BATCH):
        plain = gradients(model, losses.batch(number))
        model.load_state_dict(anchor)
        at_anchor = gradients(model, losses.batch(number))
        model.load_state_dict(here)
        gradients(model, losses.batch(number))
        optimizer.correct(losses.batch(number))
        assert on.same(on.state_of(model), here)
        for name, tensor in model.named_parameters():
            torch.testing.assert_close(tensor.grad, plain[name] - at_anchor[name] + mu[name])
            total[name] += tensor.grad / (SAMPLES // BATCH)
    for name, value in full.items():
        torch.testing.assert_close(total[name], value)


def test_a_proximal_step_shortens_every_group():
    model = on.net(norm=False)
    losses = Losses(model)
    optimizer = made(model, losses, penalty=7.0, base=lambda p: torch.optim.SGD(p, lr=0.1))
    rows = on.entries(model, optimizer.quota.groups)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    full = gradients(model, losses.full)
    model.zero_grad()
    optimizer.step(losses.batch(0))
    after = dict(model.named_parameters())
    step = {name: before[name] - 0.1 * full[name] for name in before}
    shortened = zeros = 0
    for masks in rows.values():
        z = on.vector(step, masks)
        expected = max(0.0, 1 - 0.1 * 7.0 / float(z.norm())) * z
        torch.testing.assert_close(on.vector(after, masks).detach(), expected)
        zeros += not expected.any()
        shortened += bool(expected.any())
    assert zeros
    assert shortened
    torch.testing.assert_close(after["fc.weight"].detach(), step["fc.weight"])
    assert not optimizer.gone.any(), "zero groups may come back"


def test_an_evaluation_at_the_anchor_leaves_no_trace():
    """Running statistics, gradients of the caller's making and the random state."""
    model = on.net().train()
    losses = Losses(model)
    optimizer = made(model, losses)
    model.zero_grad()
    optimizer.step(losses.batch(0))
    model.zero_grad()
    losses.batch(1)()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    state = torch.get_rng_state()

    def drawing():
        torch.randn(5)
        return losses.batch(1)()

    optimizer.correct(drawing)
    assert torch.equal(state, torch.get_rng_state())
    assert on.same(buffers, dict(model.named_buffers()))


def test_phases_follow_the_rules():
    """Two proximal phases with the same zeros, then half-space phases while groups go and the objective falls."""
    model = on.net(norm=False)
    losses = Losses(model)
    optimizer = made(model, losses, phase_steps=3, penalty=0.02, epsilon=0.3, radius=10.0)
    seen = []
    for step in range(240):
        optimizer.zero_grad()
        optimizer.step(losses.batch(step))
        if optimizer.place == 0 and not optimizer.met:
            seen.append((optimizer.phase, int(optimizer.gone.sum()), float(optimizer.epsilons[0])))
    phases = [phase for phase, _, _ in seen]
    assert phases[0] == "proximal"
    assert "half-space" in phases
    for (before, gone, epsilon), (after, left, later) in itertools.pairwise(seen):
        if before == "proximal":
            assert (gone, epsilon) == (left, later), "nothing leaves for good in a proximal phase"
        elif after == "half-space":
            assert left > gone
        elif left == gone:
            assert later != epsilon or later in (0.0, 0.999)


def test_no_group_longer_than_the_radius_is_projected():
    model = on.net(norm=False)
    with torch.no_grad():  # two lengths in each axis
        model.conv1.weight[:4].mul_(10)
        model.conv2.weight[:6].mul_(10)
        model.conv3.weight[:4].mul_(10)
    losses = Losses(model)
    options = {"phase_steps": 100, "penalty": 0.0, "epsilon": 0.999, "base": lambda p: torch.optim.SGD(p, lr=1.0)}
    for radius in (1.0, 100.0):
        twin = on.net(norm=False)
        twin.load_state_dict(model.state_dict())
        optimizer = made(twin, losses, radius=radius, budget="groups=0.9", **options)
        optimizer.phase = "half-space"
        norms = optimizer.rows.norms()
        for parameter in twin.parameters():
            parameter.grad = 0.1 * parameter.detach()  # straight to the origin
        optimizer.step(loss=1.0)
        gone = set(optimizer.zero_groups.tolist())
        axes = torch.from_numpy(optimizer.quota.groups.axis_of)
        long = {number for number in gone if norms[number] > norms[axes == axes[number]].mean()}
        assert gone
        assert bool(long) == (radius > 1)


def test_it_finds_the_groups_of_a_convex_problem():
    """A linear layer whose outputs are multiplied by fixed signs: the group lasso, solved with plain proximal steps."""
    torch.manual_seed(0)
    x = torch.randn(64, 6, dtype=torch.float64)
    true = torch.randn(8, 6, dtype=torch.float64)
    true[3:] = 0
    y = x @ true.T @ torch.ones(8, 1, dtype=torch.float64) + 0.01 * torch.randn(64, 1, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 1, bias=False)).double()
    signs = torch.tensor([[1.0, 0.5, -1.0, 0.1, -0.1, 0.2, 0.05, -0.2]], dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.copy_(signs)
    model[1].weight.requires_grad_(False)

    def loss_of(net, samples=slice(None)):
        return (net(x[samples]) - y[samples]).square().mean()

    penalty, lr = 0.3, 0.02
    weight = model[0].weight.detach().clone()
    for _ in range(4000):
        weight.requires_grad_(True)
        (gradient,) = torch.autograd.grad((x @ weight.T @ signs.T - y).square().mean(), weight)
        z = weight.detach() - lr * gradient
        weight = (1 - lr * penalty / z.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(min=0) * z
    solution = set((weight.norm(dim=1) == 0).nonzero().flatten().tolist())
    assert 0 < len(solution) < 8

    groups = pc.partition(pc.trace(model, x[:2]))
    assert groups.count == 8
    share = len(solution) / 8
    quota = Quota(groups, Budget("groups", share), Limits(), Cost(groups))

    def full():
        loss = loss_of(model)
        loss.backward()
        return loss.detach()

    base = torch.optim.SGD([model[0].weight], lr=lr)
    optimizer = AdaHSPG(base, Rows(units(model, groups)), quota, full=full, phase_steps=16, penalty=penalty)
    for step in range(4000):
        samples = slice(4 * (step % 16), 4 * (step % 16) + 4)

        def closure(samples=samples):
            loss = loss_of(model, samples)
            loss.backward()
            return loss.detach()

        optimizer.zero_grad()
        optimizer.step(closure)
    gone = model[0].weight.detach().norm(dim=1) == 0
    assert set(gone.nonzero().flatten().tolist()) == solution
    assert len(optimizer.zero_groups) == len(solution)


def test_a_loop_without_closure_or_loss_is_told():
    model = on.net(norm=False)
    losses = Losses(model)
    optimizer = made(model, losses)
    on.give_gradients(model, 0)
    with pytest.raises(UsageError, match="call step\\(closure\\)"):
        optimizer.step(loss=1.0)
    optimizer.correct(losses.batch(0))
    with pytest.raises(UsageError, match="looks at the loss"):
        optimizer.step()


def test_the_front_door():
    model = on.net(dtype=torch.float32)
    losses = Losses(model)
    oto = OTO(model, torch.randn(2, 3, 6, 6))
    optimizer = oto.adahspg_reconstructed(
        lr=0.05, target_group_sparsity=0.5, phase_steps=4, full=losses.full, epsilon=0.5, complete=(20, 30)
    )
    for step in range(40):
        optimizer.zero_grad()
        optimizer.step(losses.batch(step))
    assert pc.equivalent(model.eval(), oto.construct_subnet(), losses.x, oracle="field").equal
