"""Retrieval in Python's own documentation: the summary line of a docstring is to find the rest of it.

Sources of the standard library are parsed, not imported, so the task needs no data but a tokenizer.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import itertools
import math
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from backends.common import require
from backends.tasks.retrieval import RetrievalTask, TokenPairs
from conformance.errors import UsageError, sentence
from conformance.method.task import SPLITS, Split, spelled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

require("tokenizers", "zoo")

MODULES = tuple(
    """
    abc argparse ast asyncio base64 bdb bisect bz2 cProfile calendar cmd code codecs codeop collections colorsys
    compileall concurrent configparser contextlib copy copyreg csv ctypes curses dataclasses datetime dbm difflib
    dis doctest email encodings enum filecmp fileinput fnmatch fractions ftplib functools genericpath getopt
    getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib importlib inspect io ipaddress json
    keyword linecache locale logging lzma mailbox mimetypes modulefinder multiprocessing ntpath numbers operator
    optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint profile
    py_compile pyclbr pydoc queue quopri random re rlcompleter runpy sched secrets selectors shelve shutil site
    smtplib socket socketserver sqlite3 ssl statistics string stringprep subprocess symtable sysconfig tabnanny
    tarfile tempfile textwrap threading timeit tokenize tomllib trace traceback tracemalloc types typing unittest
    urllib uuid warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp zipfile zipimport zoneinfo
    """.split()  # noqa: SIM905 - a list of so many literals would be a line each
)
"""Modules and packages whose sources every Python from 3.11 on has on every platform."""

COMPILED: tuple[ModuleType, ...] = (builtins, itertools, math, sys, time)
"""Modules without a source, which every interpreter has loaded or loads without an effect."""

TESTS = frozenset({"test", "tests"})
SUMMARY_WORDS, BODY_WORDS = range(3, 41), 8
LENGTH = 64
CALL = re.compile(r"[\w.]+\(")


@dataclass(frozen=True)
class Pair:
    """name is qualified (`json.decoder.JSONDecoder`), summary and body are text with single spaces."""

    name: str
    summary: str
    body: str


def make(
    folder: Path | None = None,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    length: int = LENGTH,
) -> RetrievalTask:
    """Summaries and bodies of docstrings, as tokens: about 7 in 10 to train on, 1 to validate, 2 to test.

    folder has the `tokenizer.json` of the model (None: that of `minilm:all-minilm-l6-v2`). train, validation
    and test limit the splits, length the tokens of a text. Raises UsageError when there are not so many
    samples, no tokenizer, or this Python came without its sources.
    """
    if length < 4:
        raise UsageError(f"texts of the task docstrings have at least 4 tokens, not {length}")
    tokenizer = load_tokenizer(_tokenizer_folder() if folder is None else folder)
    padding = tokenizer.token_to_id("[PAD]")
    if padding is None:
        raise UsageError("the tokenizer has no token [PAD] to fill batches with")
    tokenizer.enable_truncation(length)
    asked: dict[Split, int | None] = {"train": train, "validation": validation, "test": test}
    found = divided(distinct(corpus()))
    return RetrievalTask(
        name=spelled("docstrings", **asked, length=None if length == LENGTH else length),
        splits={part: _encoded(tokenizer, limited(part, found[part], asked[part])) for part in SPLITS},
        length=length,
        padding=padding,
    )


def _tokenizer_folder() -> Path:
    try:
        from backends.minilm_zoo import model_folder
    except ImportError as error:
        raise UsageError(f"the task docstrings has no tokenizer: {error}; or give a folder that has one") from error
    return model_folder()


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, without padding. Raises UsageError when there is none that can be read."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        found = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises a bare Exception for what is no tokenizer
        raise UsageError(f"{path} is no tokenizer that can be read: {sentence(error)}") from error
    found.no_padding()
    return found


def _encoded(tokenizer: Tokenizer, pairs: list[Pair]) -> TokenPairs:
    queries = tokenizer.encode_batch([pair.summary for pair in pairs])
    bodies = tokenizer.encode_batch([pair.body for pair in pairs])
    return TokenPairs(tuple(tuple(text.ids) for text in queries), tuple(tuple(text.ids) for text in bodies))


# -- the corpus -----------------------------------------------------------------------------------


def corpus(root: Path | None = None, modules: Iterable[str] = MODULES) -> Iterator[Pair]:
    """Every pair that the docstrings of these modules make, and for the interpreter's own library of COMPILED.

    Raises UsageError for a module whose source is not there or cannot be parsed.
    """
    library = Path(sysconfig.get_path("stdlib")) if root is None else root
    for module in modules:
        for file in sources(library, module):
            name = ".".join(file.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
            try:
                tree = ast.parse(file.read_bytes())
            except (OSError, SyntaxError, ValueError) as error:
                raise UsageError(f"{file} cannot be parsed: {sentence(error)}") from error
            yield from _pairs(_written(tree, name))
    if root is None:
        yield from _pairs(itertools.chain.from_iterable(_compiled(module) for module in COMPILED))


def sources(library: Path, module: str) -> list[Path]:
    """The files of a module or package, sorted, its tests left out. Raises UsageError when there are none."""
    single, package = library / f"{module}.py", library / module
    if single.is_file():
        return [single]
    found = [file for file in package.rglob("*.py") if not TESTS & set(file.relative_to(package).parts)]
    if not found:
        raise UsageError(f"{library} has no source of {module}: the task docstrings needs all of the standard library")
    return sorted(found, key=lambda file: file.relative_to(package).parts)


def _written(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Qualified name and docstring of a module, and of every class and function in it, in the source's order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield name, ast.get_docstring(node) or ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _written(child, f"{name}.{child.name}")
        else:
            yield from _written(child, name)


def _compiled(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The same of a compiled module: its functions, its classes, and their own methods."""
    yield module.__name__, inspect.cleandoc(module.__doc__ or "")
    for name, member in _callables(module):
        yield f"{module.__name__}.{name}", inspect.cleandoc(member.__doc__ or "")
        if isinstance(member, type):
            for inner, method in _callables(member):
                yield f"{module.__name__}.{name}.{inner}", inspect.cleandoc(method.__doc__ or "")


