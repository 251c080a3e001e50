"""One chromium for all, one server for each front end. Screenshots are kept to be looked at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.jupyter import CHROMIUM, ROOT, Notebook, Served, chromium, serving


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    path = chromium()
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
def screenshots() -> Path:
    """Where images of the screen go: build/screenshots, which is not committed."""
    return Path(os.environ.get("WSSS_KIT_SCREENSHOTS", ROOT / "build" / "screenshots"))


def served(application: str, place: Path, screenshots: Path) -> Iterator[Served]:
    folder = place / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".*", "src", "*.py"))
    with serving(folder, place, screenshots, application) as running:
        yield running


@pytest.fixture(scope="session")
def lab(tmp_path_factory, screenshots):
    """A running JupyterLab with copies of the notebooks."""
    yield from served("lab", tmp_path_factory.mktemp("lab"), screenshots)


@pytest.fixture(scope="session")
def notebook(tmp_path_factory, screenshots):
    """A running Jupyter Notebook with copies of the notebooks."""
    yield from served("notebook", tmp_path_factory.mktemp("notebook"), screenshots)


@pytest.fixture
def opened(browser):
    """Opens notebooks, and closes them after the test."""
    pages = []

    def open_one(served: Served, name: str) -> Notebook:
        pages.append(Notebook(browser, served, name))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()
