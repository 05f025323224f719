"""Curves of runs: loss, sparsity and accuracy against the step, from history.jsonl to one PNG.

python -m reports.curves RUN... --output curves.png
python -m reports.curves --rows bench/NAME/rows.jsonl --model SPEC --output curves.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from conformance.errors import UsageError
from reports.rows import read_rows

_PANELS = (("loss", "training loss"), ("sparsity", "share of groups at zero"), ("validation", "validation accuracy"))


@dataclass(frozen=True)
class Curve:
    """One run's history: a line of (step, value) for each panel; steps count on through its phases."""

    label: str
    lines: dict[str, list[tuple[int, float]]]
    masked: float | None
    subnet: float | None


def read_curve(folder: Path, label: str = "", metric: str = "accuracy") -> Curve:
    """The curve of a run's folder. Raises UsageError when there is no history."""
    path = folder / "history.jsonl"
    if not path.is_file():
        raise UsageError(f"{folder} has no history.jsonl: it is no folder of `conformance prune`")
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:  # cut off by a kill
            continue
        rows.setdefault((row.get("phase", ""), row["step"]), {}).update(row)
    lines: dict[str, list[tuple[int, float]]] = {name: [] for name, _ in _PANELS}
    lengths: dict[str, int] = {}
    for phase, step in rows:
        lengths[phase] = max(lengths.get(phase, 0), step + 1)
    before: dict[str, int] = {}
    total = 0
    for phase, length in lengths.items():
        before[phase], total = total, total + length
    for (phase, step), row in rows.items():
        at = before[phase] + step
        for name, key in (("loss", "loss"), ("sparsity", "sparsity"), ("validation", f"validation_{metric}")):
            if key in row:
                lines[name].append((at, float(row[key])))
    result = folder / "result.json"
    metrics = json.loads(result.read_text(encoding="utf-8"))["metrics"] if result.is_file() else {}
    masked, subnet = (metrics.get(stage, {}).get(metric) for stage in ("masked", "subnet"))
    return Curve(label or folder.name, {name: sorted(line) for name, line in lines.items()}, masked, subnet)


def draw(curves: Sequence[Curve], path: Path, title: str = "", smooth: int = 20) -> None:
    """One PNG with three panels over a shared step axis.

    Curves of one label, such as the seeds of a run, have one colour. Losses are means of `smooth` steps; a cross is the
    subnet's figure on the test split.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(8, 9), sharex=True, layout="constrained")
    colours: dict[str, str] = {}
    for curve in curves:
        label = "" if curve.label in colours else curve.label  # once in the legend
        colour = colours.setdefault(curve.label, f"C{len(colours) % 10}")
        for axis, (name, _) in zip(axes, _PANELS, strict=True):
            line = curve.lines[name]
            if name == "loss":
                line = _means(line, smooth)
            if line:
                axis.plot(*zip(*line, strict=True), color=colour, label=label, linewidth=1.0)
        if curve.subnet is not None and curve.lines["loss"]:
            axes[2].scatter([curve.lines["loss"][-1][0]], [curve.subnet], marker="x", color=colour, zorder=3)
    for axis, (_, label) in zip(axes, _PANELS, strict=True):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    axes[2].set_xlabel("step (cross: the subnet on the test split)")
    if title:
        figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _means(line: list[tuple[int, float]], width: int) -> list[tuple[int, float]]:
    chunks = [line[start : start + width] for start in range(0, len(line), width)]
    return [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]


def of_suite(rows: Path, model: str, seed: int | None = None) -> list[Curve]:
    """The finished runs of one model of a suite (with one seed), in its order, named by method and budget.

    Their folders are in jobs/ beside the rows. Raises UsageError when there is none.
    """
    found = [row for row in read_rows(rows) if row.model == model and row.status == "OK" and seed in (None, row.seed)]
    if not found:
        with_seed = "" if seed is None else f" with seed {seed}"
        raise UsageError(f"{rows} has no finished run of {model}{with_seed}")
    return [
        read_curve(
            rows.parent / "jobs" / row.key,
            " ".join(filter(None, [row.method, row.budget])),
            row.metric,
        )
        for row in sorted(found, key=lambda row: (row.method != "dense", row.method, row.budget, row.seed))
    ]


def _asked(runs: list[Path], rows: Path | None, model: str, seed: int | None, metric: str) -> list[Curve]:
    if bool(runs) == (rows is not None):
        raise UsageError("give folders of runs, or --rows and --model")
    return of_suite(rows, model, seed) if rows else [read_curve(run, metric=metric) for run in runs]


def main(
    output: Annotated[Path, typer.Option(metavar="FILE", help="The PNG.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of `conformance prune`.")
    ] = None,
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="Runs of a suite instead: its rows.jsonl.")] = None,
    model: Annotated[str, typer.Option(metavar="SPEC", help="With --rows: the model whose runs are drawn.")] = "",
    seed: Annotated[int | None, typer.Option(help="With --rows: only runs with this seed.")] = None,
    title: Annotated[str, typer.Option(help="Above the panels.")] = "",
    metric: Annotated[str, typer.Option(help="Which validation figure (with --rows: the suite's).")] = "accuracy",
) -> None:
    """Draw loss, sparsity and accuracy of runs against the step."""
    try:
        draw(_asked(runs or [], rows, model, seed, metric), output, title)
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
