"""Where data sets lie, and how a published file is fetched: with its checksum, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.errors import UsageError, sentence

VARIABLE = "CONFORMANCE_DATA"
SECONDS = 60
"""How long a download may stand still."""


def places(folder: Path | None, *others: Path) -> list[Path]:
    """Folders to look in, first to last: the one given, that of $CONFORMANCE_DATA, the cache, and `others`.

    Raises UsageError when the folder given does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    named = [folder, os.environ.get(VARIABLE) or None]
    return [*(Path(place) for place in named if place is not None), cache(), *others]


def cache() -> Path:
    """Where downloads go unless a folder is named: `pruning-conformance/data` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pruning-conformance" / "data"


def missing(name: str, what: str, looked: Sequence[Path], ways: Sequence[str]) -> UsageError:
    """The error for data that is nowhere: where it was looked for, and every way to get it."""
    where = ", ".join(str(place) for place in looked)
    numbered = "; ".join(f"({number}) {way}" for number, way in enumerate(ways, 1))
    return UsageError(f"the task {name} needs {what}, which is not in {where}; to get it: {numbered}")


@dataclass(frozen=True)
class Published:
    """A file on the web and the MD5 its publisher gives for it."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def fetch(published: Published, folder: Path) -> Path:
    """Download a file into the folder, which is made; the file is there whole and checked, or not at all.

    Raises UsageError when it cannot be reached or written, or is not the file its publisher describes.
    """
    target = folder / published.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            file = Path(partial) / published.name
            # The address is a constant of the data set's module, never a user's.
            with urllib.request.urlopen(published.url, timeout=SECONDS) as source, file.open("wb") as sink:  # noqa: S310
                shutil.copyfileobj(source, sink)
            found = md5(file)
            if found != published.md5:
                raise UsageError(f"{published.url} has the MD5 {found}, not the published {published.md5}: not kept")
            file.replace(target)
    except OSError as error:
        raise UsageError(f"{published.url} could not be downloaded into {folder}: {sentence(error)}") from error
    return target


def md5(file: Path) -> str:
    """MD5 of a file: what publishers of data sets give."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
