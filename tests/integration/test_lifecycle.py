"""What a subnet is good for: its class, training, copying, saving; and the original stays as it was."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import conformance as pc
from conformance.backend import Backend, collections
from conformance.errors import ExtractionError
from conformance.graph.tape import tensors_in

MODELS = {
    "timm:resnet18": (3, 64, 64),
    "torchvision:densenet121": (3, 64, 64),
    "timm:deit_tiny_patch16_224": None,
    "transformers:bert": None,
}
zoo = pytest.mark.zoo


class Literal(torch.nn.Module):
    """Its width stands in the code as a number, where no attribute can be repaired."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 24, 3)
        self.norm = torch.nn.BatchNorm2d(24)
        self.mix = torch.nn.Conv2d(24, 12, 1)
        self.head = torch.nn.Linear(12, 5)

    def forward(self, x):
        y = torch.nn.functional.gelu(self.norm(self.conv(x)))
        y = y.reshape(x.shape[0], 24, 36).reshape(x.shape[0], 24, 6, 6)
        return self.head(self.mix(y).mean((2, 3)))


LITERAL = Backend("literal", Literal, lambda batch, g: ((torch.randn(batch, 3, 8, 8, generator=g),), {}))


class Pruned:
    """A model, half of it, and the inputs both take."""

    def __init__(self, backend: Backend) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = pc.randomised(backend.build().eval(), 0)
        self.inputs = backend.inputs(2, torch.Generator().manual_seed(0))
        self.before = {key: tensor.clone() for key, tensor in self.model.state_dict().items()}
        self.choice = pc.partition(pc.trace(self.model, *self.inputs)).sample(0.5, seed=0)
        self.subnet = pc.extract(self.model, self.choice)

    def fresh(self) -> torch.nn.Module:
        return pc.extract(self.model, self.choice)

    def outputs(self, module: torch.nn.Module) -> list[torch.Tensor]:
        args, kwargs = self.inputs
        return [out for out in tensors_in(module(*args, **kwargs)) if out.is_floating_point()]


_made: dict[str, Pruned] = {}


@pytest.fixture(params=[pytest.param(spec, marks=zoo) for spec in MODELS])
def pruned(request):
    spec = request.param
    if spec not in _made:
        prefix, _, name = spec.partition(":")
        _made[spec] = Pruned(collections()[prefix].get(name, MODELS[spec]))
    return _made[spec]


@pytest.fixture(scope="module")
def graph():
    return Pruned(LITERAL)


