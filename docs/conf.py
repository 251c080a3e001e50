"""Build the documentation: the executed notebooks, the pages beside them, the API.

``make docs`` copies this folder to ``build/pages`` and runs Sphinx there. Notebooks are shown with
the outputs that they were committed with; nothing is executed.
"""

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

import wsss_kit

HERE = Path(__file__).resolve().parent
MODULES = (
    *("cam", "masks", "affinity", "pipeline", "recipes", "classes", "engine"),
    *("methods.base", "methods.cam", "methods.clims", "methods.clims.losses", "methods.sc_cam"),
    *("methods.sc_cam.clusters", "methods.clip_es", "methods.clip_es.opened"),
    *("affinity_net", "segmentation", "segmentation.networks", "backbones", "clip", "clip.images"),
    *("clip.towers", "crf.dense", "crf.permutohedral", "prompts", "prompts.search"),
    *("data.datasets", "data.benchmarks", "data.folder", "data.images"),
    *("data.exchange", "data.export"),
    *("evaluation", "evaluation.confusion", "evaluation.report", "evaluation.comparison"),
    *("evaluation.agreement", "evaluation.background", "evaluation.error_kinds"),
    *("evaluation.published_numbers", "evaluation.prompt_ranking", "evaluation.word_scores"),
    *("plot.figures", "plot.charts", "plot.reports", "plot.regions"),
    *("widgets.explorer", "widgets.lab", "widgets.atlas", "paperworld", "commands.masks"),
    *("commands.generate", "commands.train_method", "commands.evaluate", "commands.compare"),
)
"""Modules with a page of their own, in the order of the line from images to numbers."""


def _write_sources() -> None:
    """Copy the notebooks beside this file, and write a page for each module."""
    kept = shutil.ignore_patterns(".*", "*.py")
    shutil.copytree(HERE.parents[1] / "notebooks", HERE / "notebooks", ignore=kept)
    (HERE / "api").mkdir()
    for module in MODULES:
        name = f"wsss_kit.{module}"
        lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:"]
        lines += ["   :exclude-members: SHIPPED", ""]
        (HERE / "api" / f"{module}.rst").write_text("\n".join(lines), encoding="utf-8")
    names = "".join(f"{module} <api/{module}>\n" for module in MODULES)
    page = f"# Reference\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}```\n"
    (HERE / "api.md").write_text(page, encoding="utf-8")


_write_sources()

project, author, version = "wsss_kit", "The wsss_kit authors", wsss_kit.__version__
project_copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_math_renderer = "mathml"  # what browsers draw themselves, without a network
default_role = "py:obj"
nb_execution_mode = "off"
nb_output_stderr = "remove"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"
napoleon_numpy_docstring = False
html_theme = "furo"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_title = f"wsss_kit {version}"


def _write_math(writer: object, node: nodes.Element) -> None:
    display = "inline" if isinstance(node, nodes.math) else "block"
    writer.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def _keep_texts_whole(_: Sphinx, what: str, *rest: Any) -> None:
    """Tell napoleon that no colon in a text ends the name of a type."""
    lines: list[str] = rest[-1]
    first = [0] if what in ("attribute", "data", "property") else []
    heads = [n for n, line in enumerate(lines, 1) if line.strip() in ("Returns:", "Yields:")]
    for place in first + heads:
        text = lines[place].lstrip()
        lines[place] = f"{lines[place].removesuffix(text)}: {text}"


def _leave_out_fields(*arguments: Any) -> bool:
    """Leave out the fields of a named tuple, which its arguments describe."""
    member, skip = arguments[3:5]
    return skip or type(member).__name__ == "_tuplegetter"


def _show_arguments(*arguments: Any) -> tuple[str, None] | None:
    """Show the arguments of an instrument, which traitlets hides."""
    what, _, member, _, shown = arguments[1:6]
    if what != "class" or shown != "(*args, **kwargs)":
        return None
    known = signature(member.__init__, bound_method=True)
    return stringify_signature(known, show_annotation=False), None


def setup(app: Sphinx) -> None:
    """Write formulas as MathML and docstrings as they are meant."""
    app.connect("autodoc-process-docstring", _keep_texts_whole, priority=400)
    app.connect("autodoc-process-signature", _show_arguments)
    app.connect("autodoc-skip-member", _leave_out_fields)
    app.add_html_math_renderer("mathml", (_write_math, None), (_write_math, None))
