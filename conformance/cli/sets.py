"""The sets a sweep walks through: functions that return SPECs, found by entry point."""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from conformance.errors import UsageError

ENTRY_POINT_GROUP = "pruning_conformance.sets"


def sets(names: Sequence[str], pattern: str | None = None, whole: Sequence[str] = ()) -> dict[str, list[str]]:
    """Set name -> its SPECs that match the glob, for the named sets or, when nothing is named, for all.

    `whole` names collections all of whose models are wanted, as a set `all of PREFIX`. When nothing is named, a
    set whose library is not installed is left out, and stderr says so. Raises UsageError for an unknown set
    or collection, one that cannot be loaded, and when no SPEC is left.
    """
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"there is no set {name!r} (known: {', '.join(sorted(known)) or 'none'}){hint}")
    chosen = {}
    for name in dict.fromkeys(names or ([] if whole else sorted(known))):
        try:
            chosen[name] = _specs(known[name])
        except UsageError as error:
            if names or not isinstance(error.__cause__, ImportError):
                raise
            print(f"left out: {error}", file=sys.stderr)
    chosen |= {f"all of {prefix}": _all_of(prefix) for prefix in whole}
    if pattern is not None:
        chosen = {name: fnmatch.filter(specs, pattern) for name, specs in chosen.items()}
    if not any(chosen.values()):
        raise UsageError("no model is left to check: no set has a SPEC that matches")
    return chosen


def _all_of(prefix: str) -> list[str]:
    from conformance.spec_loader import collection

    known = collection(prefix)
    names = known.names()
    if not names:
        known.get("")  # a collection that cannot be imported says why
    return [f"{prefix}:{name}" for name in names]


def _specs(entry: EntryPoint) -> list[str]:
    from conformance.spec_loader import refuse_shadowed

    refuse_shadowed(entry.value)
    try:
        found = entry.load()()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"the set {entry.name!r} cannot be loaded: {type(error).__name__}: {first}") from error
    if not isinstance(found, list | tuple) or not all(isinstance(spec, str) for spec in found):
        raise UsageError(f"the set {entry.name!r} ({entry.value}) did not return a list of SPECs")
    return list(dict.fromkeys(found))
