"""Grade the exercises of notebooks that students hand in.

A notebook of the course runs once, with its own solutions. At each check the process forks: the
copy takes a student's answer instead of the solution and runs the check. So an answer that is
wrong, crashes or never ends costs its own mark and no other. Answers are code of other people:
run this where they may do no harm, such as in a container.
"""

import ast
import csv
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from wsss_kit.checks import check_count
from wsss_kit.files import expanded, write_whole
from wsss_kit.processes import progress

KEY = "build/handout/instructor"
"""Where ``make handout`` writes the notebooks with solutions."""


class Mark(NamedTuple):
    """The result of one exercise of one student.

    Args:
        student: name of the student's folder.
        notebook: name of the notebook, without ``.ipynb``.
        exercise: number of the exercise in the notebook, from 1.
        marks: 1 if the check passed, else 0.
        of: the most that there is, 1.
        remark: ``passed``, or why not.
    """

    student: str
    notebook: str
    exercise: int
    marks: int
    of: int
    remark: str


def run_grade(
    folder: str | Path,
    /,
    *,
    key: str | Path = KEY,
    out: str | Path = "marks.csv",
    notebooks: Sequence[str] | None = None,
    seconds: int = 120,
) -> list[Mark]:
    """Grade notebooks that students hand in, and write a table of marks.

    Answers are found by the name of the function that an exercise asks for; imports and functions
    of a student's own cells are there too. A check gives one mark.

    Args:
        folder: of one folder for each student, with folders in it or not, or of the notebooks of
            one student.
        key: of the notebooks with solutions and checks, as ``make handout`` writes it.
        out: CSV with a row for each student and exercise.
        notebooks: which count, such as ``02``; None for those that somebody has handed in.
        seconds: that an answer and its check may take.

    Returns:
        The marks, by student, notebook and exercise.

    Raises:
        ValueError: if there is nothing to grade, or a solution of the key fails its own check.
        FileNotFoundError: if a folder is not there.
        OSError: on systems whose processes cannot fork (Windows).
    """
    check_count("seconds", seconds)
    folder, key = expanded(folder).resolve(), expanded(key).resolve()
    if not hasattr(os, "fork"):
        raise OSError("grading forks processes, which Windows cannot; use Linux, macOS or WSL")
    for name, place, hint in (("the folder", folder, ""), ("the key", key, "; run make handout")):
        if not place.is_dir():
            raise FileNotFoundError(f"{name} {place} is not there, or is no folder{hint}")
    courses = {path.stem: path for path in sorted(key.glob("*.ipynb"))}
    wanted = [name for name in courses if name.startswith(tuple(notebooks or ("",)))]
    handed_in: dict[str, dict[str, Path]] = {name: {} for name in wanted}
    papers = [path.relative_to(folder) for path in folder.rglob("*.ipynb")]
    papers = [paper for paper in papers if not any(part[0] == "." for part in paper.parts)]
    for paper in sorted(papers, key=lambda each: (len(each.parts), each.stem not in wanted, each)):
        if not any(name in paper.stem for name in courses):
            print(f"{paper} is left out, it is called as no notebook of the course")
        for name in (name for name in wanted if name in paper.stem):
            student = paper.parts[0] if len(paper.parts) > 1 else folder.name
            if (first := handed_in[name].setdefault(student, folder / paper)) != folder / paper:
                print(f"{paper} is left out, {first.relative_to(folder)} counts")
    found = {student for of_course in handed_in.values() for student in of_course}
    if not found & {folder.name}:  # a folder for each student, with a notebook in it or not
        found |= {each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != "."}
    students = sorted(found)
    if not any(handed_in.values()):
        expected = f"expected NAME.ipynb or STUDENT/NAME.ipynb with a NAME of {', '.join(wanted)}"
        raise ValueError(f"{folder} holds no notebook of the course; {expected}")
    marks: list[Mark] = []
    for course in progress([n for n in wanted if handed_in[n] or notebooks], what="grading"):
        marks += _course(courses[course], handed_in[course], students, seconds)
    marks.sort()
    table = io.StringIO(newline="")
    csv.writer(table).writerows([Mark._fields, *marks])
    write_whole(out, table.getvalue().encode(errors="backslashreplace"))  # whatever errors say
    for student in students:
        own = [mark for mark in marks if mark.student == student]
        print(f"{student}: {sum(mark.marks for mark in own)} of {sum(mark.of for mark in own)}")
    return marks


def _course(
    path: Path, papers: Mapping[str, Path], students: Sequence[str], seconds: int
) -> list[Mark]:
    """Grade one notebook for all students, in a process of its own."""
    os.environ |= {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_course, args=(path, papers, students, seconds, theirs))
    process.start()
    theirs.close()
    try:
        result = ours.recv()
    except EOFError:
        process.join()
        result = f"its process ended with status {process.exitcode}"
    process.join()
    if isinstance(result, str):
        raise ValueError(f"{path} could not be run with its own solutions: {result}")
    return result


