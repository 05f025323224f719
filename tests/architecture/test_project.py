"""What pyproject.toml says twice must say the same, and what it names must be there."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import conformance
from conformance.report.environment import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENTRIES = [
    (group, name, value)
    for group, entries in PROJECT["project"]["entry-points"].items()
    for name, value in entries.items()
]


@pytest.mark.parametrize("name", ["zoo", "bench", "deploy", "third-party", "minilm"])
def test_an_extra_and_its_group_are_the_same(name):
    assert PROJECT["project"]["optional-dependencies"][name] == PROJECT["dependency-groups"][name]


def test_the_version_is_said_once():
    assert conformance.__version__ == PROJECT["project"]["version"]
    assert PROJECT["project"]["name"] == DISTRIBUTION


def test_the_noxfile_installs_every_group():
    source = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    named = re.search(r"^GROUPS = \((.*)\)$", source, re.MULTILINE)
    assert named
    assert set(re.findall(r'"([\w-]+)"', named[1])) == set(PROJECT["dependency-groups"])


@pytest.mark.parametrize(("group", "name", "value"), ENTRIES, ids=[f"{g}-{n}" for g, n, _ in ENTRIES])
def test_every_entry_point_leads_to_something(group, name, value):
    module, _, attribute = value.partition(":")
    assert hasattr(importlib.import_module(module), attribute), f"{group}: {name}"


def test_the_wheel_has_every_package_and_no_tests():
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["conformance", "backends", "reference_impls", "reports"]
    assert all((ROOT / package / "__init__.py").is_file() for package in packages)


def test_every_package_has_strict_types():
    assert PROJECT["tool"]["mypy"]["strict"] is True
    assert PROJECT["tool"]["mypy"]["files"] == PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
