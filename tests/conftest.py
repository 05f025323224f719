"""Shared fixtures. One torch thread a process: several tests, and their child processes, run at once."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before torch is imported; children inherit them
    os.environ.setdefault(_name, "1")

import importlib
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """What is marked gpu is skipped without a CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


FAKE_ENGINE = '''
"""Stands for the engine: runs the model once and says what the model's `verdict` says."""

import sys
import types

import torch

from conformance.errors import UsageError
from conformance.report.schema import CheckResult, GroupRow, ModelReport, Outcome


def check(backend, *, level, seed, device, dtype, progress, only=(), **_):
    torch.manual_seed(seed)
    model = backend.build()
    args, kwargs = backend.inputs(2, torch.Generator().manual_seed(seed))
    if progress is not None:
        progress("running", 1, 2)
    model(*args, **kwargs)
    verdict = Outcome(getattr(model, "verdict", "pass"))
    failed = verdict is Outcome.FAIL
    result = CheckResult(
        id="equivalence", title="subnets are exact", level=2, severity="MUST", spec="E1", outcome=verdict,
        message="subnet differs" if failed else "", exercised=3,
        details={"selection_size": 1, "first_diverging_module": "conv1", "max_abs": 0.5,
                 "repeat": f"conformance check {backend.name} --seed {seed}"} if failed else {},
    )
    return ModelReport(
        spec=backend.name, outcome=verdict, reason=getattr(model, "reason", ""), level=level, seed=seed,
        seconds=0.5, parameters=1234, kinds={"channel": 4}, removable_parameters=0.5, checks=[result],
        groups=[GroupRow(axis="conv1", kind="channel", size=4, mode="producers", parameters=9, flops=9)],
    )


def describe_groups(backend, *, seed, carry):
    return check(backend, level=0, seed=seed, device="cpu", dtype="float32", progress=None)


def explain(backend, *, parameter, dim, seed, carry):
    names = [name for name, _ in backend.build().named_parameters()]
    if parameter not in names:
        raise UsageError(f"{backend.name} has no parameter {parameter!r}; did you mean {names[0]}?")
    return f"{parameter} dim {dim} is free"


def install():
    registry = types.ModuleType("conformance.checks.registry")
    one = types.SimpleNamespace(id="equivalence", title="subnets are exact", level=2, severity="MUST", spec="E1")
    registry.CHECKS = (one,)
    sys.modules["conformance.checks.registry"] = registry
    sys.modules["conformance.checks.runner"] = sys.modules[__name__]
'''

MODELS = """
import os
import signal
import time

import torch


class Net(torch.nn.Sequential):
    def __init__(self, verdict="pass"):
        super().__init__(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        self.verdict = verdict


def good():
    print("a model may print")
    return Net(), torch.randn(2, 3)


def bad():
    return Net("fail"), torch.randn(2, 3)


def odd():
    net = Net("unsupported")
    net.reason = "aten.unfold has no rule"
    return net, torch.randn(2, 3)


def bare():
    return Net()


def raising():
    raise ValueError("no such weights\\nsecond line")


def leaving():
    raise SystemExit(5)


def number():
    return 7


def needy(width, depth=2):
    return Net()


def listed():
    return Net(), [torch.randn(2, 3)]


def worded():
    return Net(), "words"


SHARED = Net()


def shared():
    return SHARED, torch.randn(2, 3)


def half():
    return Net().half(), torch.randn(2, 3)


class Doing(Net):
    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def forward(self, x):
        if self.deed == "sleep":
            time.sleep(120)
        if self.deed == "die":
            print("about to die", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "exit":
            os._exit(9)
        if self.deed == "eat":
            held = []
            while True:
                held.append(b"x" * 50_000_000)
                time.sleep(0.02)
        if self.deed == "raise":
            raise RuntimeError("broken engine")
        return super().forward(x)


def sleeping():
    return Doing("sleep"), torch.randn(2, 3)


def dying():
    return Doing("die"), torch.randn(2, 3)


def exiting():
    return Doing("exit"), torch.randn(2, 3)


def eating():
    return Doing("eat"), torch.randn(2, 3)


def internal():
    return Doing("raise"), torch.randn(2, 3)
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A file of callables a user might give, good and bad."""
    file = tmp_path / "models.py"
    file.write_text(MODELS)
    return file


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a small stand-in under the engine's name, in this process and in the children of isolate."""
    from conformance import isolate

    (tmp_path / "fake_engine.py").write_text(FAKE_ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    start = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import fake_engine; fake_engine.install();"
    monkeypatch.setattr(isolate, "_CHILD", start + "from conformance.isolate import child; child()")
    for name in ("conformance.checks.registry", "conformance.checks.runner", "fake_engine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("fake_engine").install()
    yield
    for name in ("conformance.checks.registry", "conformance.checks.runner", "fake_engine"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, for tests marked `needs_browser`. Closed with the module: playwright keeps an event loop."""
    from tests.browser import chromium

    with chromium() as found:
        yield found


# -- how many examples the property tests draw --------------------------------------------------------

import hypothesis

# `dev` looks for something new each time, `ci` gives every run the same examples, `nightly` takes hours.
# None keeps a database of examples: what fails prints a line that repeats it.
hypothesis.settings.register_profile(
    "dev", derandomize=False, max_examples=5, deadline=None, database=None, print_blob=True
)
hypothesis.settings.register_profile(
    "ci", max_examples=20, deadline=None, database=None, print_blob=True, derandomize=True
)
hypothesis.settings.register_profile(
    "nightly", derandomize=False, max_examples=400, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
