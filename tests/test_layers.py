"""The arrows of the house: a module imports only from layers below its own.

Imports are read from the source, not executed, so that one inside a function counts as well.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.programs import run_python

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wsss_kit"

LAYERS = (
    (("checks", "files", "processes"), ("classes",), ("views", "checkpoints"), ("engine",)),
    (("prompts", "cam"), ("data",), ("clip", "backbones")),
    (("affinity", "crf", "masks"),),
    (("methods",), ("affinity_net", "segmentation"), ("pipeline",), ("paperworld",)),
    (("recipes", "evaluation"), ("notebook_data", "prompts.found"), ("prompts.search",)),
    (("plot",), ("widgets",), ("commands",), ("__main__",)),
)
"""Layers from below to above; within a layer, steps that may import from the steps before."""
LAYER_OF = {
    unit: (level, step)
    for level, steps in enumerate(LAYERS)
    for step, units in enumerate(steps)
    for unit in units
}
MOST_IN_THE_ROOT = 16
"""Modules beside the folders: the root of the package shows the line and nothing else."""

LATE = (
    *("matplotlib", "ipywidgets", "anywidget", "traitlets", "IPython"),
    *("open_clip", "sklearn", "scipy", "pandas", "seaborn", "accelerate"),
)
"""Imported inside functions, so that ``import wsss_kit`` stays light."""
MAY_LOAD_EARLY = ("plot", "widgets")
PICKLES = ("pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")
VAGUE = ("utils", "util", "misc", "helpers", "helper", "common", "tools", "lib")

DISTRIBUTIONS = {"IPython": "ipython", "PIL": "pillow", "sklearn": "scikit-learn"}
DISTRIBUTIONS |= {"open_clip": "open_clip_torch"}
FOR_THE_READER = (
    *("torch", "torchvision", "open_clip_torch", "matplotlib", "ipywidgets", "jupyterlab"),
    *("scikit-learn", "seaborn"),
)
"""What a reader's own cells may count on, whether or not the package imports it yet."""


