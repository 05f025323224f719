"""A report as Markdown. Everything that comes from a model, a file or a user is escaped."""

from __future__ import annotations

import re
import shlex

from conformance.report.build import (
    Table,
    check_table,
    detail_lines,
    facts,
    group_table,
    headline,
    held_back_table,
    summary_table,
    unhappy,
)
from conformance.report.schema import ModelReport, Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]#+|~$<>&@])")  # brackets escaped, parentheses make no link
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def escape(text: str) -> str:
    """Text that shows as itself inside a paragraph or a table cell, on one line."""
    flat = _LINE_BREAKS.sub(" ", text)
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[1], "\\" + found[1]), flat)


def code(text: str) -> str:
    """Text as inline code on one line, fenced by more backticks than it holds. Not for table cells."""
    flat = _LINE_BREAKS.sub(" ", text)
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") or not flat.strip() else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def table(content: Table) -> str:
    """A Markdown table, ending with a line break."""
    marks = ["---:" if column in content.right else "---" for column in range(len(content.headers))]
    lines = ["| " + " | ".join(cells) + " |" for cells in _escaped(content)]
    lines.insert(1, "| " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def _escaped(content: Table) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in (content.headers, *content.rows)]


def fenced(text: str) -> str:
    """A block of code, fenced by more backticks than the text holds."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}\n"


def report_markdown(report: Report) -> str:
    """The whole report: summary, one section a model, how to repeat it, environment."""
    parts = ["# Pruning conformance report\n"]
    parts.append(table(summary_table(report.models)))
    parts += [_model(model) for model in report.models]
    parts.append("## How this was made\n")
    parts.append(fenced(shlex.join(report.command)))
    parts.append(f"{escape(report.tool)} {escape(report.tool_version)}, {escape(report.created)}\n")
    parts.append(table(Table(("environment", ""), tuple(report.environment.items()))))
    return "\n".join(parts)


def _model(model: ModelReport) -> str:
    parts = [f"## {escape(model.title)}\n", f"{escape(headline(model))}\n"]
    parts += [f"- {name}: {escape(value)}" for name, value in facts(model)]
    if facts(model):
        parts.append("")
    for check in unhappy(model):
        parts.append(f"### {escape(check.id)}: {check.outcome.value}\n")
        parts.append(f"{escape(check.message or check.title)}\n")
        parts += [f"- {escape(name)}: {code(value)}" for name, value in detail_lines(check)]
        parts.append("")
    if model.checks:
        parts.append(table(check_table(model)))
    if model.unverified:
        names = ", ".join(code(name) for name in model.unverified)
        parts.append(f"Never active in any input tried, so not verified: {names}\n")
    if model.held_back:
        parts.append(table(held_back_table(model)))
    if model.groups:
        parts.append("<details><summary>All groups</summary>\n")
        parts.append(table(group_table(model)))
        parts.append("</details>\n")
    return "\n".join(parts)
