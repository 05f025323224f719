"""The front door as users of only_train_once know it: their words where they mean the same, an error where not."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import oto_nets as on
import pytest
import torch

from conformance.errors import UsageError
from conformance.method import Limits
from reference_impls.oto import OTO, Criteria
from reference_impls.oto.words import _ATTRIBUTES, _OPTIONS, CRITERIA

ROOT = Path(__file__).resolve().parents[2]
X = torch.randn(2, 3, 6, 6)
KINDS = {
    "hesso": {"start_pruning_step": 5, "pruning_steps": 20, "pruning_periods": 4},
    "hesso_cric": {"start_pruning_step": 5, "sampling_steps": 3, "hybrid_training_steps": 5, "max_cycle": 2},
    "hspg": {"start_pruning_step": 5, "complete": (30, 35)},
    "dhspg": {"start_pruning_step": 5, "complete": (30, 35)},
    "lhspg": {"start_pruning_step": 5, "pruning_steps": 20, "pruning_periods": 4},
    "adahspg_reconstructed": {"phase_steps": 4, "full": lambda: None, "complete": (20, 30)},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def door(**options):
    return OTO(on.net(dtype=torch.float32), X, **options)


def made(kind="hesso", oto=None, **options):
    return getattr(oto or door(), kind)(lr=0.05, target_group_sparsity=0.5, **{**KINDS[kind], **options})


def test_dummy_input_is_example_inputs():
    model = on.net(dtype=torch.float32)
    assert OTO(model=model, dummy_input=X).groups.fingerprint == OTO(model, X).groups.fingerprint
    for wrong in ({}, {"example_inputs": X, "dummy_input": X}):
        with pytest.raises(UsageError, match="give it example_inputs, or dummy_input"):
            OTO(model, **wrong)


def test_group_divisible_leaves_a_multiple():
    oto = door()
    optimizer = made(oto=oto, group_divisible=4)
    on.train(oto.model, optimizer, 40)
    subnet = oto.construct_subnet()
    assert {subnet.conv1.out_channels % 4, subnet.conv2.out_channels % 4} == {0}
    assert subnet.conv1.out_channels + subnet.conv2.out_channels < 20
    assert oto.limits == Limits()


@kinds
def test_group_divisible_is_round_to_of_every_optimizer(kind):
    assert made(kind, group_divisible=4).quota.limits == Limits(round_to=4)
    assert made(kind).quota.limits == Limits()
    kept = Limits(round_to=2, min_keep=2)
    assert made(kind, door(limits=kept)).quota.limits == kept
    assert made(kind, door(limits=kept), group_divisible=2).quota.limits == kept
    with pytest.raises(UsageError, match="group_divisible is 4, and round_to of the limits 2"):
        made(kind, door(limits=kept), group_divisible=4)


@pytest.mark.parametrize("kind", ["hesso", "hesso_cric", "lhspg"])
def test_importance_score_criteria_are_criteria(kind):
    weights = {"magnitude": 0.1, "avg_magnitude": 0.3, "taylor_second_order": 0.6}
    assert made(kind, importance_score_criteria=weights).criteria == Criteria(0.1, 0.3, 0.0, 0.0, 0.6)
    assert made(kind, importance_score_criteria="default").criteria == Criteria(0.2, 0.2, 0.2, 0.2, 0.2)
    with pytest.raises(UsageError, match="did you mean avg_magnitude"):
        made(kind, importance_score_criteria={"avg_magnitud": 1.0})
    with pytest.raises(UsageError, match="a dict of weights or 'default'"):
        made(kind, importance_score_criteria="all")
    with pytest.raises(UsageError, match="give one of them"):
        made(kind, importance_score_criteria=weights, criteria=Criteria())
    assert sorted(CRITERIA.values()) == sorted({one.name for one in dataclasses.fields(Criteria)} - {"cosine_sign"})


def test_mark_unprunable_by_param_names_is_mark_unprunable():
    one, other = door(), door()
    one.mark_unprunable_by_param_names(["conv1.weight"])
    other.mark_unprunable("conv1")
    flags = [made(oto=oto, pruning_periods=2, pruning_steps=4).quota.free.tolist() for oto in (one, other)]
    assert flags[0] == flags[1]
    assert sum(flags[0]) == 12


def test_random_set_zero_groups_takes_a_share():
    oto = door()
    oto.random_set_zero_groups(target_group_sparsity=0.5)
    assert len(oto.selection()) == 10


@kinds
def test_start_pruning_step_is_the_same_word(kind):
    if kind != "adahspg_reconstructed":
        assert made(kind, start_pruning_step=7).start_step == 7
    with pytest.raises(UsageError, match=r"start_pruning_steps'?: it is start_pruning_step"):
        made(kind, start_pruning_steps=7)


@kinds
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("fixed_zero_groups", "always"),
        ("wieght_decay", "did you mean weight_decay"),
        ("target_sparsity", "did you mean target_group_sparsity"),
        ("momentum", "it is first_momentum"),
        ("qqq", "it has lr, target_group_sparsity"),
    ],
)
def test_unknown_options_are_said_with_ours(kind, word, reason):
    with pytest.raises(UsageError, match=rf"oto\.{kind} has no option '{word}': .*{reason}"):
        made(kind, **{word: 1})


def test_what_is_missing_is_said():
    with pytest.raises(UsageError, match=r"oto\.hesso: missing a required argument: 'start_pruning_step'"):
        door().hesso(lr=0.1, target_group_sparsity=0.5, pruning_steps=10)
    with pytest.raises(UsageError, match=r"oto\.base_optimizer has no option 'beta'"):
        door().base_optimizer("sgd", 0.1, beta=1)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda oto: oto.construct_subnet(export_float16=True), "construct_subnet has no option 'export_float16'"),
        (lambda oto: oto.compute_flops(in_million=True), "in single multiply-adds"),
        (lambda oto: oto.compute_num_params(compressed=True), "`full` and `compressed`"),
        (lambda oto: oto.mark_unprunable_by_node_ids(["node-1"]), "mark_unprunable takes names"),
        (lambda oto: oto.visualize(view=False), "conformance explain"),
        (lambda oto: oto.compressed_model_path, r"conformance\.load_subnet"),
        (lambda oto: OTO(oto.model, dummy_inputs=X), "did you mean dummy_input"),
        (lambda oto: OTO(oto.model, X, skip_patterns=["x"]), "mark_unprunable says"),
    ],
)
def test_what_is_elsewhere_says_where(call, reason):
    with pytest.raises(UsageError, match=reason):
        call(door())


def test_other_attributes_are_not_there():
    oto = door()
    assert not hasattr(oto, "nothing")
    assert not hasattr(oto, "visualize")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = oto.nothing
    assert copy.deepcopy(oto).groups.count == oto.groups.count


def test_the_page_has_every_word():
    table = (ROOT / "docs" / "oto.md").read_text(encoding="utf-8").split("## Coming from only_train_once")[1]
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", table.split("\n## ")[0]))))
    accepted = {"dummy_input", "group_divisible", "importance_score_criteria", "mark_unprunable_by_param_names"}
    theirs = {"fixed_zero_groups", "mark_unprunable_by_node_ids", "visualize", "compressed_model_path"}
    assert accepted | theirs | {"random_set_zero_groups", "start_pruning_step", "pruning_periods"} <= words
    assert theirs <= {*_OPTIONS, *_ATTRIBUTES}
