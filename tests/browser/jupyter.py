"""A Jupyter server of one's own, a page of it in chromium, and a line to the kernel behind it."""

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
FOLDERS = {
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
}


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)


def keep_until(path: Path, shown: str) -> None:
    """Shorten a notebook to the cell that ends with a name; notebooks/build.py runs all of it."""
    notebook = nbformat.read(path, 4)
    ends = [cell.source.rsplit("\n", 1)[-1] for cell in notebook.cells]
    notebook.cells = notebook.cells[: ends.index(shown) + 1]
    nbformat.write(notebook, path)


class Served(NamedTuple):
    """A running server: the address of its notebooks, and their folder; its own files, screens."""

    address: str
    folder: Path
    place: Path
    screenshots: Path

    def kernels(self) -> set[Path]:
        return set((self.place / "runtime").glob("kernel-*.json"))


@contextlib.contextmanager
def serving(place: Path, screenshots: Path, application: str) -> Iterator[Served]:
    """Run JupyterLab (``"lab"``) or Notebook (``"notebook"``) over copies of the notebooks."""
    folder = place / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".*", "src", "*.py"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in FOLDERS.values():
        (place / name).mkdir()
    quiet = place / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    mine = {variable: str(place / name) for variable, name in FOLDERS.items()}
    command = [sys.executable, "-m", "jupyter", application, "--no-browser", "--allow-root"]
    command += [f"--port={address.rpartition(':')[2]}", "--ip=127.0.0.1", "--ServerApp.password="]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--LabApp.news_url="]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    environment = {**os.environ, **mine, "PYTHONPATH": str(ROOT)}
    with (place / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def answers() -> bool:
        assert server.poll() is None, (place / "server.log").read_text()
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{address}/api", timeout=5)
            return True
        return False

    try:
        wait_for(answers)
        tree = "lab/tree" if application == "lab" else "notebooks"
        yield Served(f"{address}/{tree}", folder, place, screenshots)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()


class Notebook:
    """A notebook on a page: what the console said, what the kernel knows, how it looks."""

    def __init__(self, browser: Any, served: Served, name: str) -> None:
        self.page = browser.new_page(viewport=SCREEN)
        self.page.set_default_timeout(STEP)
        self.console: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.console.append(f"page: {error}"))
        self._served, self._name, kernels = served, name, served.kernels()
        address = f"{served.address}/{name}?reset"  # without the tabs of other tests
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=2 * STEP)
        is_whole = lambda file: file.read_text().rstrip().endswith("}")  # noqa: E731
        file = wait_for(lambda: next(filter(is_whole, served.kernels() - kernels), None))
        self._kernel = BlockingKernelClient(connection_file=str(file))
        self._kernel.load_connection_file()
        self._kernel.hb_channel.time_to_dead = 10.0  # a kernel that starts under load misses beats
        self._kernel.start_channels()
        self._kernel.wait_for_ready(timeout=60)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and "ms to activate" not in message.text:
            self.console.append(f"{message.type}: {message.text}")

    def value(self, expression: str, timeout: float = 120) -> Any:
        """What an expression is now; plain values only. Waits for the cell that is running."""
        given = {"value": f"repr({expression})"}
        options = {"silent": True, "user_expressions": given, "reply": True, "timeout": timeout}
        reply = self._kernel.execute("pass", **options)["content"]["user_expressions"]["value"]
        assert reply["status"] == "ok", reply
        return ast.literal_eval(ast.literal_eval(reply["data"]["text/plain"]))

    def run_all(self, seconds: float = 600) -> None:
        """Run all cells by the menu, and wait for the last."""
        cells = nbformat.read(self._served.folder / self._name, 4).cells
        n_cells = sum(cell.cell_type == "code" for cell in cells)
        for name in ("Run", "Run All Cells"):
            self.page.get_by_role("menuitem", name=name, exact=True).click()
        count = "get_ipython().execution_count"
        wait_for(lambda: self.value(count, seconds) > n_cells, seconds, 0.5)

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
        self._kernel.stop_channels()
        self.page.close()


def wait_for(found: Callable[[], Any], seconds: float = 60, pause: float = 0.1) -> Any:
    """What a function finds, once it finds something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"nothing came in {seconds} s"
        time.sleep(pause)
    return value
