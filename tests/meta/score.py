"""The checker's own score: faults planted in correct subnets, and who finds them.

`nox -s meta` runs all of it; `nox -s meta -- --models handmade:lstm --mutants 100` a part. Every
model's results are one line of JSON in the file of rows, written whole, so that a run that was
stopped goes on where it was. Exit code 1 when a fault survived the gate, when the gate called a clean
pair different, or when a check did not find the fault that is its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from planted import KINDS
from planted.extraction import CHECK_KINDS
from planted.rows import JUDGES, check_rows, clean_rows, mutant_rows
from planted.site import Subject
from planted.zoo import CHECKED, LIBRARIES, models, shape_of

ROWS = Path(".nox") / "checker-score.jsonl"
Row = dict[str, Any]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s meta --", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="SPEC", help="these models only (all: %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=[], metavar="KIND", choices=list(KINDS), help="these kinds only")
    parser.add_argument("--mutants", type=int, default=30, metavar="N", help="mutants a model (%(default)s)")
    parser.add_argument(
        "--clean", type=int, default=6, metavar="N",
        help="selections of a handmade net whose clean pairs are compared, 8 comparisons each (%(default)s);"
        " a sixth of it for models of libraries",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn (%(default)s)")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE", help="where results are kept (%(default)s)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--list", action="store_true", help="list the kinds of fault and end")
    return parser


def main(given: list[str]) -> int:
    options = arguments().parse_args(given)
    if options.list:
        for kind in [*KINDS.values(), *CHECK_KINDS.values()]:
            print(f"{kind.name:20} {kind.fires:14} {kind.what}")
        return 0
    specs = options.models or models()
    rows = list(kept(options.rows))
    found, bad = [], []
    for number, key in enumerate(wanted(specs, options), 1):
        row = next((row for row in rows if row["key"] == key), None)
        if row is None:
            try:
                row = made(key)
            except Exception as error:  # noqa: BLE001 - the others are worked out, and this one again next time
                bad.append(f"{key['model']}: {key['part']} ended in {type(error).__name__}: {error}")
                print(f"{number:4} {key['part']:8} {bad[-1]}", flush=True)
                continue
            keep(row, options.rows)
        found.append(row)
        print(f"{number:4} {key['part']:8} {key['model']:44} {row['seconds']:6.1f} s  {said(row)}", flush=True)
    text = tables(found)
    print(f"\n{text}")
    if options.table:
        options.table.write_text(page(text, len(specs)), encoding="utf-8")
    bad += problems(found)
    print("\n".join(["", *bad]) if bad else "\nno fault survived, no false alarm")
    return 1 if bad else 0


def wanted(specs: Iterable[str], options: argparse.Namespace) -> Iterator[Row]:
    """What is to be worked out, each with all that its result depends on."""
    common = {"seed": options.seed, "versions": versions()}
    for spec in specs:
        kinds = {"kinds": sorted(options.kinds)}
        yield {"part": "mutants", "model": spec, "number": options.mutants, **kinds, **common}
    for spec in specs:
        selections = max(options.clean // 6, 1) if spec in LIBRARIES and options.clean else options.clean
        yield {"part": "clean", "model": spec, "number": selections, **common}
    for spec in specs:
        if spec in CHECKED and not options.kinds:
            yield {"part": "checks", "model": spec, **common}


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "timm", "torchvision", "transformers")}


def made(key: Row) -> Row:
    start = time.perf_counter()
    spec, seed = key["model"], key["seed"]
    results: Row
    if key["part"] == "checks":
        results = {"checks": check_rows(spec, seed)}
    else:
        subject = Subject.of(spec, shape_of(spec))
        if key["part"] == "mutants":
            rows = mutant_rows(subject, key["number"], seed, tuple(key["kinds"]))
            results = {"mutants": [asdict(row) for row in rows]}
        else:
            results = {"clean": asdict(clean_rows(subject, key["number"], seed))}
    return {"key": key, **results, "seconds": round(time.perf_counter() - start, 2)}


def kept(file: Path) -> Iterator[Row]:
    """Results of earlier runs; a last line that was cut off is left out."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            print(f"{file}: a line is cut off and is worked out again", file=sys.stderr)


