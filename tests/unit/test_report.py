"""Reports: what is shown, escaped, and written whole or not at all."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from conformance.errors import UsageError
from conformance.report import files
from conformance.report.build import Table, build_report, count, detail_lines, headline, kinds, summary_table
from conformance.report.environment import engine_digest, environment, installed, tool_version
from conformance.report.files import append_line, make_folder, write_report, write_together
from conformance.report.markdown import code, escape, fenced, report_markdown, table
from conformance.report.schema import CheckResult, GroupRow, HeldBack, ModelReport, Outcome, Report
from conformance.report.terminal import Screen, show_model, show_partition


def check_result(outcome=Outcome.PASS, **fields) -> CheckResult:
    given = {"id": "subnet-exact", "title": "subnets are exact", "level": 2, "severity": "MUST", "spec": "E1"}
    return CheckResult(**given | {"outcome": outcome, "exercised": 5, "seconds": 1.5} | fields)


def model_report(**fields) -> ModelReport:
    given = {"spec": "handmade:net", "outcome": Outcome.PASS, "level": 2, "seed": 0, "seconds": 3.25}
    known = {"parameters": 11_689_512, "flops": 1_814_073_344, "kinds": {"head": 3, "channel": 64}}
    return ModelReport(**given | known | {"removable_parameters": 0.987} | fields)


FAILING = model_report(
    outcome=Outcome.FAIL,
    checks=[
        check_result(),
        check_result(
            Outcome.FAIL,
            id="state",
            message="the subnet differs in 3 of 4 outputs",
            details={
                "repeat": "conformance check handmade:net --seed 0",
                "zebra": [1] * 20,
                "max_abs": 0.12345678,
                "first_diverging_module": "layer1.0.conv2",
                "selection_size": 1,
                "nothing": None,
            },
        ),
    ],
    held_back=[HeldBack(reason="aten.unfold has no rule", slices=12, parameters=900, examples=["a.weight:0"])],
    groups=[
        GroupRow(axis="small", kind="channel", size=2, mode="producers", parameters=10, flops=20),
        GroupRow(axis="large", kind="head", size=3, mode="consumers", parameters=1000, flops=20),
    ],
    unverified=["bn1"],
    subnets={"class": 4, "graph": 1},
    trace_device="meta",
)


def report_of(*models) -> Report:
    return build_report(models, command=["conformance", "check", "x y"], environment={"torch": "2"})


def shown(model, *, plain=True, show=show_model) -> str:
    stream = io.StringIO()
    show(Screen(stream, plain=plain), model)
    return stream.getvalue()


class TestWords:
    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (0, "0"),
            (999, "999"),
            (1000, "1 k"),
            (11_689_512, "11.7 M"),
            (1_814_073_344, "1.81 G"),
            (999_600, "1000 k"),
            (2.5e12, "2.5 T"),
            (4e15, "4000 T"),
        ],
    )
    def test_counts_are_short(self, number, text):
        assert count(number) == text

    def test_headline(self):
        assert headline(model_report()) == "handmade:net conforms (level 2, seed 0, 3.2 s)"
        reason = model_report(outcome=Outcome.UNSUPPORTED, reason="aten.x has no rule")
        assert headline(reason).startswith("handmade:net unsupported: aten.x has no rule (")
        assert "1 fail, 1 pass" in headline(FAILING)

    def test_kinds_most_first(self):
        assert kinds(model_report()) == "channel 64, head 3"
        assert kinds(model_report(kinds={"channel": 0})) == "none"

    def test_the_counterexample_comes_first(self):
        names = [name for name, _ in detail_lines(FAILING.checks[1])]
        assert names == [
            "groups removed",
            "first diverging module",
            "largest difference",
            "repeat with",
            "zebra",
        ]

    def test_long_details_are_cut(self):
        value = dict(detail_lines(FAILING.checks[1]))["zebra"]
        assert value.endswith("and 8 more")

    def test_summary_of_a_model_that_never_ran_shows_no_numbers(self):
        never = model_report(outcome=Outcome.ERROR, reason="timed out after 3 s", parameters=0, kinds={})
        assert summary_table([never]).rows[0][2:5] == ("", "", "")


class TestScreen:
    def test_plain_output_has_everything_and_no_escape_codes(self):
        text = shown(FAILING)
        assert "\x1b" not in text
        for word in ("does not conform", "aten.unfold has no rule", "first diverging module: layer1.0.conv2"):
            assert word in text
        assert "repeat with: conformance check handmade:net --seed 0" in text
        assert "bn1" in text

    def test_plain_lines_are_never_wrapped_or_cut(self):
        name = "x" * 400
        assert name in shown(model_report(outcome=Outcome.ERROR, reason=name))

    def test_rich_output_reads_no_markup(self):
        text = shown(model_report(outcome=Outcome.ERROR, reason="[red]boom[/red] [/]"), plain=False)
        assert "[red]boom[/red] [/]" in text

    def test_rich_output_shows_the_same_facts(self):
        text = re.sub(r"\x1b\[[0-9;]*m", "", shown(FAILING, plain=False))
        assert "first diverging module: layer1.0.conv2" in text
        assert "aten.unfold" in text

    def test_many_groups_are_cut_unless_asked_for(self):
        rows = [
            GroupRow(axis=f"axis{i}", kind="channel", size=1, mode="producers", parameters=100 - i, flops=1)
            for i in range(40)
        ]
        model = model_report(groups=rows)
        assert "and 25 more axes: conformance groups handmade:net" in shown(model)
        assert "axis39" not in shown(model)
        assert "axis39" in shown(model, show=show_partition)

    @pytest.mark.parametrize("name", ["CI", "NO_COLOR"])
    def test_plain_when_asked(self, monkeypatch, name):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        for other in ("CI", "NO_COLOR"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert not Screen(Terminal()).plain
        monkeypatch.setenv(name, "1")
        assert Screen(Terminal()).plain

    def test_plain_without_a_terminal(self):
        assert Screen(io.StringIO()).plain

    def test_progress_on_a_terminal_and_none_without(self):
        for plain in (True, False):
            stream = io.StringIO()
            screen = Screen(stream, plain=plain)
            with screen.board(2) as board, board.model("a[b]:c") as tracker:
                tracker("field oracle", 1, 3)
            assert bool(stream.getvalue()) is not plain


class TestMarkdown:
    @pytest.mark.parametrize("text", ["a|b", "<script>", "[x](y)", "*bold*", "`code`", "# head", "a\nb", "$x$"])
    def test_user_text_cannot_leave_its_cell(self, text):
        line = table(Table(("name",), ((text,),))).splitlines()[2]
        assert line.startswith("| ")
        assert line.endswith(" |")
        assert re.search(r"(?<!\\)\|", line[1:-1]) is None
        assert "<script>" not in line

    def test_escaping(self):
        assert escape("a_b <i> & c") == "a\\_b &lt;i&gt; &amp; c"
        assert escape("one\r\n\x00two") == "one two"
        assert escape("\\|") == "\\\\\\|"

    def test_code_may_hold_backticks(self):
        assert code("a`b") == "``a`b``"
        assert code("`") == "`` ` ``"
        assert fenced("```\nx").startswith("````text\n")

    def test_the_whole_report(self):
        text = report_markdown(report_of(FAILING, model_report(spec="<b>|x")))
        assert "conformance check 'x y'" in text
        assert "## handmade:net" in text
        assert "`layer1.0.conv2`" in text
        assert "<b>" not in text
        assert text.index("| large |") < text.index("| small |")

    def test_it_is_the_same_every_time(self):
        report = report_of(FAILING)
        assert report_markdown(report) == report_markdown(report)


class TestFiles:
    def test_both_files_and_nothing_else(self, tmp_path):
        paths = write_report(tmp_path / "new" / "folder", report_of(FAILING))
        assert sorted(path.name for path in paths) == ["report.json", "report.md"]
        assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
            "report.json",
            "report.md",
        ]
        assert Report.model_validate_json(paths[0].read_text()) == report_of(FAILING).model_copy(
            update={"created": json.loads(paths[0].read_text())["created"]}
        )

    def test_infinite_details_are_still_json(self, tmp_path):
        odd = model_report(checks=[check_result(Outcome.FAIL, details={"max_abs": float("nan")})])
        json_path, _ = write_report(tmp_path, report_of(odd))
        assert json.loads(json_path.read_text(), parse_constant=pytest.fail)["models"]

    def test_a_failing_second_file_leaves_the_first_as_it_was(self, tmp_path, monkeypatch):
        write_together(tmp_path, {"a": "old a"})
        replace, calls = Path.replace, []

        def fail_on_b(self, target):
            calls.append(target)
            if Path(target).name == "b":
                raise OSError("disk full")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", fail_on_b)
        with pytest.raises(OSError, match="disk full"):
            write_together(tmp_path, {"a": "new a", "b": "new b"})
        assert calls
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_text() == "old a"

    def test_a_failing_write_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(path, text):
            if "second" in text:
                raise OSError("disk full")
            path.write_text(text)

        monkeypatch.setattr(files, "_write", fail)
        with pytest.raises(OSError, match="disk full"):
            write_together(tmp_path, {"a": "first", "b": "second"})
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="nothing can be written to"):
            make_folder(tmp_path / "file" / "folder")

    def test_appended_lines(self, tmp_path):
        for line in ("one", "zwö"):
            append_line(tmp_path / "rows", line)
        assert (tmp_path / "rows").read_text(encoding="utf-8") == "one\nzwö\n"


class TestEnvironment:
    def test_what_is_told(self):
        told = environment("cpu", threads=3)
        assert told["threads"] == "3"
        assert {"python", "torch", "platform", "device", "engine", "numpy"} <= set(told)
        assert all(isinstance(value, str) and value for value in told.values())

    def test_versions(self):
        assert tool_version() == installed("pruning-conformance")
        assert installed("no-package-of-this-name") == ""
        assert re.fullmatch(r"[0-9a-f]{12}", engine_digest())

    def test_exit_codes(self):
        assert report_of(model_report()).exit_code == 0
        assert report_of(FAILING, model_report()).exit_code == 1
        assert report_of(FAILING, model_report(outcome=Outcome.ERROR)).exit_code == 3
