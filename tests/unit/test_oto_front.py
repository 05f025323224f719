"""The front door: an ordinary training loop around OTO."""

from __future__ import annotations

import oto_nets as on
import pytest
import torch

import conformance as pc
from conformance.errors import UsageError
from conformance.method import NotExactlyZero
from reference_impls.oto import OTO

X = torch.randn(2, 3, 6, 6)
KINDS = {
    "hesso": {"start_pruning_step": 5, "pruning_steps": 20, "pruning_periods": 4},
    "hesso_cric": {"start_pruning_step": 5, "sampling_steps": 3, "hybrid_training_steps": 5, "max_cycle": 2},
    "hspg": {"start_pruning_step": 5, "complete": (30, 35)},
    "dhspg": {"start_pruning_step": 5, "complete": (30, 35)},
    "lhspg": {"start_pruning_step": 5, "pruning_steps": 20, "pruning_periods": 4},
}


def trained(kind="hesso", steps=50, **more):
    model = on.net(dtype=torch.float32).train()
    oto = OTO(model, X)
    optimizer = getattr(oto, kind)(lr=0.05, target_group_sparsity=0.5, **{**KINDS[kind], **more})
    on.train(model, optimizer, steps)
    return model, oto, optimizer


@pytest.mark.parametrize("variant", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kind", KINDS)
def test_train_and_take_the_subnet_out(kind, variant, tmp_path):
    model, oto, _ = trained(kind, variant=variant, first_momentum=0.9, weight_decay=1e-3)
    assert model.training
    subnet = oto.construct_subnet(tmp_path / "out")
    assert model.training
    assert not subnet.training
    full = oto.merged()
    assert list(full.state_dict()) == list(on.net().state_dict())
    assert pc.equivalent(full, subnet, X, oracle="field").equal
    torch.testing.assert_close(full(X), model.eval()(X), rtol=1e-4, atol=1e-5)
    assert {"full", "compressed"} == set(oto.compute_flops())
    assert oto.compute_num_params() == {
        "full": sum(p.numel() for p in full.parameters()),
        "compressed": sum(p.numel() for p in subnet.parameters()),
    }
    loaded = pc.load_subnet(on.net(seed=3, dtype=torch.float32), tmp_path / "out")
    assert torch.equal(loaded.eval()(X), subnet(X))


def test_defaults_of_the_variants():
    oto = OTO(on.net(dtype=torch.float32), X)
    group = oto.base_optimizer("sgd", 0.1).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0, 0)
    assert oto.base_optimizer("adam", 0.1).param_groups[0]["weight_decay"] == 0
    assert oto.base_optimizer("adamw", 0.1).param_groups[0]["weight_decay"] == 1e-2
    with pytest.raises(UsageError, match="variants"):
        oto.base_optimizer("lion", 0.1)


def test_a_subnet_is_refused_before_pruning_is_over_and_after_zeros_were_lost():
    _, oto, _ = trained(steps=12)
    with pytest.raises(UsageError, match="not finished after 12 steps"):
        oto.construct_subnet()
    model, oto, optimizer = trained()
    oto.construct_subnet()
    tensor, dim, positions = optimizer.rows.places(optimizer.zero_groups[:1])[0]
    with torch.no_grad():
        tensor.index_fill_(dim, positions, 1e-30)
    with pytest.raises(NotExactlyZero, match="1 of 10 groups"):
        oto.construct_subnet()
    with pytest.raises(UsageError, match="train with an optimizer"):
        OTO(model, X).construct_subnet()


def test_marked_layers_stay():
    model = on.net(dtype=torch.float32)
    oto = OTO(model, X)
    oto.mark_unprunable("conv1")
    with pytest.raises(UsageError, match="matches 'nothing'"):
        oto.mark_unprunable(["nothing"])
    optimizer = oto.hesso(lr=0.05, target_group_sparsity=0.4, **KINDS["hesso"])
    on.train(model, optimizer, 40)
    assert oto.construct_subnet().conv1.out_channels == 8
    with pytest.raises(UsageError, match="before an optimizer"):
        oto.mark_unprunable("conv2")
    with pytest.raises(UsageError, match="cannot be reached"):
        oto.hesso(lr=0.05, target_group_sparsity=0.9, **KINDS["hesso"])


def test_random_zero_groups_and_dict_inputs():
    class Named(on.Net):
        def forward(self, x, scale):
            return super().forward(x) * scale

    model = Named()
    oto = OTO(model, {"x": X, "scale": torch.tensor(2.0)})
    oto.random_set_zero_groups(0.6, seed=1)
    subnet = oto.construct_subnet()
    assert len(oto.selection()) == 12
    torch.testing.assert_close(subnet(x=X, scale=3.0), model.eval()(x=X, scale=3.0))


def test_a_model_without_groups_is_refused():
    with pytest.raises(UsageError, match="nothing of this model"):
        OTO(torch.nn.Sequential(torch.nn.Softmax(-1)), X)