def keep(row: Row, file: Path) -> None:
    """Add a line, on a line of its own also where the last one was cut off."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8") as opened:
        opened.write(("" if whole else "\n") + json.dumps(row) + "\n")


def said(row: Row) -> str:
    if "mutants" in row:
        faults = [mutant for mutant in row["mutants"] if not mutant["excuse"]]
        return f"{sum(bool(mutant['answer']['gate']) for mutant in faults)} of {len(faults)} faults found"
    if "clean" in row:
        return f"{row['clean']['compared']} pairs, {len(row['clean']['alarms']['gate'])} false alarms"
    placed = [result for result in row["checks"].values() if result["planted"]]
    return f"{sum(result['fired'] for result in placed)} of {len(placed)} faults of the engine found"


# -- tables --------------------------------------------------------------------------------------------


def tables(rows: list[Row]) -> str:
    mutants = [mutant for row in rows for mutant in row.get("mutants", ())]
    parts = [mutant_table(mutants), clean_table(rows), check_table(rows)]
    return "\n\n".join(part for part in parts if part)


def mutant_table(mutants: list[Row]) -> str:
    if not mutants:
        return ""
    columns = ["kind", "what", "faults", *(TITLES[judge] for judge in JUDGES), "same function", "unread"]
    lines = []
    for name in KINDS:
        own = [mutant for mutant in mutants if mutant["kind"] == name]
        lines.append([name, KINDS[name].what, *shares(own)])
    lines.append(["**all**", "", *shares(mutants)])
    same = [bool(mutant["answer"]["gate"]) for mutant in mutants if mutant["excuse"] == "same function"]
    stricter = f"Of the {len(same)} mutants that are the same function the gate calls {sum(same)} different."
    return f"### Faults in subnets\n\n{markdown(columns, lines)}\n\n{stricter}"


TITLES = {"gate": "gate", "float64": "float64", "assert_close": "assert_close", "oto": "OTO-style"}


def shares(mutants: list[Row]) -> list[str]:
    faults = [mutant for mutant in mutants if not mutant["excuse"]]
    found = [sum(bool(mutant["answer"][judge]) for mutant in faults) for judge in JUDGES]
    excuses = [sum(mutant["excuse"] == excuse for mutant in mutants) for excuse in ("same function", "unread")]
    return [str(len(faults)), *(percent(part, len(faults)) for part in found), *map(str, excuses)]


def percent(part: int, whole: int) -> str:
    """Rounded down: 100 means all."""
    return f"{1000 * part // whole / 10:g} %" if whole else "-"


def clean_table(rows: list[Row]) -> str:
    clean = [row["clean"] for row in rows if "clean" in row]
    if not clean:
        return ""
    compared = sum(part["compared"] for part in clean)
    alarms = [str(sum(len(part["alarms"][judge]) for part in clean)) for judge in JUDGES]
    columns = ["clean comparisons", *(f"{TITLES[judge]}: false alarms" for judge in JUDGES)]
    return "### Clean pairs\n\n" + markdown(columns, [[str(compared), *alarms]])


def check_table(rows: list[Row]) -> str:
    checks = [row["checks"] for row in rows if "checks" in row]
    if not checks:
        return ""
    lines = []
    for kind in CHECK_KINDS.values():
        placed = [part[kind.name] for part in checks if part[kind.name]["planted"]]
        lines.append([kind.name, kind.what, kind.fires, str(len(placed)), str(sum(part["fired"] for part in placed))])
    return "### Faults of the engine\n\n" + markdown(["kind", "what", "check", "models", "found"], lines)


def markdown(columns: list[str], lines: list[list[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def problems(rows: list[Row]) -> list[str]:
    """Everything that should not be."""
    return [problem for row in rows for problem in problems_of(row)]


def problems_of(row: Row) -> Iterator[str]:
    model = row["key"]["model"]
    for mutant in row.get("mutants", ()):
        if not mutant["excuse"] and not mutant["answer"]["gate"]:
            yield f"{model}: {mutant['kind']} at {mutant['where']} survived"
    for title in row.get("clean", {"alarms": {"gate": ()}})["alarms"]["gate"]:
        yield f"{model}: a clean pair was called different: {title}"
    for name, result in row.get("checks", {}).items():
        if result["planted"] and not result["fired"]:
            yield f"{model}: {name} did not make {CHECK_KINDS[name].fires} fail"


HEAD = """# The checker's own score

A suite that looks for faults is as good as the faults it finds. Here faults are planted in correct subnets of {models}
models, one at a time, and four judges are asked. Written by

    nox -s meta -- --table docs/checker-score.md

with {versions}.

- **gate**: what L2.random-50 asks for: the field oracle, the float64 oracle, and the field oracle again with
  another prime and input. A fault is found when one of them does not say `equal`.
- **float64**: that oracle alone, with its measured bound.
- **assert_close**: float32 outputs by `torch.testing.assert_close`'s defaults.
- **OTO-style**: the same fault planted in the net as its library initialises it, one random input, float32,
  no output further off than 1e-4.

The columns say what share of the faults a judge finds, rounded down. Mutants that are no faults are counted apart and
are in no share. *Same function*: the same mistake in redrawn nets (weights of either sign and two sizes, on the
given and on other inputs; small mistakes made large) never moves a float64 result: an exchange of equals, a shift that a
softmax or batch statistics take out. The exact oracle may call these `different`,
[by design](field-oracle.md#nonlinear-functions).
*Unread*: not one output depends on the changed entries for the inputs given (NaN in them reaches none), such as the
row of a word that does not occur.

Clean pairs are correct subnets at several fractions, in two batch sizes and with the samples in another order.
Faults of the engine are in the extraction or the partition: one check is named for each, and must not pass.

"""


def page(text: str, number: int) -> str:
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    return HEAD.format(models=number, versions=named) + text.replace("### ", "## ") + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main(sys.argv[1:]))
