"""What the docstring of every registered method says: its options and defaults, data, shapes and source."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections import Counter

import pytest
import torch
from method_nets import built, made

from conformance.errors import UsageError
from conformance.method import method, method_class, methods
from conformance.method.registry import parse_options

OURS = {name: entry.module for name, entry in methods().items() if entry.module.startswith("reference_impls.")}
NAMES = tuple(OURS)
LISTED = tuple(name for name, module in OURS.items() if module.startswith(("reference_impls.b", "reference_impls.t")))
"""Baselines and tickets: their docstrings list options as OPTION=DEFAULT, so that the defaults can be compared."""

SHAPE = re.compile(r"\((count \+ 1,|out, in, kh, kw)\)")
SETTING = re.compile(r"\w+=[^\s,:]+")
"""An option with a value, as the command line takes it."""

every = pytest.mark.parametrize("name", NAMES)
every_listed = pytest.mark.parametrize("name", LISTED)


def words(name: str) -> str:
    """The class's own docstring in one line. dataclass makes one of its own, a signature, where there is none."""
    made = method_class(name)
    own = made.__dict__.get("__doc__") or ""
    assert own, f"{made.__name__} has no docstring of its own"
    assert not own.startswith(f"{made.__name__}("), f"{made.__name__} has no docstring but its signature"
    return " ".join(own.split())


def settings(name: str) -> list[str]:
    """OPTION=DEFAULT of each line of the docstring that begins with one or more of them and a colon."""
    lines = [line.strip() for line in (method_class(name).__doc__ or "").splitlines()]
    heads = [match[0] for line in lines if (match := re.match(r"\w+=\S+(, \w+=\S+)*: ", line))]
    return [one for head in heads for one in SETTING.findall(head)]


def first_author(paper: str) -> str:
    """`after Li et al., ...` to `Li`."""
    return paper.removeprefix("after ").split()[0].rstrip(",")


def idle(name: str) -> list[str]:
    """The options that the docstring says are without effect."""
    return re.findall(r"^\s+(\w+)=\w+: without effect", method_class(name).__doc__ or "", re.MULTILINE)


def test_all_methods_of_the_project_are_found():
    assert len(OURS) >= 32
    assert {"random", "l1", "cp", "dense", "early-bird", "lottery-ticket", "random-search"} <= set(NAMES)
    assert len(LISTED) == len([name for name in OURS if ".oto." not in OURS[name]])


def test_no_two_methods_share_a_module():
    modules = Counter(OURS[name] for name in NAMES)
    assert [module for module, number in modules.items() if number > 1] == []


@every
def test_it_is_the_class_s_own_and_no_repetition(name):
    assert words(name)
    assert sum(method_class(other).__doc__ == method_class(name).__doc__ for other in NAMES) == 1


@every
def test_every_option_is_named(name):
    fields = [field.name for field in dataclasses.fields(method_class(name))]
    assert [field for field in fields if not re.search(rf"\b{field}\b", words(name))] == []


@every
def test_what_data_it_needs_is_there_and_no_other(name):
    assert set(re.findall(r"\bD[0-3]\b", words(name))) == {method_class(name).facts.data.value}


@every
def test_a_shape_of_scores_or_weights_is_there(name):
    assert SHAPE.search(words(name))


@every
def test_the_source_is_the_one_that_is_declared(name):
    paper = method_class(name).facts.paper
    if years := re.findall(r"\b(?:19|20)\d\d\b", paper):
        assert re.search(rf"\b{first_author(paper)}\b.*\b{years[0]}\b", words(name))
    else:
        assert "control" in paper
        assert "control" in words(name)


@every_listed
def test_every_option_is_there_with_its_default(name):
    given = settings(name)
    options = {field.name: field.default for field in dataclasses.fields(method_class(name))}
    assert sorted(one.partition("=")[0] for one in given) == sorted(options)
    assert parse_options(name, given) == options


@every_listed
def test_the_data_it_needs_is_there_in_words(name):
    need = method_class(name).facts.data
    word = {"D0": "none", "D1": "unlabelled", "D2": "labelled", "D3": "training"}[need.value]
    assert f" Data: {need.value}, {word}" in words(name)


@every_listed
def test_it_says_what_the_result_depends_on_and_what_it_raises(name):
    assert "The result depends on the " in words(name)
    assert "Raises UsageError" in words(name)


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in LISTED for option in idle(name)])
def test_what_is_said_to_be_without_effect_is(name, option):
    choices = typing.get_args(typing.get_type_hints(method_class(name))[option])
    runs = [made(method(name, **{option: choice}), built("resnet")) for choice in choices]
    scores = [run.method.score(run) for run in runs]
    assert len(scores) > 2
    assert all(torch.equal(scores[0], other) for other in scores[1:])


def chosen(name: str) -> list[str]:
    """The options that are a choice among words."""
    types = typing.get_type_hints(method_class(name))
    return [field for field in method_class(name)().options if typing.get_origin(types[field]) is typing.Literal]


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in LISTED for option in chosen(name)])
def test_a_choice_that_does_not_exist_is_refused_before_anything_is_trained(name, option):
    with pytest.raises(UsageError, match=f"^{name}: "):
        method(name, **{option: "unheard-of"})


def test_such_options_are_found():
    assert idle("cp") == ["reduce", "members"]
    assert idle("l1") == []
    assert chosen("magnitude") == ["ranking", "output"]
