"""Sparse optimizers on a GPU; where there is none, their kernels, interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oto_nets as on
import pytest
import torch

import conformance as pc
from reference_impls.oto import DHSPG, HESSO, HESSOCRIC, HSPG, OTO, Cycles, gpu

KERNELS = [Path(__file__).with_name(f"test_oto_{name}.py") for name in ("kernels", "columns", "trial")]
METHODS = {
    "hspg": (HSPG, {"start_step": 2, "penalty": 0.02}),
    "dhspg": (DHSPG, {"start_step": 2, "penalty": 0.3}),
    "hesso": (HESSO, {"start_step": 2, "pruning_steps": 6, "periods": 2}),
    "cric": (HESSOCRIC, {"start_step": 1, "fade_steps": 3, "cycles": Cycles(steps=2, most=1, loss_weight=0)}),
}
cuda = pytest.mark.gpu


def interpreter_fails():
    """Triton 3.6 makes a number of a loop's bound in a way that numpy has not allowed since 2.4."""
    import triton

    found, numpy = (tuple(map(int, one.__version__.split(".")[:2])) for one in (triton, np))
    return found < (3, 7) and numpy >= (2, 4)


@pytest.mark.skipif(gpu.kernels is None, reason="Triton is not here")
@pytest.mark.parametrize("tests", KERNELS, ids=lambda path: path.stem)
def test_interpreted_kernels(tests):
    """Every test of them, on tensors of the CPU."""
    if interpreter_fails():
        pytest.skip("this Triton's interpreter does not work with this numpy")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)]
    environ = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_a_triton_that_cannot_be_imported_is_no_matter_on_a_cpu():
    """Whatever it raises; on a GPU it is said, once, that torch does the work."""
    code = (
        "import sys, types, warnings, torch\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'reference_impls.oto.kernels': raise OSError('libcuda.so is broken')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "from reference_impls.oto import gpu\n"
        "warnings.simplefilter('error')\n"
        "assert not gpu.usable(torch.device('cpu'), torch.float32)\n"
        "warnings.simplefilter('always')\n"
        "for _ in range(2): assert not gpu.usable(torch.device('cuda', 0), torch.float32)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=KERNELS[0].parents[2], check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("libcuda.so is broken") == 1


MEASURED = [{"MOVED": True}, {"MOVED": False}]
COMBINED = [{"KEPT": True, "TAKEN": True}, {"KEPT": True, "TAKEN": False}, {"KEPT": False, "TAKEN": True}]


@pytest.mark.skipif(gpu.kernels is None, reason="Triton is not here")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_without_a_gpu(dtype, capability):
    """Interpreted Python forgives what the compiler does not: for an A100 and an H100."""
    import triton
    from triton.backends.compiler import GPUTarget

    sums = "float64" if dtype == "float64" else "float32"
    line, constants = f"*{'fp64' if sums == 'float64' else 'fp32'}", {"TYPE": dtype, "SUM": sums}
    shared = dict.fromkeys(("xs", "lengths", "which", "rows", "places"), "*i64")
    for kernel, types, options in [
        (gpu.kernels.products, {"steps": "*i64", "copied": "*i64", "figures": line, "stride": "i64"}, MEASURED),
        (gpu.kernels.combine, {"others": "*i64", "kept": line, "taken": line}, COMBINED),
    ]:
        for option in options:
            given = {name: gpu.kernels.TYPES[getattr(torch, value)] for name, value in constants.items()}
            given |= {"BLOCK": 512, **option}
            known = {**shared, **types, **dict.fromkeys(given, "constexpr")}
            signature = {name: known[name] for name in kernel.arg_names}
            source = triton.compiler.ASTSource(kernel, signature=signature, constexprs=given)
            assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


@pytest.mark.skipif(gpu.kernels is None, reason="Triton is not here")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("option", [*MEASURED, {"MOVED": True, "rows": 1, "length": 1, "stride": 1}], ids=str)
def test_columns_compile_without_a_gpu(dtype, option):
    import triton
    from triton.backends.compiler import GPUTarget

    short = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}[dtype]
    sums = "fp64" if dtype == "float64" else "fp32"
    given = {"SUM": gpu.kernels.TYPES[torch.float64 if sums == "fp64" else torch.float32], "TILE": 8, "BLOCK": 128}
    given |= option  # Triton takes a number that is 1 for a constant
    known = {"x": f"*{short}", "step": f"*{short}", "sign": "fp32", "partial": f"*{sums}"}
    known |= {**dict.fromkeys(("rows", "length", "each", "stride"), "i32"), **dict.fromkeys(given, "constexpr")}
    signature = {name: known[name] for name in gpu.kernels.columns.arg_names}
    source = triton.compiler.ASTSource(gpu.kernels.columns, signature=signature, constexprs=given)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@cuda
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_zeros_are_exact_and_so_is_the_subnet(method, base):
    cls, options = METHODS[method]
    model = on.net(dtype=torch.float32).cuda()
    near = {} if cls in (HESSO, HESSOCRIC) else {"epsilon": 0.9, "complete": (20, 25)}
    optimizer = on.wrapped(cls, model, base, **{**options, **near})
    on.train(model, optimizer, 30)
    assert optimizer.finished
    choice = optimizer.quota.groups.select(optimizer.zero_groups)
    assert len(choice) == optimizer.quota.groups.count // 2
    model = model.cpu().eval()
    assert on.same(on.state_of(pc.zero(model, choice)), on.state_of(model))
    assert pc.equivalent(model, pc.extract(model, choice), torch.randn(2, 3, 6, 6), oracle="field").equal


@cuda
@pytest.mark.parametrize("method", ["hspg", "dhspg", "hesso"])
def test_schedulers_clipping_autocast_and_a_scaler(method):
    cls, options = METHODS[method]
    model = on.net(dtype=torch.float32).cuda()
    optimizer = on.wrapped(cls, model, "momentum", **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    x, y = torch.randn(16, 3, 6, 6, device="cuda"), torch.randint(0, 4, (16,), device="cuda")
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert optimizer.steps == 12
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@cuda
def test_the_front_door():
    torch.manual_seed(0)
    model = on.net(dtype=torch.float32).cuda()
    x = torch.randn(2, 3, 6, 6, device="cuda")
    oto = OTO(model, x)
    optimizer = oto.hesso(
        lr=0.01, variant="sgd", first_momentum=0.9, target_group_sparsity=0.5, start_pruning_step=2, pruning_steps=6,
        pruning_periods=2,
    )  # fmt: skip
    on.train(model, optimizer, 12)
    subnet = oto.construct_subnet()
    assert subnet.conv2.out_channels < 12
    assert next(subnet.parameters()).is_cuda
    torch.testing.assert_close(subnet.eval()(x), model.eval()(x))
