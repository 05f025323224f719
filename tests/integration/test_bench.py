"""Suites end to end: rows are what the runs came to, nothing is lost or repeated, whoever runs the jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conformance.errors import UsageError
from reports.bench.job import job_from, jobs
from reports.bench.local import Local
from reports.bench.measure import latency, peak_memory, ratio_interval
from reports.bench.runner import Told, run_suite
from reports.bench.suite import SUITES, MethodEntry, read_suite, recipe_of
from reports.rows import Row, read_rows, write_rows
from tests.integration.tiny_suite import QUIET, TINY

SAME = ("key", "metrics", "value", "removed", "macs", "params", "verdict", "status", "training", "division")


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def decisive(rows):
    return [{name: getattr(row, name) for name in SAME} for row in sorted(rows, key=lambda row: row.key)]


def bench(suite, folder, *words):
    command = [sys.executable, "-m", "conformance", "bench", "--suite", str(suite), "--output", str(folder)]
    return [*command, "--mlflow", "none", *words]


@pytest.mark.slow
def test_rows_say_what_the_runs_came_to(suite, tmp_path):
    todo = jobs(read_suite(str(suite)))
    rows = run_suite(todo, tmp_path / "out", Local(2), QUIET, timing=Local(1))
    assert [row.status for row in rows] == ["OK"] * 3
    assert {row.caption for row in rows} == {"as small as can be"}
    assert all(row.conforming for row in rows)
    dense, *pruned = rows
    assert dense.method == "dense"
    assert dense.macs[0] == dense.macs[1]
    for row in pruned:
        assert row.removed["macs"] >= 0.3
        assert row.macs[1] <= 0.7 * row.macs[0]
        assert row.speedup_theory == pytest.approx(row.macs[0] / row.macs[1])
        assert row.metrics["masked"]["accuracy"] == row.metrics["subnet"]["accuracy"]
        assert row.metrics["before"]["accuracy"] == dense.value
        assert row.value == row.metrics["finetuned"]["accuracy"]
        assert row.training == "finetuned"
        assert [item.batch for item in row.latency] == [2]
        assert row.memory[1] < row.memory[0]
    assert {row.method: row.division for row in pruned} == {"l2": "closed", "random": "open"}
    again = run_suite(todo, tmp_path / "out", _Nobody(), QUIET, timing=_Nobody())
    assert again == rows
    write_rows(tmp_path / "a.jsonl", rows)
    write_rows(tmp_path / "b.jsonl", reversed(read_rows(tmp_path / "out" / "rows.jsonl")))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


class _Nobody:
    """Finished jobs are not run again."""

    def run(self, todo, folder_of, said, *, measure=False):
        assert not todo
        return iter(())


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_without_loss_or_repetition(suite, tmp_path):
    whole = tmp_path / "whole"
    subprocess.run(bench(suite, whole, "--no-timing"), check=True, capture_output=True)
    folder = tmp_path / "killed"
    for _ in range(2):
        process = subprocess.Popen(bench(suite, folder, "--no-timing"), stdout=subprocess.PIPE, start_new_session=True)
        seen = len(read_rows(folder / "rows.jsonl")) if (folder / "rows.jsonl").exists() else 0
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / "rows.jsonl").exists() and len(read_rows(folder / "rows.jsonl")) > seen:
                break
            time.sleep(0.05)
        time.sleep(1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = (folder / "rows.jsonl").read_bytes()
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(b'{"key": "cut o')
    subprocess.run(bench(suite, folder, "--no-timing"), check=True, capture_output=True)
    after = (folder / "rows.jsonl").read_bytes()
    assert after.startswith(before)
    assert decisive(read_rows(folder / "rows.jsonl")) == decisive(read_rows(whole / "rows.jsonl"))
    keys = [json.loads(line)["key"] for line in after.splitlines()]
    assert len(keys) == len(set(keys))


def writing(folder):
    """Processes that have a job's log open."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = place.readlink()
            if target.name == "worker.log" and target.is_relative_to(folder):
                found.add(int(place.parts[2]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_job_outlives_its_runner(suite, tmp_path):
    process = subprocess.Popen(bench(suite, tmp_path / "out", "--no-timing"), stdout=subprocess.DEVNULL)
    try:
        assert until(lambda: writing(tmp_path)), "no job began"
    finally:
        process.kill()
        process.wait()
    assert until(lambda: not writing(tmp_path)), f"left behind: {writing(tmp_path)}"


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_rows_though_a_worker_is_killed(suite, tmp_path):
    ray = pytest.importorskip("ray")
    from reports.bench.cluster import Cluster

    todo = jobs(read_suite(str(suite)))
    here = run_suite(todo, tmp_path / "local", Local(os.cpu_count() or 1), QUIET)  # one thread a job, as there
    killed = []

    def said(job, what, done, total):
        if what == "queued" and not job.dense and not killed:
            killed.append(_kill_first_worker())

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        there = run_suite(todo, tmp_path / "ray", Cluster(), Told(said, lambda _: None))
        for thread in killed:
            thread.join(60)
            assert thread.hit, "no worker was killed: the test exercised nothing"
    finally:
        ray.shutdown()
    assert decisive(there) == decisive(here)


def _kill_first_worker():
    """Kill the first process of a job that comes to life, and its Ray worker with it."""
    import threading

    import psutil

    class Killer(threading.Thread):
        hit = False

        def run(self):
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not self.hit:
                for process in psutil.process_iter(["cmdline", "ppid"]):
                    if "reports.bench.worker" in (process.info["cmdline"] or []):
                        with contextlib.suppress(psutil.Error):  # it ended meanwhile
                            parent = psutil.Process(process.info["ppid"])
                            if "ray::" in " ".join(parent.cmdline()):  # not one that somebody else runs
                                parent.kill()
                                self.hit = True
                                break
                time.sleep(0.1)

    thread = Killer(daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_what_fails_is_a_row_with_its_reason_and_does_not_stop_the_others(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        TINY.replace("budgets: [macs=0.3]", "budgets: [params=0.9999, macs=0.3]").replace(
            ", {name: random, recipe: {lr: 0.01}}", ""
        )
    )
    rows = run_suite(jobs(read_suite(str(path))), tmp_path / "out", Local(2), QUIET)
    by_budget = {row.budget: row for row in rows}
    assert by_budget["macs=0.3"].conforming
    assert by_budget["params=0.9999"].status == "FAILED"
    assert "cannot be reached" in by_budget["params=0.9999"].error
    path.write_text(
        TINY.replace("dense: {epochs: 1, batch: 64, lr: 0.05}", "dense: {epochs: 1, batch: 64, lr: 1.0e+20}")
    )
    rows = run_suite(jobs(read_suite(str(path))), tmp_path / "dead", Local(2), QUIET)
    assert [row.status for row in rows] == ["FAILED"] * 3
    assert "the loss is" in rows[0].error
    assert all("the dense model it begins with could not be trained" in row.error for row in rows[1:])


class TestSuites:
    @pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_the_suites_that_ship_are_sound(self, path):
        suite = read_suite(path.stem)
        assert suite.name == path.stem
        assert suite.caption

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (("l2,", "l3,"), "there is no method named 'l3'"),
            (("macs=0.3", "macs=3"), "at least 0 and below 1"),
            (("seeds: [0]", "sedes: [0]"), "sedes"),
            (("lr: 0.01", "rl: 0.01"), "rl"),
            (("name: tiny", "name: [tiny"), "is no suite"),
        ],
    )
    def test_what_is_wrong_is_named_at_once(self, change, reason, tmp_path):
        (tmp_path / "a.yaml").write_text(TINY.replace(*change))
        with pytest.raises(UsageError, match=reason):
            read_suite(str(tmp_path / "a.yaml"))

    @pytest.mark.parametrize(
        ("name", "own", "epochs", "finetuning"),
        [("l2", {}, 0, 5), ("hesso", {}, 5, 0), ("group-lasso", {}, 3, 2), ("slimming", {}, 3, 2),
         ("group-lasso", {"epochs": 4, "finetune_epochs": 1}, 4, 1)],
    )  # fmt: skip
    def test_everyone_has_the_same_epochs(self, name, own, epochs, finetuning):
        board = read_suite("smoke").boards[0]
        board = board.model_copy(update={"recipe": dataclasses.replace(board.recipe, epochs=5)})
        made = recipe_of(board, MethodEntry(name=name, recipe=own or None))
        assert (made.epochs, made.finetune_epochs) == (epochs, finetuning)

    def test_boards_that_differ_in_limits_share_dense_models(self, suite):
        (tight := suite.with_name("tight.yaml")).write_text(TINY + "    limits: {protect: 0.5}\n")
        keys = [{job.key: job.dense for job in jobs(read_suite(str(path)))} for path in (suite, tight)]
        assert {key for key in keys[0] if key in keys[1]} == {key for key, dense in keys[0].items() if dense}

    def test_an_unknown_suite_names_those_there_are(self):
        with pytest.raises(UsageError, match="smoke"):
            read_suite("smok")

    def test_keys_depend_on_what_decides_and_on_nothing_else(self, suite):
        todo = jobs(read_suite(str(suite)))
        assert [job.key for job in todo] == [job.key for job in jobs(read_suite(str(suite)))]
        assert len({job.key for job in todo}) == len(todo)
        one = todo[1]
        assert job_from(json.loads(json.dumps(one.to_dict(), default=list))).key == one.key
        moved = dataclasses.replace(one, config=dataclasses.replace(one.config, weights="elsewhere", data="there"))
        assert moved.key == one.key
        other = dataclasses.replace(one, config=dataclasses.replace(one.config, seed=9))
        assert other.key != one.key


class TestMeasure:
    def test_memory_of_a_pass_is_state_and_what_lives_at_once(self):
        net = torch.nn.Sequential(torch.nn.Linear(10, 100), torch.nn.ReLU(), torch.nn.Linear(100, 5))
        state = 4 * (10 * 100 + 100 + 100 * 5 + 5)
        assert peak_memory(net, (torch.randn(3, 10),), {}) == state + 4 * 3 * 100 * 2

    def test_a_ratio_has_an_interval_around_it(self):
        rng = torch.Generator().manual_seed(0)
        times = torch.rand(50, generator=rng).numpy() + 1
        ratio, low, high = ratio_interval(3 * times, times)
        assert ratio == pytest.approx(3)
        assert low == pytest.approx(3)
        assert high == pytest.approx(3)

    def test_a_row_of_times(self):
        net = torch.nn.Linear(4, 4)
        found = latency(net, net, (torch.randn(8, 4),), {}, batch=8, turns=9, seconds=60)
        assert (found.turns, found.batch) == (9, 8)
        assert found.throughput == pytest.approx(8 / found.subnet_p50)


class TestRows:
    def test_a_torn_last_line_is_dropped_and_another_wrong_line_is_named(self, tmp_path):
        row = Row(
            key="k", suite="s", model="m", method="x", budget="macs=0.5", seed=0, task="t", dataset="d", metric="a",
            status="FAILED", error="why",
        )  # fmt: skip
        path = tmp_path / "rows.jsonl"
        line = json.dumps(row.model_dump(mode="json"))
        path.write_text(f"{line}\n{line[:20]}")
        assert read_rows(path) == [row]
        path.write_text(f"{line[:20]}\n{line}\n")
        with pytest.raises(UsageError, match=r"line 1 is no row"):
            read_rows(path)
        with pytest.raises(UsageError, match="cannot be read"):
            read_rows(Path(tmp_path / "none"))
