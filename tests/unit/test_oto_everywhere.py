"""The front door in a user's own loop of two processes: DistributedDataParallel around the model, nothing else."""

from __future__ import annotations

import gc
from typing import Any

import oto_nets as on
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from reference_impls.oto import OTO, Lora
from reference_impls.oto.everywhere import first_says, mean_everywhere, same_everywhere

STEPS, BATCH = 48, 8
KINDS: dict[str, dict[str, Any]] = {
    "hesso": {"start_pruning_step": 4, "pruning_steps": 20, "pruning_periods": 4},
    "hesso_cric": {"start_pruning_step": 4, "sampling_steps": 3, "hybrid_training_steps": 5, "max_cycle": 2},
    "hspg": {"start_pruning_step": 4, "lmbda": 0.01, "epsilon": 0.95, "complete": (30, 40)},
    "dhspg": {"start_pruning_step": 4, "lmbda": 0.01, "epsilon": 0.95, "complete": (30, 40)},
    "lhspg": {"start_pruning_step": 4, "pruning_steps": 20, "pruning_periods": 4, "lora": Lora(2, 4.0, 0.0)},
    "adahspg_reconstructed": {"phase_steps": 4, "lmbda": 0.01, "epsilon": 0.5, "complete": (30, 40)},
}
SEEN = {
    "hesso_cric": ("reference", "ratios", "cycle"),
    "adahspg_reconstructed": ("phase", "place", "losses", "left_before"),
}
"""What an optimizer has made of the losses, in its state."""


def sample(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch, whose halves are of different difficulty: their losses differ much."""
    draw = torch.Generator().manual_seed(step)
    y = torch.randint(0, 4, (BATCH,), generator=draw)
    noise = torch.tensor([0.1] * (BATCH // 2) + [3.0] * (BATCH // 2), dtype=torch.float64)
    x = torch.randn(BATCH, 3, 6, 6, generator=draw, dtype=torch.float64)
    return y[:, None, None, None] * 0.5 + noise[:, None, None, None] * x, y


def trained(kind: str, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """A plain loop; what is left of it."""
    model = on.net(norm=False)
    oto = OTO(model, torch.randn(2, 3, 6, 6, dtype=torch.float64))
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    call: Any = model

    def gradient(step: int) -> torch.Tensor:
        x, y = sample(step)
        loss = cross_entropy(call(x[share]), y[share])
        loss.backward()
        return loss.detach()

    options = dict(KINDS[kind])
    if kind == "adahspg_reconstructed":
        options["full"] = lambda: gradient(999)
    optimizer = getattr(oto, kind)(lr=0.05, target_group_sparsity=0.5, **options)
    if world > 1:
        call = DistributedDataParallel(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        if kind == "adahspg_reconstructed":
            optimizer.step(lambda step=step: gradient(step))
        else:
            optimizer.step(loss=gradient(step))
    own = optimizer.own_state()
    seen = {name: torch.as_tensor(own[name]) if name != "phase" else own[name] for name in SEEN.get(kind, ())}
    return {"gone": optimizer.zero_groups.tolist(), "state": on.state_of(model), "seen": seen}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind in KINDS:
        torch.save(trained(kind, rank, 2), f"{folder}/{kind}-{rank}.pt")
    own = float(rank + 1)
    assert mean_everywhere(torch.tensor(own), torch.device("cpu")) == 1.5
    assert not first_says(bool(rank), torch.device("cpu"))
    chosen = same_everywhere(torch.tensor([rank + 1, 7]).numpy(), 8, torch.device("cpu"))
    assert chosen.tolist() == [1, 7]
    gc.collect()  # DistributedDataParallel is in a cycle, and holds the group whose threads have to end
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_decide_alike_and_as_one_does(tmp_path):
    """Bit for bit the same in both; against one process with the whole batch, whose sums run in another order, the
    same groups and weights within 1e-9 (float64)."""
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    for kind in KINDS:
        one, other = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert one["gone"] == other["gone"], kind
        assert on.same(one["state"], other["state"]), kind
        assert one["seen"].keys() == other["seen"].keys() == set(SEEN.get(kind, ()))
        alone = trained(kind)
        assert one["gone"] == alone["gone"], kind
        assert len(one["gone"]) == 10
        for key, value in alone["state"].items():
            torch.testing.assert_close(one["state"][key], value, rtol=1e-9, atol=1e-9)
        for name, value in alone["seen"].items():
            if name == "phase":
                assert one["seen"][name] == other["seen"][name] == value
                continue
            assert torch.equal(one["seen"][name], other["seen"][name]), (kind, name)
            torch.testing.assert_close(one["seen"][name], value, rtol=1e-9, atol=1e-9)
