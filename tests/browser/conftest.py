"""One chromium for all, one server for each front end. Screenshots are kept to be looked at."""

import os
import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.browser.jupyter import CHROMIUM, ROOT, Notebook, serving


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        message = "there is no chromium; install the system's (Debian: apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=list(CHROMIUM))
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Function that returns a running ``"lab"`` or ``"notebook"`` with copies of the notebooks.

    Images of the screen go to build/screenshots, which is not committed.
    """
    screenshots = Path(os.environ.get("WSSS_KIT_SCREENSHOTS", ROOT / "build" / "screenshots"))
    with ExitStack() as stack:

        def start(application):
            place = tmp_path_factory.mktemp(application)
            return stack.enter_context(serving(place, screenshots, application))

        yield cache(start)


@pytest.fixture
def opened(browser):
    """Function that opens a notebook of a server; they are closed after the test."""
    with ExitStack() as stack:

        def open_one(served, name):
            page = Notebook(browser, served, name)
            stack.callback(page.close)
            return page

        yield open_one
