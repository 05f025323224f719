"""The line of a model's code that raised an exception."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from conformance.graph.tape import Source

_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).resolve().parent.parent))


def raised_at(error: BaseException) -> str:
    """FILE:LINE of the innermost frame that is neither torch's nor ours; '' without one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_NOT_THE_MODEL, "<")) and frame.lineno is not None:
            return str(Source(frame.filename, frame.lineno))
    return ""
