"""Write what a teacher hands out: ``python notebooks/handout.py [NAME ...]``, or ``make handout``.

``student/`` has the notebooks without solutions and without the teacher's plans; where a
prediction is asked for, the outputs are left out until the next text. ``instructor/`` has them
with solutions, outputs and nbgrader's marks around each solution, the teacher's page, and the
slides of the lecture. A zip of each stands beside it. `python -m wsss_kit grade` takes the
instructor's folder as its key.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from slides import lecture

from build import FOLDER, BuildError, chosen, read_source, student_copy, tags, with_outputs

PLAN = re.compile(r"\n*<details><summary><b>Plan for the teacher[\s\S]*?</details>")
STUDENT = """# The course

Install the package as your teacher says (`pip install wsss_kit`, or `pip install FILE.whl`), start
JupyterLab in this folder and open `00_start_here.ipynb`. A check below an exercise ends in a red
`NotImplementedError` until the exercise is done, and then prints "passed". Where a text says
*Predict first*, write your prediction into the cell below it before you run the next one, which
has no saved output on purpose. Hand in the notebooks under their own names. `glossary.md` explains
the words, `papers.md` leads from an equation to its function.
"""
INSTRUCTOR = """# The course, with solutions

Hand out `student.zip`. Put what comes back into one folder for each student and run

    python -m wsss_kit grade FOLDER --key THIS_FOLDER --out marks.csv

It executes what students have written; do it where that may do no harm. `teaching.md` has the plans
of a lecture, a lab and a coursework; `lecture.html` has the slides, offline. The notebooks are
nbgrader's source form too.
"""


def for_students(notebook: NotebookNode) -> NotebookNode:
    """Take the teacher's plan out, and the outputs from each prediction to the next text."""
    hidden = False
    for cell in notebook.cells:
        cell.source = PLAN.sub("", cell.source)
        hidden = cell.cell_type == "code" and (hidden or "predict" in tags(cell))
        if hidden:
            cell.outputs, cell.execution_count = [], None
    return notebook


def for_nbgrader(notebook: NotebookNode) -> NotebookNode:
    """Put nbgrader's marks around the body of each solution, below its docstring."""
    for cell in notebook.cells:
        if "solution" in tags(cell):
            lines = cell.source.split("\n")
            body = next(
                n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef)
            ).body
            first = body[1] if ast.get_docstring(ast.parse(cell.source).body[0]) else body[0]
            lines.insert(body[-1].end_lineno, "    ### END SOLUTION")
            lines.insert(first.lineno - 1, "    ### BEGIN SOLUTION")
            cell.source = "\n".join(lines)
    return notebook


def write_handout(names: list[str], out: Path, *, folder: Path = FOLDER) -> None:
    """Write both folders and their archives anew.

    Args:
        names: notebooks, such as ``02``; none for all.
        out: folder of ``student/``, ``instructor/``, ``student.zip`` and ``instructor.zip``.
        folder: of the notebooks; their sources lie in its ``.src``.

    Raises:
        BuildError: if there is no such notebook, or one has to be built first.
    """
    sources = sorted((folder / ".src").glob("*.py"))
    parts = {"student": STUDENT, "instructor": INSTRUCTOR}
    for part, words in parts.items():
        shutil.rmtree(out / part, ignore_errors=True)
        (out / part).mkdir(parents=True)
        (out / part / "README.md").write_text(words, encoding="utf-8")
        pages = {
            "student": ("glossary", "papers"),
            "instructor": ("glossary", "papers", "teaching"),
        }
        for page in pages[part]:
            if (folder / f"{page}.md").exists():
                shutil.copy(folder / f"{page}.md", out / part)
    for source in chosen(names, sources) if names else sources:
        path = folder / f"{source.stem}.ipynb"
        if not path.exists():
            raise BuildError(f"{path.name} is missing; run python notebooks/build.py {source.stem}")
        notebook, written = read_source(source), nbformat.read(path, as_version=4)
        for part, finish in (("student", for_students), ("instructor", for_nbgrader)):
            copy = with_outputs(student_copy(notebook, solutions=part == "instructor"), written)
            nbformat.write(finish(copy), out / part / path.name)
    (out / "instructor" / "lecture.html").write_text(lecture(folder), encoding="utf-8")
    for part in parts:
        print(shutil.make_archive(str(out / part), "zip", out, part))


def main(arguments: list[str] | None = None, *, folder: Path = FOLDER) -> int:
    """Write the handout; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 02; default: all")
    parser.add_argument("--out", type=Path, default=FOLDER.parent / "build" / "handout")
    options = parser.parse_args(arguments)
    try:
        write_handout(options.names, options.out, folder=folder)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
