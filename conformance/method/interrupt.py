"""Ctrl-C in a run that keeps its state: it ends between two steps, not in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def held(*, hold: bool) -> Iterator[Callable[[], bool]]:
    """Inside the block a first Ctrl-C only makes the function that is given say True; a second one ends at once.

    The block must look, and raise KeyboardInterrupt where its state is whole. Without `hold`, outside the main thread,
    and where Ctrl-C means nothing or is not Python's to handle, everything stays as it is.
    """
    asked = False
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and callable(before):
            before(number, frame)
        asked = True

    if not hold or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
