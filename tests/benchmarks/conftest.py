"""Every benchmark adds rows to a table; `--table FILE` writes them all between two marks in that file.

nox -s benchmark -- --table docs/performance.md

`--save-baselines` writes the ratios that later runs of the hot paths are held against (test_hot_paths.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from measure import machine, markdown, replaced

TABLES = pytest.StashKey[dict[str, list[dict[str, str]]]]()


def pytest_addoption(parser):
    parser.addoption("--table", type=Path, metavar="FILE", help="write the benchmarks' tables into this Markdown file")
    parser.addoption("--save-baselines", action="store_true", help="save the hot paths' ratios for later runs")


def pytest_configure(config):
    config.stash[TABLES] = {}
    # The peers of a comparison may not be given more threads than the engine, nor the other way round.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture
def row(request, benchmark):
    """Adds one row, column -> text, to the table of that title and to the benchmark's own record."""

    def add(title: str, **cells: str) -> None:
        benchmark.extra_info.update(cells)
        named = {column.replace("_", " "): text for column, text in cells.items()}
        request.config.stash[TABLES].setdefault(title, []).append(named)

    return add


def pytest_terminal_summary(terminalreporter, config):
    tables = config.stash[TABLES]
    if not tables:
        return
    text = f"{machine()}\n\n" + "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in tables.items())
    terminalreporter.section("ratios")
    terminalreporter.write_line(text)
    file = config.getoption("--table", default=None)
    if file is not None:
        file.write_text(replaced(file.read_text() if file.exists() else "", text))
        terminalreporter.write_line(f"\nwrote {file}")
