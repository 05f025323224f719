"""Who may import whom, read from the source, and what `import conformance` really loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("conformance", "backends", "reference_impls", "reports")
MODEL_LIBRARIES = ("timm", "torchvision", "transformers", "sklearn", "mlflow", "torch_pruning", "torch_kirigami")
FORBIDDEN = {
    "conformance": {"backends", "reference_impls", "reports", "tests", *MODEL_LIBRARIES},
    "backends": {"reference_impls", "reports", "tests"},
    "reference_impls": {"backends", "reports", "tests"},
    "reports": {"backends", "reference_impls", "tests"},
}


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """Top-level package and line of every import, those inside functions and by name too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.partition(".")[0], node.lineno


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize("package", PACKAGES)
def test_import_direction(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for name, line in imported(file)
        if name in FORBIDDEN[package]
    ]
    assert found == []


def test_the_reader_of_imports_sees_all_kinds(tmp_path):
    source = (
        "import timm.x\ndef f():\n    from backends import y\nimport importlib\nimportlib.import_module('reports.z')\n"
    )
    (tmp_path / "m.py").write_text(source)
    assert [name for name, _ in imported(tmp_path / "m.py")] == ["timm", "importlib", "backends", "reports"]


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after the statement."""
    code = f"import json, sys; {statement}; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import conformance",
        "import conformance.cli.app, conformance.isolate, conformance.spec_loader",
    ],
)
def test_the_engine_loads_no_model_library(statement):
    loaded = loaded_after(statement)
    assert "conformance" in loaded
    assert loaded & {*MODEL_LIBRARIES, "backends", "reference_impls", "reports"} == set()
