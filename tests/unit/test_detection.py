"""Detectors: operations that torchvision brings along, and shapes that follow from values."""

from __future__ import annotations

import pytest
import torch
import torchvision
from brute_force import Board, aten, check_case
from torch import nn

import conformance as pc
from conformance.equivalence.field import mode as field_mode
from conformance.equivalence.field.modulus import Field
from conformance.errors import UnsupportedOperation
from conformance.subnet.extract import SAME_CLASS, candidates

FIELD = Field(seed=5)
BOXES = torch.tensor([[0.0, 0, 0, 6, 6], [1, 2, 1, 7, 5], [0, 3, 3, 5, 7]])


def exactly(function, *tensors):
    """The function on residues."""
    mode = field_mode.FieldMode(FIELD)
    held = [mode.marks.adopt(tensor.clone()) for tensor in tensors]
    with torch.no_grad(), mode:
        return function(*held)


def drawn(*shape, seed=0):
    return FIELD.random(shape, torch.Generator().manual_seed(seed))


def residue(x):
    return FIELD.reduce_(x.clone())


# -- rules against reduced tensors -----------------------------------------------------------------


def sampled(b: Board):
    boxes = b.op(aten.mul.Tensor, b.given(BOXES.double()), 1.0)
    maps = b.act(2, 5, 8, 8)
    return b.op(torch.ops.torchvision.roi_align.default, maps, boxes, 0.5, 2, 3, 2, False)


def suppressed(b: Board):
    boxes = b.op(aten.mul.Tensor, b.given(BOXES[:, 1:].double()), 1.0)
    kept = b.op(torch.ops.torchvision.nms.default, boxes, b.given(torch.tensor([0.3, 0.9, 0.1]).double()), 0.5)
    return b.op(aten.index.Tensor, b.act(3, 4), (kept,))


@pytest.mark.parametrize(("case", "count"), [(sampled, 5), (suppressed, 4)])
def test_against_reduced_tensors(case, count):
    strict, loose = check_case(case)
    assert strict == loose == count


# -- exact rules -----------------------------------------------------------------------------------


class TestSampling:
    HOW = (0.5, 2, 3, 2, False)

    def run(self, maps, boxes=None):
        boxes = torch.cat([torch.tensor([[0.0], [1], [0]]), drawn(3, 4, seed=9)], 1) if boxes is None else boxes
        return exactly(lambda x, b: torch.ops.torchvision.roi_align(x, b, *self.HOW), maps, boxes)

    def test_is_linear_in_the_maps_and_apart_for_channels(self):
        a, b = drawn(2, 4, 8, 8, seed=1), drawn(2, 4, 8, 8, seed=2)
        assert torch.equal(residue(self.run(residue(a + b)) - self.run(a) - self.run(b)), torch.zeros(3, 4, 2, 3))
        assert torch.equal(self.run(a[:, [2, 0]].contiguous()), self.run(a)[:, [2, 0]])
        assert self.run(a).unique().numel() > 60

    def test_the_first_number_of_a_box_is_its_image(self):
        maps = drawn(2, 4, 8, 8)
        maps[1] = 0
        found = self.run(maps)
        assert found[[0, 2]].any()
        assert not found[1].any()

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_each_coordinate_counts(self, number):
        maps = drawn(2, 4, 8, 8)
        boxes = torch.cat([torch.tensor([[0.0], [1], [0]]), drawn(3, 4, seed=9)], 1)
        moved = boxes.clone()
        moved[1, number] += 1
        before, after = self.run(maps, boxes), self.run(maps, moved)
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert (before[1] != after[1]).sum() > 20


