"""The documents are true: links lead somewhere, blocks run, commands exist, what is pasted is what is printed.

How a document is read:
    ```python      runs, after the document's earlier ones, unless its first line is `# Not run here: WHY`;
                   a ```text block right after it holds lines that it prints
    $ conformance  in any block is a command; the lines up to the next `$` are what it prints. Is its SPEC
                   a file (`red.py:good`), that file is all Python blocks above, and the command is run:
                   the lines must be among what it prints, in this order. `...` stands for anything.
                   Numbers of seconds, line numbers and spaces may differ.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from conformance.checks.registry import checks
from conformance.cli.app import app
from conformance.method.contract.registry import checks as method_checks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "# Not run here: "
COMMAND = typer.main.get_command(app)
WrongUsage = typer.BadParameter.__bases__[0]  # click's, or that of the click inside typer

pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the line it begins at."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Shown:
    """A command as a document shows it, what it prints there, and the Python blocks above it."""

    line: int
    words: tuple[str, ...]
    printed: tuple[str, ...] = ()
    python: str = ""

    @property
    def file(self) -> str:
        """The file among the command's SPECs, or an empty string."""
        return next((word.partition(":")[0] for word in self.words if re.fullmatch(r"\w+\.py:\w+", word)), "")


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a page."""
    fence, language, begin, held = "", "", 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if not fence and (found := re.match(r"(`{3,})\s*(\w*)", line)):
            fence, language, begin, held = found[1], found[2], number + 1, []
        elif fence and line.strip() == fence:
            yield Block(language, "\n".join(held) + "\n", begin)
            fence = ""
        elif fence:
            held.append(line)
    assert not fence, f"the block at line {begin} has no end"


def runs(block: Block) -> bool:
    return block.language == "python" and not block.text.startswith(NOT_RUN)


def commands(text: str) -> Iterator[Shown]:
    """Every command shown in a block that is not Python; `A && B` and `python -m nox` are commands too."""
    python = ""
    for block in blocks(text):
        if runs(block):
            python += block.text
        if block.language in ("python", "toml"):
            continue
        lines = block.text.splitlines()
        starts = [n for n, line in enumerate(lines) if re.match(r"(\$ )?(python -m )?(conformance|nox|pip) ", line)]
        for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
            printed = lines[start + 1 : end] if lines[start].startswith("$ ") else []
            for part in lines[start].removeprefix("$ ").split(" && "):
                words = shlex.split(part.removeprefix("python -m "), comments=True)
                yield Shown(block.line + start, tuple(words), tuple(printed), python)


def prose(text: str) -> str:
    """The text without its blocks and inline code."""
    for block in blocks(text):
        text = text.replace(block.text, "", 1)
    return re.sub(r"`[^`\n]+`", "", text)


# -- links ----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a link to this page can end in: explicit ids and the headings as GitHub writes them."""
    outside = text
    for block in blocks(text):
        outside = outside.replace(block.text, "", 1)
    found = re.findall(r'<a id="([^"]+)">', outside)
    for heading in re.findall(r"^#+ (.+)$", outside, re.MULTILINE):
        words = re.sub(r"<[^>]+>|[`*]", "", heading).strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return set(found)


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pages
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_seen(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text('# A `b`: "c"\n```text\n# no heading\n```\n### <a id="x"></a>X.y (MUST)\n')
    page.write_text("[1](other.md) [2](other.md#a-b-c) [3](other.md#x) [4](other.md#xy-must) [5](https://elsewhere)\n")
    assert broken_links(page) == []
    page.write_text(
        "[1](others.md) [2](other.md#no-heading) [3](other.md#y) `[4](none)`\n```\n[5](none)\n```\n[6](#up)\n"
    )
    assert broken_links(page) == ["others.md", "other.md#no-heading", "other.md#y", "#up"]


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [page.name for page in PAGES if page.parent.name == "docs" and page.name != "README.md"]
    assert [name for name in names if f"]({name})" not in index] == []
    assert [name for name in names if f"](docs/{name})" not in front] == []


# -- Python blocks --------------------------------------------------------------------------------


def script(page: Path) -> str:
    """The blocks of a page that run, at the lines they have there, so that a traceback tells the place."""
    text = ""
    for block in blocks(page.read_text(encoding="utf-8")):
        if runs(block):
            text += "\n" * (block.line - 1 - text.count("\n")) + block.text
    return text


def outputs(text: str) -> list[str]:
    """The lines of blocks that follow a Python block at once and show no command: what it prints."""
    lines: list[str] = []
    before = None
    for block in blocks(text):
        follows = before is not None and runs(before) and block.line - before.line - before.text.count("\n") <= 3
        if follows and block.language == "text" and not block.text.startswith("$ "):
            lines += block.text.splitlines()
        before = block
    return lines


@pytest.mark.parametrize("page", [page for page in PAGES if script(page)], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path):
    file = tmp_path / f"{page.stem}.py"  # custom operations look for the file of their function
    file.write_text(script(page), encoding="utf-8")
    ended = subprocess.run([sys.executable, str(file)], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert missing_line(outputs(page.read_text(encoding="utf-8")), ended.stdout.splitlines()) == ""


def test_the_reader_of_outputs_takes_what_follows_python():
    block = "```{}\n{}\n```\n"
    python, text = block.format("python", "print(1)"), block.format("text", "1")
    assert outputs(python + "\n" + text) == ["1"]
    assert outputs(python + "\nwords\n\n" + text) == []
    assert outputs(python + "\n" + block.format("text", "$ conformance list")) == []


@pages
def test_a_block_that_does_not_run_says_why(page):
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python" and not runs(block):
            assert len(block.text.splitlines()[0]) > len(NOT_RUN) + 10


# -- commands -------------------------------------------------------------------------------------


def parse(words: tuple[str, ...]) -> None:
    """Read a `conformance` command as the command itself does, and run nothing; raises WrongUsage."""
    if words[1] in {option for parameter in COMMAND.params for option in parameter.opts}:
        return
    if words[1] not in COMMAND.commands:
        raise WrongUsage(f"there is no command {words[1]!r}")
    COMMAND.commands[words[1]].make_context(words[1], list(words[2:]))


def sessions() -> set[str]:
    source = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    return set(re.findall(r"^@nox\.session.*\ndef (\w+)\(", source, re.MULTILINE))


@pages
def test_commands_exist(page):
    for shown in commands(page.read_text(encoding="utf-8")):
        try:
            if shown.words[0] == "conformance":
                parse(shown.words)
            elif shown.words[:2] == ("nox", "-s"):
                assert shown.words[2] in sessions(), f"line {shown.line}"
                if shown.words[2:4] == ("compliance", "--"):
                    parse(("conformance", "check", *shown.words[4:]))
        except WrongUsage as error:
            pytest.fail(f"line {shown.line}: {shlex.join(shown.words)}: {error.format_message()}")


@pages
def test_commands_named_in_the_text_exist(page):
    known = set(COMMAND.commands)
    named = re.findall(r"`conformance ([a-z-]+)[^`.(]*`", page.read_text(encoding="utf-8"))
    assert set(named) <= known


@pytest.mark.parametrize(
    "line",
    [
        "conformance chek handmade:mlp",
        "conformance check",
        "conformance check handmade:mlp --levels 2",
        "conformance check handmade:mlp --level 4",
        "conformance explain handmade:mlp",
        "conformance method-check l2",
        "conformance list timm torchvision",
    ],
)
def test_a_wrong_command_is_seen(line):
    with pytest.raises(WrongUsage):
        parse(tuple(line.split()))


def test_the_reader_of_commands_sees_all_forms():
    text = "```\npip install x && python -m nox -s zoo\nconformance list  # all\n```\n"
    text += "```python\na = 1\n```\n```text\n$ conformance check m.py:f --only 'a b'\none\n$ conformance list\n```\n"
    found = [(shown.line, shown.words, shown.printed, shown.file) for shown in commands(text)]
    assert found == [
        (2, ("pip", "install", "x"), (), ""),
        (2, ("nox", "-s", "zoo"), (), ""),
        (3, ("conformance", "list"), (), ""),
        (9, ("conformance", "check", "m.py:f", "--only", "a b"), ("one",), "m.py"),
        (11, ("conformance", "list"), (), ""),
    ]
    assert [shown.python for shown in commands(text)] == ["", "", "", "a = 1\n", "a = 1\n"]


# -- what commands print --------------------------------------------------------------------------

RUNNER = """
import json, sys
from conformance.cli.app import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    sys.stdout.flush()
    print(f"== {code}", flush=True)
"""


def results(shown: list[Shown], folder: Path) -> list[tuple[int, list[str]]]:
    """Exit code and lines of each command, run one after the other in one process."""
    given = []
    for command in shown:
        limited = {"--timeout", "--memory", "--jobs"} & set(command.words)
        here = ["--in-process"] if command.words[1] == "check" and not limited else []
        given.append([*command.words[1:], *here])
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(given)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, check=False,
    )  # fmt: skip
    found: list[tuple[int, list[str]]] = []
    lines: list[str] = []
    for line in ended.stdout.splitlines():
        if line.startswith("== "):
            found.append((int(line.removeprefix("== ")), lines))
            lines = []
        else:
            lines.append(line)
    assert len(found) == len(shown), ended.stdout[-2000:]
    return found


def pattern(line: str) -> re.Pattern[str]:
    """What a line of a document stands for."""
    line = re.sub(r"(\w+\.py):\d+", r"\1:0", line.strip())  # line numbers
    parts = [re.escape(part) for part in line.split("...")]
    text = ".*".join(re.sub(r"(\\ )+", r"\\s+", part) for part in parts)
    text = re.sub(r"(\w+\\\.py):0", r"[\\w./-]*\1:\\d+", text)
    text = re.sub(r"\\s\+\d+\\\.\d\\s\+", r"\\s+\\d+\\.\\d\\s+", text)  # seconds
    return re.compile(rf"\s*{text}\s*")


def missing_line(printed: Iterable[str], lines: list[str]) -> str:
    """The first line of a document that the command does not print, in this order; empty when all are there."""
    rest = iter(lines)
    for line in printed:
        if line.strip() and not any(pattern(line).fullmatch(other) for other in rest):
            return line
    return ""


def pages_with_files() -> list[Path]:
    return [page for page in PAGES if any(shown.file for shown in commands(page.read_text(encoding="utf-8")))]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_files(), ids=lambda page: page.name)
