"""A model of 70 billion parameters, which no machine needs to hold: its groups are found without its weights."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from measure import against, seconds

pytestmark = [pytest.mark.slow, pytest.mark.zoo]

RUN = """
import json, resource, time
import torch
import conformance as pc
from conformance.backend import collections

torch.set_num_threads(1)
backend = collections()["transformers"].get("llama-70b")
with torch.device("meta"):
    model = backend.build().eval()
args, kwargs = backend.inputs(2, torch.Generator().manual_seed(0))
# Without a mask the model looks whether its positions hold several texts: at values, which are not there.
length = kwargs["input_ids"].shape[1]
kwargs["attention_mask"] = torch.full((length, length), float("-inf")).triu(1).expand(2, 1, -1, -1)
marks = [time.perf_counter()]
graph = pc.trace(model, args, kwargs)
marks.append(time.perf_counter())
groups = pc.partition(graph)
marks.append(time.perf_counter())
print(json.dumps({
    "trace": marks[1] - marks[0],
    "partition": marks[2] - marks[1],
    "device": graph.device,
    "operations": len(graph.nodes),
    "kinds": {kind: groups.kinds.count(kind) for kind in sorted(set(groups.kinds[1:]))},
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""
KIBIBYTE = 1 if sys.platform == "darwin" else 1024
"""What ru_maxrss counts in."""


def test_seventy_billion_parameters(benchmark, row):
    """Once, in a process of its own, whose peak memory is that of nothing else."""
    pytest.importorskip("transformers")

    def run():
        ended = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-2000:]
        return json.loads(ended.stdout.splitlines()[-1])

    found = benchmark.pedantic(run, rounds=1)
    assert found["device"] == "meta"
    assert 70e9 < found["parameters"] < 71e9
    # 8 key/value heads and 28672 neurons in each of 80 layers, and the hidden width.
    assert found["kinds"] == {"head": 80 * 8, "neuron": 80 * 28672 + 8192}
    took, peak = found["trace"] + found["partition"], found["peak"] * KIBIBYTE / 1024**3
    row(
        "A model without its weights",
        model="llama-70b",
        operations=str(found["operations"]),
        groups=f"{sum(found['kinds'].values()):,}".replace(",", " "),
        trace=seconds(found["trace"]),
        partition=seconds(found["partition"]),
        both_in_seconds=against(took, 60),
        peak_memory_in_GiB=against(peak, 4),
    )
    assert took <= 60
    assert peak <= 4
