"""Where subnets of real models go: torch.export, torch.compile, ONNX, files. Level 3, one model a family."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from conformance.checks.registry import checks
from conformance.checks.runner import run_check
from conformance.checks.subject import Subject, prepare
from conformance.deploy.routes import Arrival, Compiled, Journey, _judged, missing_for_onnx, travel
from conformance.report.schema import Outcome
from conformance.spec_loader import load

BY_ID = {item.id: item for item in checks()}
HANDMADE = [
    "handmade:conv-bn-relu", "handmade:attention-fused-qkv", "handmade:attention-separate", "handmade:concat",
    "handmade:depthwise-separable", "handmade:grouped-conv", "handmade:layer-norm-2d", "handmade:lstm",
    "handmade:residual", "handmade:squeeze-excite", "handmade:tied-lm-head", "handmade:unet",
]  # fmt: skip
TINY = ["timm:test_vit", "timm:test_convnext", "transformers:bert", "transformers:llama"]
LARGE = ["timm:resnet18@3,64,64", "timm:deit_tiny_patch16_224", "torchvision:densenet121@3,64,64"]
MODELS = [
    *HANDMADE,
    *(pytest.param(spec, marks=pytest.mark.zoo) for spec in TINY),
    *(pytest.param(spec, marks=[pytest.mark.zoo, pytest.mark.slow]) for spec in LARGE),
]


@cache
def subject(spec: str) -> Subject:
    name, _, shape = spec.partition("@")
    return prepare(load(name, tuple(map(int, shape.split(","))) if shape else None), 0, "cpu", None)


NEEDS_ONNX = pytest.mark.skipif(bool(missing_for_onnx()), reason="needs the extra `deploy`")


@pytest.mark.timeout(1800)  # compilers share the machine with other tests
@pytest.mark.parametrize("spec", MODELS)
@pytest.mark.parametrize(
    "check",
    [
        "L3.rebuild",
        "L3.export",
        pytest.param("L3.onnx", marks=NEEDS_ONNX),
        pytest.param("L3.compile", marks=pytest.mark.slow),
    ],
)
def test_a_subnet_goes_where_its_model_goes(spec, check):
    if check == "L3.compile" and spec == LARGE[-1]:
        check_front_end(subject(spec))  # a hundred different layers are minutes of C++
        return
    found = run_check(BY_ID[check], subject(spec))
    assert found.outcome is not Outcome.FAIL, found.message
    assert found.outcome is not Outcome.ERROR, found.message
    if found.outcome is Outcome.UNSUPPORTED:
        assert " does not work for the full model either: " in found.message
    else:
        assert found.exercised > 0
    if check == "L3.rebuild":
        assert found.outcome is Outcome.PASS


def check_front_end(subject: Subject) -> None:
    """The compiler without its C++ part."""
    pair = subject.pair(subject.groups.sample(0.5, subject.seed))
    route = Compiled("aot_eager")
    assert travel(pair.subnet.module, subject.inputs(), route).good
    assert route.graphs == 1


class TestJudging:
    """A journey is judged by what arrives."""

    def test_the_same_and_what_is_close(self):
        x = torch.tensor([1.0, 2.0])
        assert _judged([x], [x.clone()]) == Journey(Arrival.SAME, 2)
        near = _judged([x], [torch.nextafter(x, x + 1)])
        assert (near.arrival, near.good, near.compared) == (Arrival.CLOSE, True, 2)
        assert 0 < near.largest < 1e-6

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            ([], "0 outputs in place of 1"),
            ([torch.ones(2), torch.ones(2)], "2 outputs in place of 1"),
            ([torch.tensor([1.0, 1.001])], "output 0 is not close"),
            ([torch.ones(2, 1)], "output 0 is not close"),
            ([torch.ones(2, dtype=torch.float64)], "output 0 is not close"),
            ([torch.tensor([1.0, float("nan")])], "output 0 is not close"),
        ],
    )
    def test_anything_else(self, found, words):
        journey = _judged([torch.ones(2)], found)
        assert (journey.arrival, journey.good) == (Arrival.OTHER, False)
        assert journey.reason.startswith(words)
        assert len(journey.reason.splitlines()) == 1

    def test_nothing_is_no_arrival(self):
        assert not _judged([torch.ones(0)], [torch.ones(0)]).good

    def test_what_a_route_raises_is_a_result(self):
        def broken(module, given):
            raise KeyError("a\nb")

        net, x = torch.nn.Linear(2, 3), torch.ones(1, 2)
        assert travel(net, ((x,), {}), broken) == Journey(Arrival.NEVER, reason="KeyError: 'a\\nb'")

    def test_a_route_gets_copies(self):
        def writes(module, given):
            module.train()
            given[0][0].zero_()
            return [torch.zeros(1, 3)]

        net, x = torch.nn.Linear(2, 3).eval(), torch.ones(1, 2)
        assert not travel(net, ((x,), {}), writes).good
        assert x.all()
        assert not net.training

    @pytest.mark.slow
    def test_what_is_not_compiled_at_all_is_no_journey(self):
        class Shy(torch.nn.Linear):
            @torch.compiler.disable
            def forward(self, x):
                return super().forward(x)

        journey = travel(Shy(2, 3), ((torch.ones(1, 2),), {}), Compiled("aot_eager"))
        assert journey.arrival is Arrival.NEVER
        assert "nothing was compiled" in journey.reason

    def test_a_backend_that_is_not_there(self):
        net, x = torch.nn.Linear(2, 3), torch.ones(1, 2)
        journey = travel(net, ((x,), {}), Compiled("no-such-backend"))
        assert journey.arrival is Arrival.NEVER
        assert "no-such-backend" in journey.reason
