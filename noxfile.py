"""What this project runs: `nox -l` lists it, `nox -s NAME -- ARGUMENTS` runs one part.

torch with its libraries takes gigabytes, so all sessions share one environment, .nox/shared. It is
made on first use and installed anew when the dependencies in pyproject.toml change. To use an
environment of your own that has everything already, set CONFORMANCE_PYTHON to its interpreter.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import filelock  # comes with nox
import nox

nox.needs_version = ">=2025.5"
nox.options.sessions = ["lint", "typing", "tests"]

ROOT = Path(__file__).resolve().parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
GROUPS = ("test", "zoo", "third-party", "minilm", "bench", "deploy", "lint", "typing")


def environment(session: nox.Session) -> Path:
    """The shared environment's interpreter, with the project and every dependency installed."""
    own = os.environ.get("CONFORMANCE_PYTHON")
    return Path(own) if own else installed(session, "shared")


def installed(session: nox.Session, name: str, *pins: str) -> Path:
    """The interpreter of .nox/NAME, made on first use and anew when dependencies change. pins narrow them."""
    folder = ROOT / ".nox" / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "installed"
    wanted = _digest(*pins)
    folder.parent.mkdir(exist_ok=True)
    # Held while installing only: a second nox waits for that, then both run their sessions.
    with filelock.FileLock(folder.parent / f"{name}.lock"):
        if stamp.is_file() and stamp.read_text() == wanted and python.is_file():
            session.debug(f"Using {folder.relative_to(ROOT)}; the dependencies have not changed.")
            return python
        stamp.unlink(missing_ok=True)
        if not python.is_file():
            session.run(sys.executable, "-m", "venv", "--clear", str(folder), external=True)
        requirements = nox.project.dependency_groups(PROJECT, *GROUPS)
        session.run(str(python), "-m", "pip", "install", "-q", "-e", str(ROOT), *requirements, *pins, external=True)
        stamp.write_text(wanted)
    return python


def _digest(*pins: str) -> str:
    """Changes when an environment must be installed anew."""
    project = {name: value for name, value in PROJECT["project"].items() if name != "description"}
    decisive = [project, PROJECT["dependency-groups"], PROJECT["build-system"], sys.version, str(ROOT), pins]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def python(session: nox.Session, *arguments: str) -> None:
    """Run a Python module of the shared environment: `python -m ARGUMENTS`."""
    session.run(str(environment(session)), "-m", *arguments, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style, formatting and the import direction."""
    python(session, "ruff", "check", ".")
    python(session, "ruff", "format", "--check", ".")
    program = environment(session).parent / "lint-imports"
    session.run(str(program), external=True)


@nox.session(venv_backend="none")
def typing(session: nox.Session) -> None:
    """Strict types of all packages."""
    python(session, "mypy", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """All tests but the benchmarks; arguments go to pytest."""
    python(session, "pytest", "-n", "2", "--ignore=tests/benchmarks", *session.posargs)


@nox.session(venv_backend="none")
def nightly(session: nox.Session) -> None:
    """The property tests with many more examples, new ones each time: hours. Arguments go to pytest."""
    session.env["HYPOTHESIS_PROFILE"] = "nightly"
    python(session, "pytest", "-n", "2", "--timeout=0", "tests/properties", *session.posargs)


@nox.session(venv_backend="none")
def lowest(session: nox.Session) -> None:
    """The tests with the oldest torch that is supported, in an environment of its own (.nox/lowest)."""
    python = installed(session, "lowest", f"torch=={lowest_torch()}.*")
    session.run(str(python), "-m", "pytest", "-n", "2", "--ignore=tests/benchmarks", *session.posargs, external=True)


def lowest_torch() -> str:
    """`2.11` of the dependency `torch>=2.11`."""
    (found,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("torch>="))
    return found.removeprefix("torch>=")


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """The tests with line and branch coverage, also written to coverage.xml."""
    report = ("--cov", "--cov-report=term", "--cov-report=xml")
    python(session, "pytest", "-n", "2", "--ignore=tests/benchmarks", *report, *session.posargs)


@nox.session(venv_backend="none")
def compliance(session: nox.Session) -> None:
    """Check models: `-- SPEC... [OPTIONS]` goes to `conformance check`; five small ones without."""
    python(session, "conformance", "check", *(session.posargs or default_models(session)))


def default_models(session: nox.Session, name: str = "DEFAULTS") -> list[str]:
    """The SPECs in backends.sets.NAME."""
    code = f"from backends.sets import {name}; print(*{name}, sep='\\n')"
    found = session.run(str(environment(session)), "-c", code, external=True, silent=True, log=False)
    return str(found).split()


@nox.session(venv_backend="none")
def methods(session: nox.Session) -> None:
    """The contract of every registered method on four small models; arguments go to `conformance method-check`."""
    models = [part for spec in default_models(session, "METHODS") for part in ("--backend", spec)]
    output = ("--output", str(ROOT / ".nox" / "methods"), "--timeout", "900", "-j", "2")
    python(session, "conformance", "method-check", *models, *output, "--allow-unsuited", *session.posargs)


@nox.session(venv_backend="none")
def zoo(session: nox.Session) -> None:
    """Sweep whole sets of models, resumable; arguments go to `conformance zoo`."""
    python(session, "conformance", "zoo", *session.posargs)


@nox.session(venv_backend="none")
def meta(session: nox.Session) -> None:
    """The checker's own score: faults planted in correct subnets; `-- --table docs/checker-score.md` renews it."""
    session.run(str(environment(session)), "tests/meta/score.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def benchmark(session: nox.Session) -> None:
    """How long the engine takes beside others; `-- --table docs/performance.md` renews the figures there."""
    python(session, "pytest", "tests/benchmarks", *session.posargs)


@nox.session(venv_backend="none")
def leaderboard(session: nox.Session) -> None:
    """Run a suite, resumable, and make its leaderboard: `-- cpu` (smoke when none is named); more goes to `bench`."""
    named = session.posargs and not session.posargs[0].startswith("-")
    suite, options = (session.posargs[0], session.posargs[1:]) if named else ("smoke", session.posargs)
    folder = ROOT / "bench" / Path(suite).stem
    try:
        python(session, "conformance", "bench", "--suite", suite, "--output", str(folder), "-j", "2", *options)
    finally:  # failed and unproved rows are shown
        if (folder / "rows.jsonl").exists():
            site = str(folder / "site")
            python(session, "conformance", "leaderboard", str(folder / "rows.jsonl"), "--output", site)