def test_commands_print_what_is_shown(page, tmp_path):
    shown = [command for command in commands(page.read_text(encoding="utf-8")) if command.file and command.printed]
    stages = list(dict.fromkeys((command.python, command.file) for command in shown))
    wrong = []
    for python, name in stages:  # the file as it is at this place of the page
        (tmp_path / name).write_text(python, encoding="utf-8")
        here = [command for command in shown if (command.python, command.file) == (python, name)]
        for command, (code, lines) in zip(here, results(here, tmp_path), strict=True):
            assert code in (0, 1, 2, 3)
            if line := missing_line(command.printed, lines):
                wrong.append(f"line {command.line}: {shlex.join(command.words)} does not print {line!r}")
    assert wrong == [], "\n".join(wrong)


def test_a_line_that_is_not_printed_is_seen():
    lines = [
        "m.py:f conforms (level 2, seed 0, 18 pass, 1.6 s)",
        "  groups: channel 8",
        "",
        "  at (tmp/x/m.py:41)",
        "end",
    ]
    assert missing_line(("m.py:f conforms (level 2, seed 0, 18 pass, 12.0 s)", "groups:  channel 8"), lines) == ""
    assert missing_line(("m.py:f conforms (level 2, ...)", "...", "at (m.py:7)", "end"), lines) == ""
    assert missing_line(("...", "end"), lines) == ""
    for printed in (
        ("m.py:f conforms (level 2, seed 0, 17 pass, 1.6 s)",),
        ("m.py:f fails (level 2, ...)",),
        ("end", "groups: channel 8"),
        ("...", "at (n.py:41)"),
    ):
        assert missing_line(printed, lines) == printed[-1]


# -- the specification ----------------------------------------------------------------------------


def test_the_specification_has_exactly_the_registered_checks():
    text = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    stated = re.findall(r'^### <a id="([^"]+)"></a>(\S+) \((MUST|SHOULD)\)$', text, re.MULTILINE)
    known = (*checks(), *method_checks())
    assert stated == [(item.spec.partition("#")[2], item.id, item.severity) for item in known]


@pages
def test_ids_of_checks_named_in_the_text_exist(page):
    known = {item.id for item in (*checks(), *method_checks())} | {"L2.single"}  # which adding-a-check.md adds
    named = set(re.findall(r"\b(?:L[0-3]|M)\.[a-z][a-z0-9-]*[a-z0-9]\b(?!\*)", page.read_text(encoding="utf-8")))
    assert named - known == set()


# -- the first screen -----------------------------------------------------------------------------


def test_the_first_screen_has_the_two_commands():
    first = next(blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    assert first.line < 20
    assert first.text.splitlines() == [
        "python -m pip install nox && python -m nox -s compliance -- timm:resnet18",
        "python -m nox -s tests",
    ]
