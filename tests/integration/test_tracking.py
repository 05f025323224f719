"""A suite on a real tracking server: what is read back through MLflow's client, and what its pages show."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.errors import UsageError
from reports.bench.job import jobs
from reports.bench.local import Local
from reports.bench.runner import run_suite
from reports.bench.suite import read_suite
from reports.rows import Row
from reports.tracking import Tracking, title
from tests.browser import needs_browser
from tests.integration.tiny_suite import QUIET, TINY
from tests.unit.made_rows import row as made_row

pytestmark = pytest.mark.bench
PATIENCE = 240
"""Seconds that the server has to start, and a page to show a text."""


@dataclass(frozen=True)
class Tracked:
    """A suite on a server: its rows and their runs, by the rows' keys."""

    tracking: Tracking
    rows: list[Row]
    parent: str
    runs: dict[str, str]
    version: str


@contextlib.contextmanager
def server(folder: Path):
    """The URI of an MLflow server on a free port of this machine, until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    process = subprocess.Popen(
        [*words, *store, "--artifacts-destination", str(folder / "artifacts")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert urllib.request.urlopen(f"{uri}/health", timeout=2).status == 200
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.5)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "tiny.yaml").write_text(TINY)
    todo = jobs(read_suite(str(folder / "tiny.yaml")))
    rows = run_suite(todo, folder / "out", Local(2), QUIET, timing=Local(1))
    assert [row.error for row in rows] == [""] * 3
    with server(folder) as uri:
        tracking = Tracking(uri, "tiny")
        parent = tracking.begin({"commit": "none"})
        for _ in range(2):  # logging a row again makes no second run
            runs = {row.key: tracking.log(row, folder / "out" / "jobs" / row.key) for row in rows}
        version = tracking.register(rows[1], "best-tiny")
        tracking.end(finished=True)
        yield Tracked(tracking, rows, parent, runs, version)


@pytest.mark.slow
def test_a_tracking_server_holds_everything_of_a_run(tracked):
    tracking, client = tracked.tracking, tracked.tracking.client
    found = {run.data.tags["job.key"]: run for run in client.search_runs([tracking.experiment], "tags.kind = 'job'")}
    assert {key: run.info.run_id for key, run in found.items()} == tracked.runs
    for row in tracked.rows:
        run = found[row.key]
        assert run.data.tags["mlflow.parentRunId"] == tracked.parent
        assert run.data.params["method"] == row.method
        assert run.data.metrics["value"] == row.value
        assert run.inputs.dataset_inputs[0].dataset.digest == row.dataset[:36]
        names = {item.path for item in client.list_artifacts(run.info.run_id, "run")}
        assert {"run/result.json", "run/plan.json", "run/subnet.safetensors", "run/history.jsonl"} <= names
        phase = "train" if row.method == "dense" else "finetune"
        steps = client.get_metric_history(run.info.run_id, f"{phase}/loss")
        assert [metric.step for metric in steps] == list(range(4))
    assert client.get_run(tracked.parent).info.status == "FINISHED"
    best = tracked.rows[1]
    assert client.get_model_version_by_alias("best-tiny", "winner").version == tracked.version
    assert client.get_model_version("best-tiny", tracked.version).run_id == tracked.runs[best.key]
    with pytest.raises(UsageError, match="is not proved exact"):
        tracking.register(best.model_copy(update={"verdict": "different"}), "best-tiny")


@pytest.fixture
def page(browser):
    found = browser.new_page(viewport={"width": 1600, "height": 1400})
    found.set_default_timeout(1000 * PATIENCE)
    yield found
    found.close()


def shows(where, text):
    """Wait until a part of a page says what the expression `text` matches."""
    from playwright.sync_api import expect

    expect(where).to_contain_text(re.compile(text), use_inner_text=True, timeout=1000 * PATIENCE)


@needs_browser
@pytest.mark.slow
def test_the_page_of_the_suite_lists_its_run_and_those_of_its_jobs(tracked, page, tmp_path):
    opened = page.goto(f"{tracked.tracking.uri}/#/experiments/{tracked.tracking.experiment}/runs")
    assert opened.status == 200  # the server refuses hosts it does not know
    links = {run: page.locator(f"a[href*='{run}']").first for run in (tracked.parent, *tracked.runs.values())}
    shows(links[tracked.parent], "^tiny$")
    # Jobs are folded into the suite's run.
    page.get_by_role("row").filter(has=links[tracked.parent]).get_by_role("button").first.click()
    for row in tracked.rows:
        budget = "" if row.method == "dense" else " macs=0.3"
        shows(links[tracked.runs[row.key]], f"^{row.method}{budget} small:vgg11-w8 seed 0$")
    page.screenshot(path=tmp_path / "runs.png")
    assert {row.method for row in tracked.rows} == {"dense", "l2", "random"}


@needs_browser
@pytest.mark.slow
def test_the_page_of_a_run_shows_its_figures_its_settings_and_its_files(tracked, page, tmp_path):
    row = next(row for row in tracked.rows if row.method == "random")
    address = f"{tracked.tracking.uri}/#/experiments/{tracked.tracking.experiment}/runs/{tracked.runs[row.key]}"
    page.goto(address)
    body = page.locator("body")
    # Of 100 test samples: an accuracy has two digits, however a page rounds.
    for stage, metrics in row.metrics.items():
        shows(body, rf"\b{stage}/accuracy\s+{metrics['accuracy']:g}\s")
    shows(body, rf"\bmacs/subnet\s+{row.macs[1]}\s")
    for name, value in (("model", row.model), ("method", "random"), ("budget", "macs=0.3"), ("recipe.lr", "0.01")):
        shows(body, rf"\s{name}\s+{re.escape(value)}\s")
    page.screenshot(path=tmp_path / "run.png")
    page.goto(f"{address}/artifacts")
    page.get_by_text("run", exact=True).click()
    for name, inside in (("plan.json", '"pruning-conformance/subnet"'), ("result.json", '"method": "random"')):
        page.get_by_text(name, exact=True).first.click()
        shows(body, re.escape(inside))
    page.screenshot(path=tmp_path / "files.png")


def test_a_tracking_server_that_is_not_there_is_said(tmp_path):
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    for uri in (f"sqlite:///{tmp_path}/file/x.db", "http://127.0.0.1:9", "http://127.0.0.1:port"):
        with pytest.raises(UsageError, match="cannot be used"):
            Tracking(uri, "tiny")


def test_runs_that_differ_in_any_part_of_a_suite_have_names_of_their_own():
    parts = {"seed": (0, 1), "method": ("l1", "l2"), "budget": ("macs=0.3", "macs=0.5"), "model": ("a", "b")}
    rows = [made_row(**{part: value}) for part, values in parts.items() for value in values]
    assert len({title(row) for row in rows}) == len({(row.model, row.method, row.budget, row.seed) for row in rows})
    assert all(title(row).startswith(f"{row.method} {row.budget}") for row in rows)
    assert title(made_row("dense", budget="")) == "dense handmade:conv-net seed 0"