def _run_course(
    path: Path, papers: Mapping[str, Path], students: Sequence[str], seconds: int, report: Any
) -> None:
    """Run a notebook with its solutions; fork at each check for each student, and send marks."""
    sheets = {student: _sheet(papers.get(student)) for student in students}
    sys.stdout = sys.stderr = open(os.devnull, "w")
    for stream in (1, 2):  # also for what answers start
        os.dup2(sys.stdout.fileno(), stream)
    os.chdir(path.parent)
    _shell().history_manager.enabled = False
    official = _cells(path)
    texts = {cell["text"] for cell in official}
    taken = set().union(*(_definitions(cell["text"]) for cell in official))
    marks, number, wanted = [], 0, set()
    for cell in official:
        if problem := _problem(cell["text"]):
            report.send(f"the cell that begins {cell['text'][:60]!r} gives {problem}")
            return
        if "solution" in cell["tags"]:
            number, wanted = number + 1, set(_definitions(cell["text"]))
        if "check" in cell["tags"]:
            for student, sheet in sheets.items():
                if isinstance(sheet, str):
                    remark = sheet
                else:
                    parts = _answer(sheet, wanted, taken, texts)
                    remark = _tried([*parts, cell["text"]], seconds) if parts else "no answer"
                passed = remark == "passed"
                marks.append(Mark(student, path.stem, number, int(passed), 1, remark))
    report.send(marks)


def _cells(path: Path) -> list[dict[str, Any]]:
    """Read the text and the tags of a notebook's cells of code."""
    cells = json.loads(path.read_text("utf-8-sig"))["cells"]
    return [
        {"text": "".join(cell["source"]), "tags": cell["metadata"].get("tags", [])}
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def _sheet(path: Path | None) -> list[str] | str:
    """Read the code of a student's notebook, or say why there is none."""
    if path is None:
        return "not handed in"
    try:
        return [cell["text"] for cell in _cells(path)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path.name} is no notebook ({type(error).__name__}: {error})"


def _definitions(text: str) -> dict[str, ast.stmt]:
    """Find the functions and classes that a cell defines at its top level, by name."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        body = ast.parse(TransformerManager().transform_cell(text)).body
    except (SyntaxError, ValueError):
        return {}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    imported = (node for node in body if isinstance(node, ast.Import | ast.ImportFrom))
    return {ast.unparse(node): node for node in imported} | {
        node.name: node for node in body if isinstance(node, kinds)
    }


def _answer(sheet: Sequence[str], wanted: set[str], taken: set[str], known: set[str]) -> list[str]:
    """Choose a student's code for one exercise: nothing if no cell has the function asked for.

    Args:
        sheet: cells of code.
        wanted: what the exercise asks for; a cell that names it counts whole.
        taken: what the course's own cells define; all else that a student defines is there too.
        known: texts of these cells.
    """
    parts, found = [], False
    for text in sheet:
        if any(re.search(rf"^(?:async )?(?:def|class) {name}\b", text, re.M) for name in wanted):
            parts.append(text)
            found = True
        elif text not in known:
            for node in (n for name, n in _definitions(text).items() if name not in taken):
                own = ast.unparse(node)
                if isinstance(node, ast.Import | ast.ImportFrom):  # of what is not here, perhaps
                    own = f"try:\n    {own}\nexcept ImportError:\n    pass"
                parts.append(own)
    return parts if found else []


def _tried(texts: Sequence[str], seconds: int) -> str:
    """Run cells in a fork of this process; return ``passed``, or what happened instead."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

    def run() -> None:
        os.setsid()  # so that what it starts ends with it
        os.chdir(place.name)  # files of an answer are nobody else's
        theirs.send(next(filter(None, map(_problem, texts)), "passed"))

    process: Any = context.Process(target=run)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else f"not ready after {seconds} seconds"
    except EOFError:
        process.join()
        return f"its process ended with status {process.exitcode}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        place.cleanup()


def _shell() -> Any:
    """Return the shell of this process, which runs cells as a notebook's kernel does."""
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """Let ``%matplotlib`` pass."""

        def ask_exit(self) -> None:
            """Let ``exit()`` pass."""

    return InteractiveShell._instance or Shell.instance()


def _problem(text: str) -> str:
    """Run a cell; return its error in words, or nothing."""
    result = _shell().run_cell(text, silent=True)
    if not (error := result.error_before_exec or result.error_in_exec):
        return ""
    place = traceback.extract_tb(error.__traceback__)[-1:]  # an assertion says where, not what
    words = str(error) or "".join(filter(None, (frame.line for frame in place)))
    return " ".join(f"{type(error).__name__}: {words}".split())[:200]
