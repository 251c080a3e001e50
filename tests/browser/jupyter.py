"""A Jupyter server of one's own, a page of it in chromium, and a line to the kernel behind it."""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from jupyter_client import BlockingKernelClient

ROOT = Path(__file__).resolve().parents[2]
SCREEN = {"width": 1366, "height": 768}
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
STEP = 60_000
"""Milliseconds that an answer may take, where no cell has to run first."""


def write_notebook(path: Path, *cells: str) -> Path:
    """A notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, path)
    return path


class Served(NamedTuple):
    """A running server: its address, its folder, where its kernels and screenshots are."""

    address: str
    folder: Path
    runtime: Path
    screenshots: Path
    application: str

    @property
    def tree(self) -> str:
        return "lab/tree" if self.application == "lab" else "notebooks"

    def kernels(self) -> list[Path]:
        return list((self.runtime / "runtime").glob("kernel-*.json"))


@contextlib.contextmanager
def serving(folder: Path, runtime: Path, screenshots: Path, application: str) -> Iterator[Served]:
    """Run JupyterLab (``"lab"``) or Notebook (``"notebook"``) over a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {
        "runtime": "JUPYTER_RUNTIME_DIR",
        "config": "JUPYTER_CONFIG_DIR",
        "settings": "JUPYTERLAB_SETTINGS_DIR",
        "workspaces": "JUPYTERLAB_WORKSPACES_DIR",
    }
    for name in names:
        (runtime / name).mkdir(parents=True, exist_ok=True)
    quiet = runtime / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    mine = {variable: str(runtime / name) for name, variable in names.items()}
    mine |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyter", application, "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.news_url="]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (runtime / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **mine})
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (runtime / "server.log").read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{address}/api", timeout=5)
            return True
        return False

    try:
        wait_for(answers)
        yield Served(address, folder, runtime, screenshots, application)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()


class Kernel:
    """The kernel of the notebook that is open, asked from outside."""

    def __init__(self, file: Path) -> None:
        self._client = BlockingKernelClient(connection_file=str(file))
        self._client.load_connection_file()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def value(self, expression: str, timeout: float = 120) -> Any:
        """What an expression is now; plain values only. Waits for the cell that is running."""
        given = {"value": f"repr({expression})"}
        options = {"silent": True, "user_expressions": given, "reply": True, "timeout": timeout}
        reply = self._client.execute("pass", **options)["content"]["user_expressions"]["value"]
        assert reply["status"] == "ok", reply
        return ast.literal_eval(ast.literal_eval(reply["data"]["text/plain"]))

    def finish(self, n_cells: int, seconds: float) -> None:
        """Wait until so many cells have run."""
        end = time.monotonic() + seconds
        while self.value("get_ipython().execution_count", seconds) <= n_cells:
            assert time.monotonic() < end, f"the notebook runs for more than {seconds} s"
            time.sleep(0.5)

    def close(self) -> None:
        self._client.stop_channels()


class Notebook:
    """A notebook on a page: what the console said, what the kernel knows, how it looks."""

    def __init__(self, browser: Any, served: Served, name: str) -> None:
        self.page = browser.new_page(viewport=SCREEN)
        self.page.set_default_timeout(STEP)
        self.console: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.console.append(f"page: {error}"))
        self._served, self._name = served, name
        kernels = set(served.kernels())
        address = f"{served.address}/{served.tree}/{name}?reset"  # without the tabs of other tests
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=2 * STEP)
        file = wait_for(lambda: next(iter(set(served.kernels()) - kernels), None))
        self.kernel = Kernel(file)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.console.append(f"{message.type}: {message.text}")

    def run_all(self, seconds: float = 600) -> None:
        """Run all cells by the menu, and wait for the last."""
        cells = nbformat.read(self._served.folder / self._name, 4).cells
        n_cells = sum(cell.cell_type == "code" for cell in cells)
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.kernel.finish(n_cells, seconds)

    def panel(self, kind: str) -> Any:
        """The panel of an instrument, scrolled into view."""
        panel = self.page.locator(f".wsss-{kind}").first
        panel.wait_for(state="attached")
        panel.evaluate("element => element.scrollIntoView({block: 'center'})")
        panel.locator("img").first.wait_for()
        return panel

    def photograph(self, panel: Any, name: str) -> bool:
        """Save what the screen shows; whether the whole panel is on it, without scrolling."""
        panel.evaluate("element => element.scrollIntoView({block: 'center'})")
        time.sleep(0.5)
        self._served.screenshots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._served.screenshots / f"{name}.png")
        box = panel.bounding_box()
        page = self.page.locator(".jp-NotebookPanel-notebook:visible").first.bounding_box()
        return all(
            page[edge] <= box[edge] and box[edge] + box[side] <= page[edge] + page[side]
            for edge, side in (("x", "width"), ("y", "height"))
        )

    def close(self) -> None:
        self.kernel.close()
        self.page.close()


def wait_for(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What a function finds, once it finds something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"nothing came in {seconds} s"
        time.sleep(0.1)
    return value


def chromium() -> str | None:
    """Where the system's chromium is."""
    result = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in result if path), None)
