"""The wheel: what is in it, and that it works in an empty folder, away from the checkout."""

import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

import wsss_kit
from tests.programs import run_python

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = (".py", ".json", ".safetensors", ".js", ".css", ".jinja", ".typed")


def run(*arguments, folder, installed=None):
    """Python in a folder, with the installed wheel before everything else."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    environment.pop("PYTHONPATH", None)
    if installed is not None:
        environment["PYTHONPATH"] = str(installed)
    return run_python(*arguments, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, as it would be published."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "wsss_kit", copy / "wsss_kit", ignore=ignored)
    out = tmp_path_factory.mktemp("dist")  # the wheel is built from the sdist, as for a release
    run("-m", "build", "--outdir", out, ".", folder=copy)
    (built,) = out.glob("*.whl")
    assert len([*out.glob("*.tar.gz")]) == 1
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Where it is installed, without what it needs: that is here already."""
    target = tmp_path_factory.mktemp("installed")
    install = ["-m", "pip", "install", "--no-deps", "--quiet", "--target", target, wheel]
    run(*install, folder=target)
    return target


def test_all_of_the_package_is_in_it_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "wsss_kit").rglob("*")
        if path.is_file() and path.suffix in ENDINGS
    }
    assert names == there
    assert wheel.stat().st_size < 40e6


def test_it_says_its_version_and_what_it_needs(wheel):
    assert f"-{wsss_kit.__version__}-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    needed = re.findall(r"^[\w.-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert needed and all(f"Requires-Dist: {package}" in metadata for package in needed)


def test_one_version_everywhere():
    version = re.escape(wsss_kit.__version__)
    for name, line in (
        ("pyproject.toml", rf'^version = "{version}"$'),
        ("CITATION.cff", rf"^version: {version}$"),
        ("CHANGELOG.md", rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$"),
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert len(re.findall(line, text, re.MULTILINE)) == 1, name


def test_import_and_demo_in_an_empty_folder(installed, tmp_path):
    code = "import wsss_kit; print(wsss_kit.__file__)\n"
    code += "from wsss_kit.commands import demo\n"
    code += "demo._figures = lambda *_: {}  # they need nothing of the package's files\n"
    code += "demo.run_demo('out', n_train=8, n_val=2, n_test=2)"
    message = run("-c", code, folder=tmp_path, installed=installed)
    assert Path(message.partition("\n")[0]).is_relative_to(installed)
    assert "CLIP-ES, no CRF" in message
    assert (tmp_path / "out" / "report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_compare_in_an_empty_folder(installed, tmp_path):
    code = "from pathlib import Path\nfrom wsss_kit import PaperWorld\n"
    code += "from wsss_kit.commands.line import main\nfrom wsss_kit.data.images import mask_png\n"
    code += "world = PaperWorld(4, split='val')\n"
    code += "for kind in ('good', 'bad'):\n    Path(kind).mkdir()\n"
    code += "    for name in world.names:\n        mask = world.masks[name] * (kind == 'good')\n"
    code += "        Path(kind, f'{name}.png').write_bytes(mask_png(mask))\n"
    code += "words = '--data paper --split val --limit 4 --out out'.split()\n"
    code += "assert main(['compare', '--masks', 'good=good', 'bad=bad', *words]) == 0\n"
    message = run("-c", code, folder=tmp_path, installed=installed)
    assert re.search(r"\ngood +1 .*\nbad +2 ", message)
    assert "1. good" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_notebook_in_an_empty_folder(installed, tmp_path):
    """Notebook 00 by itself, as a course's page hands it out; its exercises stay undone."""
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", tmp_path)
    execute = ["-m", "jupyter", "nbconvert", "--execute", "--to", "notebook", "--output", "done"]
    run(*execute, "00_start_here.ipynb", folder=tmp_path, installed=installed)
    assert "image/jpeg" in (tmp_path / "done.ipynb").read_text(encoding="utf-8")