def _callables(owner: ModuleType | type) -> Iterator[tuple[str, Callable[..., object]]]:
    for name, member in sorted(vars(owner).items()):
        # Names that another program may have added to this interpreter are of another module.
        home = getattr(member, "__module__", None)
        if callable(member) and not name.startswith("_") and home in (None, getattr(owner, "__name__", "")):
            yield name, member


def _pairs(documented: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    for name, text in documented:
        if (found := pair(name, text)) is not None:
            yield found


def pair(name: str, docstring: str) -> Pair | None:
    """The first paragraph, and the rest without what gives it away: that paragraph again, and the object's own name.

    None where the summary has fewer than 3 words or more than 40 or is a signature, or the body fewer than 8.
    """
    first, _, rest = docstring.partition("\n\n")
    summary = " ".join(first.split())
    body = " ".join(rest.split()).replace(summary, " ")
    own = re.escape(name.rpartition(".")[2])
    body = " ".join(re.sub(rf"(?<!\w){own}(?!\w)", " ", body).split())
    if len(summary.split()) not in SUMMARY_WORDS or CALL.match(summary) or len(body.split()) < BODY_WORDS:
        return None
    return Pair(name, summary, body)


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs whose summary and whose body are nobody else's before them, upper and lower case the same."""
    summaries, bodies, found = set[str](), set[str](), []
    for one in pairs:
        summary, body = one.summary.casefold(), one.body.casefold()
        if summary not in summaries and body not in bodies:
            found.append(one)
        summaries.add(summary)
        bodies.add(body)
    return found


def divided(pairs: Iterable[Pair]) -> dict[Split, list[Pair]]:
    """Of every ten by the hash of the qualified name two to test, one to validate; in the order of the hash.

    So a pair stays in its split whatever other pairs there are.
    """
    keyed = sorted((hashlib.sha256(one.name.encode()).digest(), number, one) for number, one in enumerate(pairs))
    found: dict[Split, list[Pair]] = {part: [] for part in SPLITS}
    for digest, _, one in keyed:
        tenth = int.from_bytes(digest[-8:], "big") % 10
        found["test" if tenth < 2 else "validation" if tenth == 2 else "train"].append(one)
    return found


def limited(part: Split, pairs: list[Pair], count: int | None) -> list[Pair]:
    """The first `count` of a split, all for None. Raises UsageError when there are fewer, or none are left."""
    taken = len(pairs) if count is None else count
    if not 0 <= taken <= len(pairs):
        raise UsageError(f"the task docstrings has {len(pairs)} samples for {part}, {taken} were asked for")
    if not taken and part != "validation":
        raise UsageError(f"the task docstrings would have no samples for {part}")
    return pairs[:taken]
