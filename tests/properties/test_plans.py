"""Plans and weights damaged in many ways: what still loads is the subnet that was saved, to the bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import conformance as pc
from backends.handmade import collection
from conformance.backend import Inputs
from conformance.deploy.fingerprint import named_state
from conformance.deploy.plan import PLAN_FILE, WEIGHTS_FILE, _digest
from conformance.deploy.store import same_bits
from conformance.errors import PlanError
from conformance.graph.tape import tensors_in
from conformance.strategies import selections

MANY = settings(max_examples=max(15, settings.default.max_examples))
# A plain chain, heads that are read from an attribute, norms at the original width, a traced graph, tied weights.
NETS = ("conv-bn-relu", "attention-separate", "layer-norm-2d", "attention-fused-qkv", "tied-lm-head")
each_net = pytest.mark.parametrize("name", NETS)


@dataclass(frozen=True)
class Saved:
    model: torch.nn.Module
    subnet: torch.nn.Module
    inputs: Inputs
    plan: bytes
    weights: bytes


def built(name: str, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return pc.randomised(collection.get(name).build().eval(), seed)


@cache
def saved(name: str) -> Saved:
    model = built(name, 0)
    args, kwargs = collection.get(name).inputs(2, torch.Generator().manual_seed(0))
    choice = pc.partition(pc.trace(model, args, kwargs)).sample(0.5, 0)
    subnet = pc.extract(model, choice)
    with TemporaryDirectory() as folder:
        pc.save_subnet(subnet, folder, choice)
        plan, weights = (Path(folder, file).read_bytes() for file in (PLAN_FILE, WEIGHTS_FILE))
    return Saved(built(name, 1), subnet, (args, kwargs), plan, weights)


def loads_to_the_same_or_not_at_all(net: Saved, plan: bytes, weights: bytes) -> bool:
    """Whether it loads; it must then be the subnet that was saved. Refusals are one sentence."""
    args, kwargs = net.inputs
    with TemporaryDirectory() as folder:
        Path(folder, PLAN_FILE).write_bytes(plan)
        Path(folder, WEIGHTS_FILE).write_bytes(weights)
        try:
            again = pc.load_subnet(net.model, folder, args, kwargs)
        except PlanError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert len(refusal.splitlines()) == 1
        return False
    mine, theirs = named_state(net.subnet), named_state(again)
    assert list(mine) == list(theirs)
    assert all(same_bits(mine[key], theirs[key]) for key in mine)
    left, right = (tensors_in(module(*args, **kwargs)) for module in (net.subnet, again))
    assert all(same_bits(a, b) for a, b in zip(left, right, strict=True))
    return True


@each_net
def test_the_pair_as_it_was_loads(name):
    net = saved(name)
    assert loads_to_the_same_or_not_at_all(net, net.plan, net.weights)


@each_net
@given(data=st.data())
@MANY
def test_flipped_bits_and_cuts(name, data):
    """Any change of the weights' file is refused; of the plan's, any that changes its content."""
    net = saved(name)
    files = {"plan": net.plan, "weights": net.weights}
    where = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[where])
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at : at + data.draw(st.integers(1, len(content)))]
    before = files[where]
    files[where] = bytes(content)
    loaded = loads_to_the_same_or_not_at_all(net, files["plan"], files["weights"])
    if where == "weights":
        assert not loaded
    else:
        assert loaded == (_content(bytes(content)) == _content(before))


def _content(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def changed(data: st.DataObject, tree: dict[str, Any]) -> dict[str, Any]:
    """One thing in it dropped, doubled, or replaced by another value of its kind."""
    tree = json.loads(json.dumps(tree))
    # The top level first: most of a plan are the positions that leave.
    top = data.draw(st.sampled_from([key for key in tree if key != "digest"]))
    path = data.draw(st.sampled_from([(top,), *places(tree[top], (top,))]))
    owner: Any = tree
    for key in path[:-1]:
        owner = owner[key]
    value, kind = owner[path[-1]], data.draw(st.sampled_from(["drop", "other", "type", "twice"]))
    if kind == "drop":
        del owner[path[-1]]
    elif kind == "twice" and isinstance(owner, list):
        owner.insert(path[-1], value)
    elif kind == "twice":
        owner[f"{path[-1]}x"] = value
    elif kind == "type":
        owner[path[-1]] = data.draw(st.sampled_from([None, True, -1, 0, 1, 1.5, 2**70, "", "x", [], {}, [[]]]))
    elif isinstance(value, int) and not isinstance(value, bool):
        owner[path[-1]] = value + data.draw(st.sampled_from([-2, -1, 1, 2, 1000]))
    elif isinstance(value, str):
        owner[path[-1]] = value[::-1] + "0"
    elif isinstance(value, list):
        owner[path[-1]] = value[::-1]
    else:
        owner[path[-1]] = {}
    return tree


@each_net
@given(data=st.data())
@MANY
def test_a_change_of_the_plan_is_seen(name, data):
    net = saved(name)
    tree = json.loads(net.plan)
    other = changed(data, tree)
    same = json.dumps(other) == json.dumps(tree)  # True and 1 are equal in Python
    assert loads_to_the_same_or_not_at_all(net, json.dumps(other).encode(), net.weights) == same


INFORMATION = ("versions", "verdict")


@each_net
@given(data=st.data())
@MANY
def test_a_change_that_is_signed_anew_makes_no_other_subnet(name, data):
    """Who edits a plan can sign it as well: then its parts must still contradict each other, or be no matter.

    Other positions of the same number are no contradiction: the weights are in the file. That they are not
    the model's own is for `conformance verify` to see.
    """
    net = saved(name)
    tree = json.loads(net.plan)
    del tree["digest"]
    other = changed(data, tree)
    loaded = loads_to_the_same_or_not_at_all(net, json.dumps({**other, "digest": _digest(other)}).encode(), net.weights)
    if {key: other.get(key) for key in tree if key not in INFORMATION} != {
        key: value for key, value in tree.items() if key not in INFORMATION
    }:
        assert not loaded or other["slices"] != tree["slices"] or other["attributes"] != tree["attributes"]


@each_net
@given(data=st.data())
@settings(max_examples=max(3, settings.default.max_examples // 4))
def test_any_selection_comes_back(name, data):
    net = saved(name)
    args, kwargs = net.inputs
    choice = data.draw(selections(pc.partition(pc.trace(net.model, args, kwargs))))
    subnet = pc.extract(net.model, choice)
    with TemporaryDirectory() as folder:
        pc.save_subnet(subnet, folder, choice)
        plan, weights = (Path(folder, file).read_bytes() for file in (PLAN_FILE, WEIGHTS_FILE))
    assert loads_to_the_same_or_not_at_all(Saved(built(name, 2), subnet, net.inputs, plan, weights), plan, weights)
