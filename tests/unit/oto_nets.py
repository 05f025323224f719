"""What the tests of the sparse optimizers share: a small net, optimizers around it, and formulas written out slowly."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

import conformance as pc
from conformance.method import Budget, Cost, Limits, units
from reference_impls.oto import AdaHSPG, Quota, Rows

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=1e-1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
}


def with_options(base, **options):
    """The base, told more."""

    def made(parameters):
        plain = BASES[base](parameters)
        for group in plain.param_groups:
            group.update(options)
        return plain

    return made


class Net(nn.Module):
    """A residual block and a convolution inside it: two axes, one of them over several tensors."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.norm1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(12) if norm else nn.Identity()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        y = y + self.conv3(torch.relu(self.norm2(self.conv2(y))))
        return self.fc(y.mean((2, 3)))


def net(seed=0, dtype=torch.float64, norm=True):
    torch.manual_seed(seed)
    return Net(norm).to(dtype)


GROUPS = {}
"""Traced once: groups follow from the architecture alone."""


def groups_of(model):
    dtype = next(model.parameters()).dtype
    key = type(model), dtype, type(model.norm1)
    if key not in GROUPS:
        GROUPS[key] = pc.partition(pc.trace(copy.deepcopy(model).cpu().eval(), torch.randn(2, 3, 6, 6, dtype=dtype)))
    return GROUPS[key]


def wrapped(made, model, base="momentum", budget="groups=0.5", limits=None, **options):
    groups = groups_of(model)
    quota = Quota(groups, Budget.parse(budget), limits or Limits(), Cost(groups))
    base = BASES[base] if isinstance(base, str) else base
    if made is AdaHSPG:
        options = {"full": lambda: give_gradients(model, 999), "buffers": model.buffers(), **options}
    return made(base(model.parameters()), Rows(units(model, groups)), quota, **options)


def give_gradients(model, step, scale=1.0):
    """Random gradients that depend on the step only."""
    draw = torch.Generator().manual_seed(1000 + step)
    for parameter in model.parameters():
        values = scale * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        parameter.grad = values.to(parameter.device, parameter.dtype)


def train(model, optimizer, steps, start=0, scale=1.0, after=lambda step: None):
    for step in range(start, start + steps):
        give_gradients(model, step, scale)
        corrected(optimizer, lambda step=step: give_gradients(model, step, scale))
        optimizer.step(loss=torch.tensor(1.0 + step % 3))
        after(step)


def corrected(optimizer, closure):
    """What a loop does that has computed the gradients itself."""
    if isinstance(optimizer, AdaHSPG):
        optimizer.correct(closure)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- the specification, a group at a time ---------------------------------------------------------------


def entries(model, groups):
    """For each group the parameters' entries that `zero` sets to zero, found by doing so."""
    ones = net(dtype=torch.float64)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1.0)
    found = {}
    for number in range(1, groups.count + 1):
        zeroed = pc.zero(ones, groups.select([number]))
        found[number] = {name: value == 0 for name, value in zeroed.named_parameters() if (value == 0).any()}
    return found


class SlowBase:
    """SGD, Adam and AdamW from their formulas: `direction` gives d, a step is x - lr d after decoupled decay."""

    def __init__(self, kind):
        group = BASES[kind]([torch.zeros(1, requires_grad=True)]).param_groups[0]
        self.kind, self.group, self.state, self.count = kind, group, {}, 0
        self.lr = group["lr"]
        self.decay = group["weight_decay"] if kind == "adamw" else 0.0

    def direction(self, x, gradients):
        self.count += 1
        found = {}
        for name, gradient in gradients.items():
            g = gradient if self.kind == "adamw" else gradient + self.group["weight_decay"] * x[name]
            if self.kind in ("sgd", "momentum"):
                if self.kind == "momentum":
                    old = self.state.get(name)
                    g = g.clone() if old is None else 0.9 * old + (1 - self.group["dampening"]) * g
                    self.state[name] = g
                found[name] = g
            else:
                (b1, b2), (m, v) = self.group["betas"], self.state.get(name, (0.0, 0.0))
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
                self.state[name] = m, v
                found[name] = (m / (1 - b1**self.count)) / ((v / (1 - b2**self.count)).sqrt() + 1e-8)
        return found

    def forget(self, rows):
        for name, mask in rows.items():
            value = self.state.get(name)
            if isinstance(value, tuple):
                self.state[name] = tuple(torch.where(mask, 0.0, part) for part in value)
            elif value is not None:
                self.state[name] = torch.where(mask, 0.0, value)


def vector(tensors, rows):
    return torch.cat([tensors[name][mask] for name, mask in rows.items()])


def stays_last(groups, scores, gone):
    """In each axis the group that leaves last: it never does."""
    last = set()
    for axis in np.unique(groups.axis_of[1:]):
        inside = [g for g in range(1, groups.count + 1) if groups.axis_of[g] == axis and g not in gone]
        last.add(max(inside, key=lambda g: (scores[g], g)))
    return last