def step(pruned: Pruned, subnet: torch.nn.Module) -> None:
    """A few steps of training; loss and gradients must behave."""
    optimiser = torch.optim.Adam(subnet.parameters(), lr=1e-4)
    losses = []
    for _ in range(4):
        loss = sum((out.float() - 1).square().mean() for out in pruned.outputs(subnet))
        optimiser.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients = [p.grad for p in subnet.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert sum(bool(gradient.any()) for gradient in gradients) > 0.9 * len(gradients)
        optimiser.step()
    assert losses[-1] < losses[0]


def saved(subnet: torch.nn.Module) -> dict[str, torch.Tensor]:
    file = io.BytesIO()
    torch.save(subnet.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_it_keeps_the_class_and_is_smaller(pruned):
    assert type(pruned.subnet) is type(pruned.model)
    assert pc.kind_of(pruned.subnet) == "same class"
    assert set(pruned.subnet.state_dict()) == set(pruned.model.state_dict())
    counts = [sum(p.numel() for p in module.parameters()) for module in (pruned.subnet, pruned.model)]
    assert counts[0] < 0.75 * counts[1]
    pc.assert_equivalent(pc.zero(pruned.model, pruned.choice), pruned.subnet, *pruned.inputs)


def test_it_trains(pruned):
    step(pruned, copy.deepcopy(pruned.subnet).eval())
    trained = copy.deepcopy(pruned.subnet).train()
    assert trained.training
    step_free = sum(out.float().square().mean() for out in pruned.outputs(trained))
    step_free.backward()
    assert all(torch.isfinite(p.grad).all() for p in trained.parameters() if p.grad is not None)


def test_a_copy_is_independent(pruned):
    twin = copy.deepcopy(pruned.subnet)
    pc.assert_equivalent(pruned.subnet, twin, *pruned.inputs)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not pc.equivalent(pruned.subnet, twin, *pruned.inputs)
    pc.assert_equivalent(pc.zero(pruned.model, pruned.choice), pruned.subnet, *pruned.inputs)


def test_its_state_saves_and_loads_into_a_fresh_extraction(pruned):
    changed = copy.deepcopy(pruned.subnet)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    fresh = pruned.fresh()
    assert not pc.equivalent(changed, fresh, *pruned.inputs)
    fresh.load_state_dict(saved(changed))
    pc.assert_equivalent(changed, fresh, *pruned.inputs)


def test_the_original_is_unchanged(pruned):
    pruned.fresh()
    pc.zero(pruned.model, pruned.choice)
    state = pruned.model.state_dict()
    assert set(state) == set(pruned.before)
    assert all(torch.equal(pruned.before[key], tensor) for key, tensor in state.items())
    assert not pruned.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pruned.model.parameters())


def test_the_chosen_indices_are_the_full_models(pruned):
    """Rows of the subnet are rows of the model, at the places the selection says."""
    groups = pruned.choice.groups
    state, full = pruned.subnet.state_dict(), pruned.model.state_dict()
    for name, index in groups.graph.names.items():
        expected = full.get(name)
        if expected is None:  # a buffer that is not saved
            continue
        for dim in range(expected.ndim):
            expected = expected.index_select(dim, torch.from_numpy(pruned.choice.kept(index, dim)))
        assert torch.equal(state[name], expected), name


class TestGraphSubnet:
    """The traced graph with smaller sizes, where the class cannot be kept."""

    def test_is_a_module_with_the_models_names(self, graph):
        assert pc.kind_of(graph.subnet) == "graph"
        assert set(graph.subnet.state_dict()) == set(graph.model.state_dict())
        pc.assert_equivalent(pc.zero(graph.model, graph.choice), graph.subnet, *graph.inputs)

    def test_trains(self, graph):
        step(graph, copy.deepcopy(graph.subnet))

    def test_copies_and_saves(self, graph):
        twin = copy.deepcopy(graph.subnet)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.5)
        assert not pc.equivalent(graph.subnet, twin, *graph.inputs)
        fresh = graph.fresh()
        fresh.load_state_dict(saved(twin))
        pc.assert_equivalent(twin, fresh, *graph.inputs)

    def test_stays_in_evaluation_mode_and_to_its_shapes(self, graph):
        assert not copy.deepcopy(graph.subnet).train().training
        with pytest.raises(ExtractionError, match="runs on inputs of shapes"):
            graph.subnet(torch.randn(5, 3, 8, 8))

    def test_the_original_is_unchanged(self, graph):
        assert all(torch.equal(graph.before[key], tensor) for key, tensor in graph.model.state_dict().items())


class TestNumbersThatOnlyLookLikeWidths:
    """A kernel, or a stride, that equals a pruned width is none."""

    @pytest.mark.parametrize("layers", [1, 2])
    def test_pooling_stays_as_it_is(self, layers):
        convs = [torch.nn.Conv1d(2, 2, 1) for _ in range(layers)]
        net = torch.nn.Sequential(*convs, torch.nn.MaxPool1d(2), torch.nn.Flatten(), torch.nn.Linear(2, 3)).eval()
        x = torch.randn(1, 2, 2)
        groups = pc.partition(pc.trace(net, x))
        pool = pc.extract(net, groups.select([1]))[layers]
        assert (pool.kernel_size, pool.stride) == (2, 2)