class TestWholeNumbers:
    """Code reads computed whole numbers as integers only where their range is known."""

    def levels(self, x):
        return torch.clamp(torch.floor(torch.log2(x)), min=2, max=5)

    def test_are_read_as_integers(self):
        found = exactly(lambda x: self.levels(x).to(torch.int64) - 2, drawn(400))
        assert found.dtype == torch.int64
        assert found.unique().tolist() == [0, 1, 2, 3]

    def test_zero_is_right(self):
        for low, high, expected in ((2, 5, 2), (-3, 3, 0), (-9, -4, -4)):
            read = lambda x, low=low, high=high: torch.clamp(torch.floor(x), min=low, max=high).long()  # noqa: E731
            assert exactly(read, torch.zeros(3)).tolist() == [expected] * 3

    @pytest.mark.parametrize(
        "read",
        [
            lambda x: torch.floor(x).long(),
            lambda x: torch.clamp(x, min=2, max=5).long(),
            lambda x: torch.clamp(torch.floor(x), min=2).long(),
            lambda x: torch.clamp(torch.floor(x), min=2.5, max=5).long(),
            lambda x: (torch.clamp(torch.floor(x), min=2, max=5) * 0.5).long(),
            lambda x: torch.clamp(torch.floor(x), min=2, max=5).mul_(0.5).long(),
        ],
    )
    def test_others_are_not(self, read):
        with pytest.raises(UnsupportedOperation, match=r"a computed value is read as torch\.int64"):
            exactly(read, drawn(5))

    def test_boxes_are_suppressed_by_the_order_of_residues(self):
        boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [20, 20, 30, 30]]), torch.tensor([1.0, 5, 3])
        assert exactly(lambda b, s: torchvision.ops.nms(b, s, 0.5), boxes, scores).tolist() == [1, 2]


# -- a small detector ------------------------------------------------------------------------------


class Detector(nn.Module):
    """Boxes from one map, those that do not overlap, what is under them, and what that is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, padding=1)
        self.where = nn.Conv2d(7, 4, 1)
        self.score = nn.Conv2d(7, 1, 1)
        self.inner = nn.Linear(7 * 4, 9)
        self.what = nn.Linear(9, 2)

    def forward(self, x):
        y = torch.relu(self.stem(x))
        boxes, scores = self.where(y)[0].flatten(1).t(), self.score(y)[0].flatten()
        chosen = scores > scores.mean()
        boxes, scores = boxes[chosen], scores[chosen]
        boxes = boxes[torchvision.ops.nms(boxes, scores, 0.5)]
        under = torchvision.ops.roi_align(y, [boxes], 2)
        return boxes, self.what(torch.relu(self.inner(under.flatten(1))))


IMAGE = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_detector_is_pruned_exactly_though_it_finds_other_boxes_then():
    net = pc.randomised(Detector().eval())
    groups = pc.partition(pc.trace(net, IMAGE))
    assert groups.count == 7 + 9
    choice = groups.sample(0.5, seed=1)
    subnet = pc.extract(net, choice)
    assert pc.kind_of(subnet) == "same class"
    full = pc.zero(net, choice)
    for oracle in ("field", "float64"):
        pc.assert_equivalent(full, subnet, IMAGE, oracle=oracle)
    assert len(full(IMAGE)[0]) != len(net(IMAGE)[0])


@pytest.mark.parametrize("name", ["stem.weight", "where.bias", "score.weight", "inner.weight", "what.bias"])
def test_a_fault_in_a_detector_is_seen(name):
    net = pc.randomised(Detector().eval())
    groups = pc.partition(pc.trace(net, IMAGE))
    choice = groups.sample(0.5, seed=1)
    subnet = pc.extract(net, choice)
    with torch.no_grad():
        subnet.get_parameter(name).view(-1)[0] += 1
    assert not pc.equivalent(pc.zero(net, choice), subnet, IMAGE).equal


def test_the_whole_detector_conforms():
    report = pc.check_model(Detector(), IMAGE, name="test:detector")
    found = {result.id: result for result in report.checks}
    assert found["L1.counts"].outcome == "pass"
    assert found["L1.counts"].exercised == 3
    assert "depends on values" in found["L1.counts"].message
    assert all(result.outcome in ("pass", "unsupported") for result in report.checks if result.severity == "SHOULD")
    assert report.outcome == "pass", report.reason


def test_shapes_that_follow_from_values_do_not_count_against_a_candidate():
    net = pc.randomised(Detector().eval())
    graph = pc.trace(net, IMAGE)
    names = [node.op._schema.name for node in graph.nodes if graph.shaped_by_values(node)]
    assert "torchvision::nms" in names
    choice = pc.partition(graph).sample(0.5, seed=1)
    assert next(iter(candidates(net, choice))).kind == SAME_CLASS
