"""The command: exit codes, one-sentence errors, isolation, sweeps. The engine is a stand-in here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import psutil
import pytest

from conformance.cli import look, rows, sets, zoo
from conformance.cli.app import main
from conformance.cli.options import parse_device, parse_shape
from conformance.cli.run import Finished, run_all
from conformance.cli.sets import sets as load_sets
from conformance.errors import UsageError
from conformance.isolate import KILLED, Cancelled, Limits, Request, check_isolated, failed
from conformance.report.schema import ModelReport, Outcome, Report
from conformance.report.terminal import Screen


@pytest.fixture(autouse=True)
def _own_path(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def run(capsys, *arguments):
    """Exit code, standard output and standard error of the command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_sentence(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


class TestUsage:
    """Everything the user can get wrong ends with 2, one sentence, and nothing written."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["check", "word"], "'word' is no SPEC"),
            (["check", "nofile.py:x"], "there is no file nofile.py"),
            (["check", "no_such_module_here:x"], "neither a collection"),
            (["check", "handmade:x", "--input-shape", "3,x"], "--input-shape '3,x' is not"),
            (["check", "handmade:x", "--input-shape", "0,3"], "is not positive sizes"),
            (["check", "handmade:x", "--device", "toaster"], "--device 'toaster' is no device"),
            (["check", "handmade:x", "--device", "meta"], "--device meta holds no values"),
            (["check", "handmade:x", "--timeout", "0"], "--timeout must be above 0, not 0"),
            (["check", "handmade:x", "--memory", "-1"], "--memory must be above 0, not -1"),
            (["check", "handmade:x", "--in-process", "--timeout", "3"], "leave out --timeout"),
            (["list", "nothing"], "there is no collection 'nothing'"),
            (["explain", "handmade:x", ":0"], "':0' is not PARAM"),
            (["zoo", "--set", "no-set"], "there is no set 'no-set'"),
        ],
    )
    def test_our_own_messages(self, capsys, arguments, words):
        code, out, err = run(capsys, *arguments)
        assert code == 2
        assert words in err
        assert one_sentence(err)
        assert out == ""
        assert list(Path.cwd().iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["check"],
            ["chekc"],
            ["check", "a:b", "--level", "4"],
            ["check", "a:b", "--dtype", "int8"],
            ["check", "a:b", "--seed", "-1"],
            ["check", "a:b", "--jobs", "0"],
            ["check", "a:b", "--nonsense"],
            ["explain", "a:b"],
        ],
    )
    def test_messages_of_the_option_parser(self, capsys, arguments):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "Error" in err

    def test_help_says_that_user_code_runs(self, capsys):
        code, out, _ = run(capsys, "check", "--help")
        assert code == 0
        assert "runs the code in it" in " ".join(out.split())

    def test_version(self, capsys):
        assert run(capsys, "--version")[:2] == (0, "pruning-conformance 0.1.0\n")

    def test_shapes_and_devices(self):
        assert parse_shape("3, 64,64") == (3, 64, 64)
        assert parse_shape(None) is None
        assert parse_device("cpu") == "cpu"

    def test_the_module_is_the_command(self):
        ended = subprocess.run(
            [sys.executable, "-m", "conformance", "check", "word"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2
        assert "'word' is no SPEC" in ended.stderr


@pytest.mark.usefixtures("fake_engine")
class TestCheck:
    def test_a_conforming_model(self, capsys, models):
        code, out, err = run(capsys, "check", f"{models}:good", "--in-process")
        assert (code, err) == (0, "")
        assert "conforms" in out
        assert "\x1b" not in out

    def test_a_failing_model_shows_its_counterexample(self, capsys, models):
        code, out, _ = run(capsys, "check", f"{models}:bad", "--in-process", "--seed", 5)
        assert code == 1
        assert "first diverging module: conv1" in out
        assert f"repeat with: conformance check {models}:bad --seed 5" in out

    def test_unsupported_is_no_pass(self, capsys, models):
        code, out, _ = run(capsys, "check", f"{models}:odd", "--in-process")
        assert code == 1
        assert "unsupported: aten.unfold has no rule" in out

    def test_an_internal_error_is_one_line_and_a_trace_on_demand(self, capsys, models):
        code, out, err = run(capsys, "check", f"{models}:internal", "--in-process")
        assert code == 3
        assert "internal error: RuntimeError: broken engine" in out
        assert "Traceback" not in out + err
        _, _, err = run(capsys, "check", f"{models}:internal", "--in-process", "--traceback")
        assert "Traceback" in err

    def test_one_bad_model_does_not_stop_the_others(self, capsys, models):
        specs = [f"{models}:{name}" for name in ("internal", "bad", "good")]
        code, out, _ = run(capsys, "check", *specs, "--in-process", "--report", "reports-here")
        assert code == 3
        written = Report.model_validate_json(Path("reports-here/report.json").read_text())
        assert [model.outcome for model in written.models] == [Outcome.ERROR, Outcome.FAIL, Outcome.PASS]
        assert written.command[:2] == ["conformance", "check"]
        assert "wrote reports-here" in out

    def test_a_callable_that_raises_is_a_usage_error_and_leaves_no_report(self, capsys, models):
        code, _, err = run(capsys, "check", f"{models}:raising", "--in-process", "--report", "d")
        assert code == 2
        assert "raised ValueError: no such weights" in err
        assert one_sentence(err)
        assert not list(Path("d").iterdir())

    def test_with_others_it_is_in_the_report_as_an_error(self, capsys, models):
        code, out, _ = run(capsys, "check", f"{models}:raising", f"{models}:good", "--in-process", "--report", "d")
        assert code == 2
        assert "conforms" in out
        outcomes = [m.outcome for m in Report.model_validate_json(Path("d/report.json").read_text()).models]
        assert outcomes == [Outcome.ERROR, Outcome.PASS]

    def test_a_report_folder_that_cannot_be_is_said_before_any_work(self, capsys, models):
        Path("taken").write_text("")
        code, out, err = run(capsys, "check", f"{models}:good", "--in-process", "--report", "taken/d")
        assert code == 2
        assert "nothing can be written to" in err
        assert out == ""

    def test_an_error_of_ours_ends_with_3(self, capsys, models, monkeypatch):
        monkeypatch.setattr("conformance.cli.check.run_all", lambda *_a, **_k: 1 / 0)
        code, _, err = run(capsys, "check", f"{models}:good")
        assert code == 3
        assert err == "internal error: ZeroDivisionError: division by zero (--traceback shows where)\n"
        for place in (["--traceback", "check"], ["check", "--traceback"]):
            assert "Traceback" in run(capsys, *place, f"{models}:good")[2]

    def test_isolated_in_parallel_in_the_order_asked_for(self, capsys, models):
        specs = [f"{models}:{name}" for name in ("exiting", "good", "raising")]
        code, out, err = run(capsys, "check", *specs, "--jobs", 2, "--report", "d")
        assert code == 2
        found = Report.model_validate_json(Path("d/report.json").read_text()).models
        assert [model.spec for model in found] == specs
        assert [model.outcome for model in found] == [Outcome.ERROR, Outcome.PASS, Outcome.ERROR]
        assert "exit code 9" in found[0].reason
        assert "no such weights" in err
        assert "a model may print" not in out

    def test_ctrl_c_ends_the_children(self, models, tmp_path):
        start = (
            # Started in the background, tests inherit that Ctrl-C is ignored.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
            "import sys; sys.path.insert(0, sys.argv.pop(1)); import fake_engine; fake_engine.install();"
            "from conformance import isolate; isolate._CHILD = isolate._CHILD.replace('from', "
            "'import fake_engine; fake_engine.install(); from', 1);"
            "from conformance.cli.app import main; sys.exit(main())"
        )
        command = [
            sys.executable,
            "-c",
            start,
            str(tmp_path),
            "check",
            f"{models}:sleeping",
            f"{models}:good",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            children = wait_for_children(process.pid)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted" in err
        assert gone(children)

    def test_a_killed_parent_takes_its_children_along(self, models, tmp_path):
        start = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from conformance import isolate;"
            "isolate._CHILD = isolate._CHILD.replace('from', 'import fake_engine; fake_engine.install(); from', 1);"
            "isolate.check_isolated(isolate.Request(sys.argv[1]), isolate.Limits())"
        )
        command = [sys.executable, "-c", start, str(tmp_path), f"{models}:sleeping"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            children = wait_for_children(process.pid)
            process.kill()
        assert gone(children)


def wait_for_children(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if children := psutil.Process(pid).children(recursive=True):
            time.sleep(0.5)
            return children
        time.sleep(0.05)
    raise AssertionError("no child was started")


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.usefixtures("fake_engine")
class TestIsolation:
    def check(self, spec, limits=Limits(seconds=120), **arguments) -> ModelReport:  # noqa: B008 - frozen
        return check_isolated(Request(spec), limits, **arguments)

    def test_a_report_and_progress_come_back(self, models):
        steps = []
        report = self.check(f"{models}:good", progress=lambda *step: steps.append(step))
        assert report.outcome is Outcome.PASS
        assert steps == [("running", 1, 2)]

    def test_a_time_limit(self, models):
        started = time.monotonic()
        report = self.check(f"{models}:sleeping", Limits(seconds=4))
        assert (report.outcome, report.reason) == (Outcome.ERROR, "timed out after 4 s")
        assert 4 <= time.monotonic() - started < 20
        assert not psutil.Process().children(recursive=True)

    def test_a_memory_limit(self, models):
        report = self.check(f"{models}:eating", Limits(seconds=120, gib=1.5))
        assert (report.outcome, report.reason) == (Outcome.ERROR, "out of memory: used over 1.5 GiB")

    def test_a_signal(self, models):
        report = self.check(f"{models}:dying")
        assert report.outcome is Outcome.ERROR
        assert report.reason.startswith("the process ended by signal 9 (SIGKILL")
        assert report.reason.endswith("its last line: about to die")

    def test_an_exit(self, models):
        assert "ended with exit code 9" in self.check(f"{models}:exiting").reason

    def test_an_internal_error_brings_its_trace(self, models):
        traces = []
        report = self.check(f"{models}:internal", on_trace=traces.append)
        assert report.reason == "internal error: RuntimeError: broken engine"
        assert "in forward" in traces[0]

    def test_a_usage_error_is_raised_here(self, models):
        with pytest.raises(UsageError, match="needs the argument width"):
            self.check(f"{models}:needy")

    def test_calling_it_off(self, models):
        cancel = threading.Event()
        threading.Timer(1.0, cancel.set).start()
        with pytest.raises(Cancelled):
            self.check(f"{models}:sleeping", cancel=cancel)
        assert not psutil.Process().children(recursive=True)

    def test_an_interpreter_that_cannot_start(self, models, monkeypatch):
        monkeypatch.setattr("conformance.isolate._CHILD", "this is no python")
        report = self.check(f"{models}:good")
        assert "exit code 1" in report.reason
        assert "SyntaxError" in report.reason


@pytest.mark.usefixtures("fake_engine")
class TestLooking:
    def test_groups(self, capsys, models):
        code, out, _ = run(capsys, "groups", f"{models}:good")
        assert code == 0
        assert "conv1" in out

    def test_explain(self, capsys, models):
        assert run(capsys, "explain", f"{models}:good", "0.weight:1")[:2] == (
            0,
            "a model may print\na model may print\n0.weight dim 1 is free\n",
        )
        code, _, err = run(capsys, "explain", f"{models}:good", "0.wait")
        assert code == 2
        assert "did you mean 0.weight?" in err

    @pytest.mark.parametrize(("text", "parsed"), [("a.b", ("a.b", None)), ("a:0", ("a", 0)), ("a:-1", ("a", -1))])
    def test_parameters(self, text, parsed):
        assert look.parse_parameter(text) == parsed

    @pytest.mark.parametrize("text", ["", ":1", "a:", "a:b", "a:1:2"])
    def test_wrong_parameters(self, text):
        with pytest.raises(UsageError):
            look.parse_parameter(text)

    def test_list_checks(self, capsys):
        code, out, _ = run(capsys, "list", "checks")
        assert code == 0
        assert "equivalence" in out
        assert "equivalence" not in run(capsys, "list", "checks", "--filter", "x*")[1]

    def test_list_collections_and_models(self, capsys):
        code, out, _ = run(capsys, "list")
        assert code == 0
        assert "handmade" in out
        code, out, _ = run(capsys, "list", "handmade", "--filter", "conv*")
        assert code == 0
        assert out
        assert all(line.startswith("handmade:conv") for line in out.splitlines())


def report_of(spec, outcome=Outcome.PASS, **fields) -> ModelReport:
    known = {"parameters": 10, "kinds": {"channel": 4}}
    return ModelReport(spec=spec, outcome=outcome, level=2, seed=0, seconds=1.0, **known | fields)


OUTCOMES = {
    "m:good": report_of("m:good"),
    "m:odd": report_of("m:odd", Outcome.UNSUPPORTED, reason="aten.x has no rule"),
    "m:slow": report_of("m:slow", Outcome.ERROR, reason="timed out after 3 s"),
    "n:other": report_of("n:other", kinds={"head": 2}),
}


class TestZoo:
    """The sweep, with models that end at once."""

    @pytest.fixture
    def ran(self, monkeypatch, tmp_path):
        """The SPECs that the sweep checked; the sets are `mini` and `more`."""
        (tmp_path / "mini_sets.py").write_text(
            "def mini(): return ['m:slow', 'm:good', 'm:odd']\n"
            "def more(): return ['n:other']\n"
            "def broken(): raise ValueError('no cache')\n"
            "def wrong(): return 'm:good'\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mini_sets", raising=False)
        names = ("mini", "more", "broken", "wrong")
        found = [EntryPoint(name, f"mini_sets:{name}", sets.ENTRY_POINT_GROUP) for name in names]
        monkeypatch.setattr(sets, "entry_points", lambda group: found)
        ran = []

        def run_all(requests, _limits, _screen, done, *, jobs):
            for request in requests:
                ran.append(request.spec)
                done(Finished(request, OUTCOMES[request.spec]))

        monkeypatch.setattr(zoo, "run_all", run_all)
        return ran

    def sweep(self, capsys, *arguments):
        return run(capsys, "zoo", "--set", "mini", "--set", "more", "--output", "out", *arguments)

    def test_rows_page_and_exit_code(self, capsys, ran):
        code, out, _ = self.sweep(capsys)
        assert code == 3
        assert ran == ["m:slow", "m:good", "m:odd", "n:other"]
        assert "aten.x has no rule" in out
        lines = Path("out/rows.jsonl").read_text().splitlines()
        assert [json.loads(line)["report"]["spec"] for line in lines] == ran
        text = Path("out/zoo.md").read_text()
        assert "| mini | 3 of 3 | 1 | 1 | 0 | 1 | 3 | channel 12 |" in text
        assert "| more | 1 of 1 | 1 | 0 | 0 | 0 | 1 | head 2 |" in text
        assert "conformance zoo --set mini --set more --output out" in text
        assert text.index("m:slow") < text.index("n:other")

    def test_every_model_of_a_collection(self, capsys, monkeypatch):
        asked = []

        def run_all(requests, _limits, _screen, done, *, jobs):
            asked.extend(requests)
            for request in requests:
                done(Finished(request, failed(request, "stood in for", 1.0)))

        monkeypatch.setattr(zoo, "run_all", run_all)
        sweep = ("zoo", "--all", "handmade", "--filter", "*:conv-?d", "--exact-below", "1.5", "--output", "whole")
        assert run(capsys, *sweep)[0] == 3
        assert [request.spec for request in asked] == ["handmade:conv-1d", "handmade:conv-3d"]
        assert {request.exact_below for request in asked} == {1.5}
        assert "## all of handmade" in Path("whole/zoo.md").read_text()
        assert run(capsys, "zoo", "--all", "nothing")[0] == 2
        assert run(capsys, "zoo", "--all", "handmade", "--exact-below", "0")[0] == 2
        asked.clear()
        run(capsys, *sweep[:-4], "--output", "whole")  # another limit is another run
        assert len(asked) == 2

    def test_resuming_skips_what_is_finished(self, capsys, ran):
        self.sweep(capsys)
        ran.clear()
        page = Path("out/zoo.md").read_text()
        code, out, _ = self.sweep(capsys)
        assert (code, ran) == (3, [])
        assert "4 of 4 models are finished already" in out
        assert Path("out/zoo.md").read_text() == page

    def test_another_seed_or_version_is_another_run(self, capsys, ran, monkeypatch):
        self.sweep(capsys)
        ran.clear()
        self.sweep(capsys, "--seed", 1)
        assert len(ran) == 4
        ran.clear()
        monkeypatch.setattr(rows, "deciding_versions", lambda: {"torch": "other"})
        self.sweep(capsys)
        assert len(ran) == 4

    def test_fresh_starts_over_and_errors_can_be_retried(self, capsys, ran):
        self.sweep(capsys)
        ran.clear()
        self.sweep(capsys, "--retry-errors")
        assert ran == ["m:slow"]
        ran.clear()
        self.sweep(capsys, "--fresh")
        assert len(ran) == 4
        assert len(Path("out/rows.jsonl").read_text().splitlines()) == 4

    def test_a_row_cut_off_by_a_kill_is_dropped(self, capsys, ran):
        self.sweep(capsys)
        file = Path("out/rows.jsonl")
        file.write_bytes(file.read_bytes()[:-20])
        ran.clear()
        self.sweep(capsys)
        assert ran == ["n:other"]
        assert len(file.read_text().splitlines()) == 4

    def test_a_file_that_is_not_ours_is_left_alone(self, capsys, ran):
        Path("out").mkdir()
        Path("out/rows.jsonl").write_text('{"a": 1}\n')
        code, _, err = self.sweep(capsys)
        assert code == 2
        assert "line 1 of out/rows.jsonl is no finished model" in err
        assert Path("out/rows.jsonl").read_text() == '{"a": 1}\n'
        assert ran == []

    def test_a_sweep_broken_off_still_writes_its_page(self, capsys, ran, monkeypatch):
        def run_all(requests, _limits, _screen, done, *, jobs):
            done(Finished(requests[0], OUTCOMES["m:slow"]))
            raise KeyboardInterrupt

        monkeypatch.setattr(zoo, "run_all", run_all)
        code, _, _ = self.sweep(capsys)
        assert code == 130
        assert "| mini | 1 of 3 |" in Path("out/zoo.md").read_text()

    def test_only_conforming_models_end_with_0(self, capsys, ran):
        assert run(capsys, "zoo", "--set", "more", "--output", "out")[0] == 0
        assert run(capsys, "zoo", "--set", "mini", "--filter", "*odd", "--output", "out")[0] == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                ["--set", "mino"],
                "there is no set 'mino' (known: broken, mini, more, wrong); did you mean mini",
            ),
            (["--set", "broken"], "the set 'broken' cannot be loaded: ValueError: no cache"),
            (["--set", "wrong"], "did not return a list of SPECs"),
            (["--set", "mini", "--filter", "x*"], "no model is left to check"),
        ],
    )
    def test_what_is_wrong_with_a_set(self, capsys, ran, arguments, words):
        code, out, err = run(capsys, "zoo", *arguments, "--output", "out")
        assert code == 2
        assert words in err
        assert one_sentence(err)
        assert (out, ran) == ("", [])
        assert not Path("out").exists()

    def test_all_sets_without_a_name(self, ran, monkeypatch):
        monkeypatch.setattr(sets, "entry_points", lambda group: [EntryPoint("more", "mini_sets:more", group)])
        assert load_sets([]) == {"more": ["n:other"]}

    def test_a_set_without_its_library_is_left_out_unless_it_is_asked_for(self, capsys, monkeypatch, ran):
        Path("absent_sets.py").write_text("def absent():\n    raise ImportError('absent is not installed')\n")
        found = [("absent", "absent_sets:absent"), ("more", "mini_sets:more")]
        monkeypatch.setattr(sets, "entry_points", lambda group: [EntryPoint(*entry, group) for entry in found])
        assert load_sets([]) == {"more": ["n:other"]}
        assert capsys.readouterr().err == (
            "left out: the set 'absent' cannot be loaded: ImportError: absent is not installed\n"
        )
        with pytest.raises(UsageError, match="absent is not installed"):
            load_sets(["absent"])

    def test_a_failed_model_is_an_honest_row(self):
        report = failed(Request("m:x", level=1, seed=4), "timed out after 3 s", 3.0)
        assert (report.outcome, report.level, report.seed) == (Outcome.ERROR, 1, 4)


@pytest.mark.usefixtures("fake_engine")
def test_a_sweep_in_real_processes(capsys, models, monkeypatch, tmp_path):
    (tmp_path / "real_sets.py").write_text(f"def real(): return ['{models}:good', '{models}:exiting']\n")
    found = [EntryPoint("real", "real_sets:real", sets.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(sets, "entry_points", lambda group: found)
    code, out, _ = run(capsys, "zoo", "--jobs", 2, "--output", "out")
    assert code == 3
    assert "ended with exit code 9" in out
    assert "2 of 2" in Path("out/zoo.md").read_text()


@pytest.mark.skipif(os.name != "posix", reason="signals are a POSIX matter")
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_killed_beside_others_gets_a_try_alone(jobs, monkeypatch):
    """The system kills for want of memory; two large models at once may be what was too much."""
    tried, at_work = [], set()

    def check_isolated(request, *_):
        tried.append(request.spec)
        at_work.add(request.spec)
        time.sleep(0.05)
        alone = len(at_work) == 1 and tried.count(request.spec) > 1
        at_work.discard(request.spec)
        reason = "" if alone or request.spec == "m:small" else KILLED
        return ModelReport(spec=request.spec, outcome=Outcome.ERROR, reason=reason, level=2, seed=0, seconds=0.1)

    monkeypatch.setattr("conformance.cli.run.check_isolated", check_isolated)
    requests, seen = [Request("m:large"), Request("m:small"), Request("m:larger")], []
    found = run_all(requests, Limits(), Screen(), seen.append, jobs=jobs)
    assert [one.request for one in found] == requests
    assert [bool(one.report.reason) for one in found] == [jobs == 1, False, jobs == 1]
    assert sorted(one.request.spec for one in seen) == ["m:large", "m:larger", "m:small"]
    assert len(tried) == (3 if jobs == 1 else 5)


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are a POSIX matter")
@pytest.mark.usefixtures("fake_engine")
def test_on_a_terminal_there_is_colour_and_progress(models, tmp_path):
    import pty

    start = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import fake_engine; fake_engine.install();"
        "from conformance.cli.app import main; sys.exit(main())"
    )
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")} | {"TERM": "xterm"}
    command = [sys.executable, "-c", start, str(tmp_path), "check", f"{models}:good", "--in-process"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal reads as an error
            while chunk := os.read(ours, 4096):
                seen += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in seen
    assert b"conforms" in seen