def imported(nodes: Iterable[ast.AST], module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import; ``from a import b`` gives ``a.b``."""
    home = module.split(".") if is_package else module.split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: no bodies of functions, no TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from run_at_import(child)


def unit_of(module: str) -> str | None:
    """What of ``LAYERS`` a dotted name belongs to."""
    parts = module.split(".")[1:]
    inner = ".".join(parts[:2])  # a module of a unit may stand above the unit
    return inner if inner in LAYER_OF else parts[0] if parts else None


def arrow_broken(module: str, target: str) -> str | None:
    """Why ``module`` may not import ``target`` (both dotted), or None when it may."""
    unit, to = unit_of(module), unit_of(target)
    if to == unit:
        mine, theirs = (name.split(".")[2:3] for name in (module, target))
        right = unit != "methods" or not mine or {*theirs} <= {"base", "trained", "cam", *mine}
        return None if right else "a method imports methods.base, trained and cam, never another"
    if to not in LAYER_OF:
        if LAYER_OF[unit][0] == len(LAYERS) - 1:
            return None
        return "import from the module that defines the name, not from the package's root"
    if LAYER_OF[to] < LAYER_OF[unit]:
        return None
    return f"{unit} is at {LAYER_OF[unit]} and {to} at {LAYER_OF[to]}: (layer, step) of LAYERS"


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module does against the house, one line each.

    Args:
        module: dotted name, beginning with ``wsss_kit``.
        source: its text.
        is_package: whether the text is an ``__init__.py``.
    """
    unit = unit_of(module) or ""
    result = [f"{name}: name it after what it holds" for name in module.split(".") if name in VAGUE]
    if unit and unit not in LAYER_OF:
        return [
            *result,
            f"{unit} is in no layer: add it to LAYERS in tests/test_layers.py, above all that it "
            "imports; split it if no layer fits",
        ]
    tree = ast.parse(source)
    for line, name in imported(ast.walk(tree), module, is_package):
        if name.split(".")[0] in PICKLES:
            result.append(f"line {line}: {name}: weights are safetensors, never pickle")
        if unit and name.split(".")[0] == "wsss_kit":
            reason = arrow_broken(module, name)
            result += [f"line {line}: {name}: {reason}"] if reason else []
    for line, name in imported(run_at_import(tree), module, is_package):
        if name.split(".")[0] in LATE and unit not in MAY_LOAD_EARLY:
            result.append(f"line {line}: {name}: import it inside the function that needs it")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            called = ast.unparse(node.func)
            if called == "torch.load" and options.get("weights_only") != "True":
                result.append(f"line {node.lineno}: torch.load without weights_only=True")
            if called in ("np.load", "numpy.load") and options.get("allow_pickle") == "True":
                result.append(f"line {node.lineno}: {called} with allow_pickle=True")
    return result


def modules() -> dict[str, Path]:
    """Dotted name to file, for every module of the package."""
    result = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


@pytest.mark.parametrize("module", modules())
def test_a_module_keeps_to_the_house(module):
    path = modules()[module]
    result = violations(module, path.read_text("utf-8"), is_package=path.name == "__init__.py")
    assert not result, f"{path.relative_to(ROOT)}\n" + "\n".join(result)


SOURCES = [
    ("masks", "def f():\n    import wsss_kit.plot", "line 2: wsss_kit.plot: masks is at (2, 0)"),
    ("affinity", "from wsss_kit import masks", "affinity is at (2, 0) and masks at (2, 0)"),
    ("cam", "from wsss_kit import CAM", "not from the package's root"),
    ("cam", "from . import recipes", "recipes at (4, 0)"),
    ("methods.sc_cam", "from .clims.losses import area_loss", "never another"),
    ("novelty", "import torch", "novelty is in no layer: add it to LAYERS"),
    ("data.utils", "", "utils: name it after what it holds"),
    ("masks", "try:\n    import scipy\nexcept ImportError: pass", "line 2: scipy"),
    ("engine", "import pickle", "never pickle"),
    ("engine", "torch.load(path, weights_only=False)", "torch.load without"),
    ("data.voc", "np.load(path, allow_pickle=True)", "np.load with allow_pickle=True"),
    ("paperworld", "from wsss_kit.clip import texts\ndef f():\n    import open_clip", None),
    ("methods.sc_cam", "from .base import CAMMethod\nfrom wsss_kit.methods.cam import f", None),
    ("masks", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scipy", None),
    ("plot", "import matplotlib.pyplot as plt\nfrom wsss_kit import recipes", None),
    ("engine", "torch.load(path, weights_only=True)", None),
]


@pytest.mark.parametrize(("module", "source", "reason"), SOURCES)
def test_the_checker_sees_what_is_wrong_and_allows_what_is_right(module, source, reason):
    result = violations(f"wsss_kit.{module}", source)
    assert len(result) == (reason is not None)
    assert reason is None or reason in result[0]


def test_the_root_shows_the_line_and_nothing_else():
    beside_the_folders = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(beside_the_folders) <= MOST_IN_THE_ROOT, beside_the_folders


def imports_of_modules() -> dict[str, set[str]]:
    """Module -> dotted names that it imports, wherever in the module the import stands."""
    result = {}
    for module, path in modules().items():
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        result[module] = {n for _, n in imported(nodes, module, path.name == "__init__.py")}
    return result


def test_no_circle_of_imports_between_the_modules():
    """Wherever an import stands: for annotations and inside functions too."""
    files, graph = modules(), {}
    for module, names in imports_of_modules().items():
        if files[module].name != "__init__.py":  # it imports what it hands on
            names = names | {name.rpartition(".")[0] for name in names}
            graph[module] = names & files.keys() - {module}
    assert "wsss_kit.checks" in graph["wsss_kit.masks"]  # the walk sees the arrows
    assert list(TopologicalSorter(graph).static_order())


def test_importing_the_kit_is_light():
    # Time on the processor, beside torch's own: slow machines have slow imports of both. Noise only
    # ever adds: the best of up to ten counts.
    code = (
        "import sys, time; start = time.process_time(); import torch; half = time.process_time()\n"
        "import wsss_kit; share = (time.process_time() - half) / (half - start)\n"
        "import wsss_kit.plot, wsss_kit.data.fetch\n"
        "print(share, *sys.modules)"
    )
    shares = []
    while len(shares) < 10 and min(shares, default=1) > 0.2:
        first, *loaded = run_python("-c", code, cwd=ROOT).split()
        shares.append(float(first))
        heavy = sorted({*LATE, "pooch", "jinja2", "cyclopts"}.intersection(loaded))
        assert not heavy, f"import wsss_kit loads {heavy}; import them inside functions"
    assert min(shares) <= 0.2, (
        f"import wsss_kit takes {min(shares):.0%} of torch's time, expected at most 20 %; "
        "python -X importtime -c 'import torch, wsss_kit' shows where"
    )


def test_requirements_name_what_the_package_imports():
    listed = re.findall(r"^[A-Za-z0-9_.-]+", (ROOT / "requirements.txt").read_text(), re.M)
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    used = set()
    for names in imports_of_modules().values():
        for top in {name.split(".")[0] for name in names}:
            if top not in sys.stdlib_module_names and top != "wsss_kit":
                used.add(DISTRIBUTIONS.get(top, top))
    assert used <= set(listed), f"requirements.txt lacks {sorted(used - set(listed))}"
    assert set(listed) <= set(pinned), f"constraints.txt lacks {sorted(set(listed) - set(pinned))}"
    idle = set(listed) - used - set(FOR_THE_READER)
    assert not idle, f"nothing imports {sorted(idle)}; take it out of requirements.txt"
