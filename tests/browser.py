"""A real browser for the tests that look at pages: headless Chromium, steered by playwright.

Chromium is looked for under its usual names, or where CHROMIUM says. `needs_browser` skips what wants it where it, or
playwright, is missing; the fixture `browser` (tests/conftest.py) is the running one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
PLAYWRIGHT = importlib.util.find_spec("playwright") is not None

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not PLAYWRIGHT,
    reason="no Chromium is installed (CHROMIUM may name one)"
    if PLAYWRIGHT
    else "playwright is not installed (extra `bench`)",
)


@contextlib.contextmanager
def chromium():
    """Chromium, until the end of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers without user namespaces have no sandbox; the pages are our own.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
