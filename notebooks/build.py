"""Build the student notebooks from their sources: ``python notebooks/build.py [NAME ...]``.

A source is ``.src/NN_name.py`` in jupytext's py:percent format. It holds every cell, solutions
among them. An exercise is a question (markdown) and three code cells in this order: a stub that
raises NotImplementedError, its solution (tagged ``solution``), a check that calls it and ends with
``print("passed")`` (tagged ``check``). Building a source

1. executes it from top to bottom with its solutions, which proves them;
2. goes back, in the same kernel, to the state before the first stub and executes the rest as a
   student meets it: each check must raise NotImplementedError, and nothing else may fail;
3. writes ``NN_name.ipynb`` beside this file, without solutions and with the outputs of run 1;
   what a check prints then stands below it as its expected output.

``--check`` writes nothing: it executes, and compares the cells of the written notebooks with what
their sources would give. It also looks for every number of the text in the notebook's outputs and
code, to the digits that the text gives and as a fraction too. What is not there stands in the
header of its cell: ``elsewhere="240"`` for a figure of another place that the text names,
``sums="55.7 - 29.2 = 26.5; ..."`` for a difference or sum of numbers that are there, and the tag
``larger`` for a cell about longer runs. ``--check --no-execute`` compares only. ``--keep-outputs``
writes changed text without executing. ``--jobs 2`` executes two at a time. A kernel computes with
one thread, unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
SIZE_LIMIT = 1_500_000
"""Bytes of a written notebook, outputs included."""
CELL_TIMEOUT = 600
"""Seconds one cell may take."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
STUB = "raise NotImplementedError"
PASSED = 'print("passed")'
LONGEST_CELL = 25
ANSWER = "*Your prediction (double-click here and write):*"
"""Lines of a code cell, at most."""
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
NO_FIGURES = (
    r"`[^`]*`|\$\$?[^$]*\$\$?|\]\([^)]*\)|\*\*Further reading[\s\S]*|"
    r"\b(?:[Nn]otebooks?|[Ee]xercises?|Eq\.|[Ss]ections?|Table|Fig\.) "
    r"\d[\d.]*(?:(?:, | and | to )\d[\d.]*)*|"
    r"\b[A-Z]\w+ (?:19|20)\d\d\b"
)
"""Code, formulas, links, places in a text and years, whose numbers are no figures."""
INLINE = "module://matplotlib_inline.backend_inline"
WIDGET = "application/vnd.jupyter.widget-view+json"
REMEMBER = "_known = globals().get('_known') or set(globals())"
FORGET = """for _name in set(globals()) - _known:
    if not _name.startswith("_"):
        del globals()[_name]"""


class BuildError(Exception):
    """A source breaks the format, a cell fails, or a notebook differs from its source."""


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def is_stub(cell: NotebookNode) -> bool:
    """Whether a cell is what the student has to fill in."""
    return cell.cell_type == "code" and STUB in cell.source and "solution" not in tags(cell)


def read_source(path: Path) -> NotebookNode:
    """Read a source and check that every exercise is stub, solution, check.

    Raises:
        BuildError: if an exercise lacks a part or has them in another order, a check does not say
            that it passed, or a cell of code is too long.
    """
    notebook = nbformat.from_dict(jupytext.read(path, fmt="py:percent"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = []
    for cell in code:
        known = [tag for tag in tags(cell) if tag in ("solution", "check")]
        kinds.append("stub" if is_stub(cell) else known[0] if known else "code")
    for i, kind in enumerate(kinds):
        lines = code[i].source.count("\n") + 1
        if lines > LONGEST_CELL:
            raise BuildError(
                f"{path.name}: the cell that begins {code[i].source[:60]!r} has {lines} lines, "
                f"expected at most {LONGEST_CELL}; divide it, or move a function to the package"
            )
        if kind == "check" and not code[i].source.endswith(PASSED):
            raise BuildError(
                f"{path.name}: the check that begins {code[i].source[:60]!r} does not end with "
                f"{PASSED}"
            )
        start = {"stub": i, "solution": i - 1, "check": i - 2}.get(kind, i)
        exercise = kinds[max(start, 0) : start + 3]
        if kind != "code" and exercise != ["stub", "solution", "check"]:
            raise BuildError(
                f"{path.name}: the {kind} cell that begins {code[i].source[:60]!r} stands in "
                f"{exercise}, expected stub, solution, check; a stub holds {STUB!r}, the other "
                "two carry their tag"
            )
    return notebook


def student_copy(notebook: NotebookNode, *, solutions: bool = False) -> NotebookNode:
    """Leave the solutions out, or the stubs; give every cell a stable id.

    A cell's id is a hash of its text, so that a rebuilt notebook differs where its source does.

    Args:
        notebook: with solutions, executed or not; it stays as it is.
        solutions: keep them, and leave the stubs out.

    Returns:
        a new notebook; a cell to write in stands above each prediction; checks have no outputs and
        the tag that lets "run all" pass over them, and what they print with the solution stands
        below them. Stubs and checks are numbered in nbgrader's metadata, a point for each check.
    """
    cells, seen, number = [], {}, 0
    for cell in notebook.cells:
        to_fill_in = {True: "solution" in tags(cell), False: is_stub(cell)}
        if to_fill_in[not solutions]:
            continue
        metadata = {k: v for k, v in cell.metadata.items() if not k.startswith("lines_to_")}
        if to_fill_in[solutions]:
            number += 1
            metadata["nbgrader"] = nbgrader(f"exercise-{number}", solution=True)
        if "check" in tags(cell):
            metadata["tags"] = [*tags(cell), "raises-exception"]
            metadata["nbgrader"] = nbgrader(f"check-{number}", solution=False)
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        if "predict" in tags(cell):
            answer = nbformat.v4.new_markdown_cell(ANSWER, metadata={"tags": ["answer"]})
            cells.append(answer | {"id": f"{digest}-answer"})
        copy = NotebookNode(
            id=digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
            cell_type=cell.cell_type,
            metadata=nbformat.from_dict(metadata),
            source=cell.source,
        )
        if cell.cell_type == "code":
            copy.execution_count = None
            copy.outputs = [] if "check" in tags(cell) else list(kept_outputs(cell.outputs))
        cells.append(copy)
        if "check" in tags(cell):
            printed = "".join(o.text for o in kept_outputs(cell.outputs) if "text" in o)
            below = nbformat.v4.new_markdown_cell(f"Expected output:\n\n```text\n{printed}```")
            below.id, below.metadata.tags = f"{copy.id}-out", ["expected"]
            cells.append(below)
    return nbformat.from_dict(
        {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    )


def nbgrader(name: str, *, solution: bool) -> dict[str, object]:
    """Give nbgrader's metadata for a cell to fill in (``solution``) or for its check."""
    cell = {"schema_version": 3, "grade_id": name, "solution": solution, "task": False}
    return (
        cell | {"grade": not solution, "locked": not solution} | ({} if solution else {"points": 1})
    )


def kept_outputs(outputs: Sequence[NotebookNode]) -> Iterator[NotebookNode]:
    """Outputs worth keeping: no stderr, no live widgets, no addresses, no overwritten lines."""
    for output in outputs:
        output = nbformat.from_dict(output)
        if output.output_type == "stream":
            if output.name == "stderr":  # progress bars; warnings are for whoever builds
                continue
            output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
        elif "data" in output:
            # A widget needs its kernel. What it offers besides (a picture, a table) stays.
            if output.data.pop(WIDGET, None) and not set(output.data) - {"text/plain"}:
                continue
            if "text/plain" in output.data:
                text = output.data["text/plain"]
                output.data["text/plain"] = re.sub(r" at 0x[0-9a-fA-F]+", "", text)
        if output.get("execution_count"):
            output.execution_count = None
        yield output


def execute(notebook: NotebookNode, name: str, *, root: Path, folder: Path) -> NotebookNode:
    """Execute a notebook with its solutions, then its exercises as a student meets them.

    Args:
        notebook: as :func:`read_source` gives it; its cells receive their outputs.
        name: what messages call it.
        root: folder put on PYTHONPATH, so that the package is found installed or not.
        folder: working folder of the kernel.

    Returns:
        the student's copy with the outputs of the run with solutions.

    Raises:
        BuildError: if a cell fails, or a check passes without its solution.
    """
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    environment |= {"PYTHONHASHSEED": "0", "MPLBACKEND": INLINE}
    with client.setup_kernel(env=environment):
        try:
            for i, cell in enumerate(notebook.cells):
                if is_stub(cell):
                    run_hidden(client, REMEMBER, i)
                client.execute_cell(cell, i)
            student = student_copy(notebook)
            rehearse(client, student, name)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"{name}: a cell failed\n{error}") from error
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.get("name") == "stderr" and "\r" not in output.text:
            print(f"{name}: stderr, not kept: {output.text.rstrip()}", file=sys.stderr)
    return numbered(student)


def with_outputs(copy: NotebookNode, written: NotebookNode) -> NotebookNode:
    """Give a copy that was not executed the outputs of a written notebook, cell by cell.

    Raises:
        BuildError: if it has another number of cells of code.
    """
    ours, theirs = (
        [c for c in n.cells if c.cell_type == "code" and not ({"check", "solution"} & set(tags(c)))]
        for n in (copy, written)
    )
    below, shown = ([c for c in n.cells if "expected" in tags(c)] for n in (copy, written))
    ours, theirs = ([cell for cell in cells if not is_stub(cell)] for cells in (ours, theirs))
    if len(ours) != len(theirs) or len(below) != len(shown):
        raise BuildError(
            f"the written notebook has {len(theirs)} cells of code and {len(shown)} exercises, its "
            f"source {len(ours)} and {len(below)}; build it without --keep-outputs"
        )
    for cell, old in zip(ours, theirs, strict=True):
        cell.outputs = old.outputs
    for cell, old in zip(below, shown, strict=True):
        cell.source = old.source
    return numbered(copy)


def run_hidden(client: NotebookClient, code: str, i: int) -> None:
    """Execute code that belongs to no cell; nbclient files it as cell i until i itself is run."""
    client.execute_cell(nbformat.v4.new_code_cell(code), i, store_history=False)


def rehearse(client: NotebookClient, student: NotebookNode, name: str) -> None:
    """Execute a student's copy from its first stub on; checks must say what is missing.

    Raises:
        BuildError: if a check ends otherwise than in NotImplementedError.
    """
    client.nb = nbformat.from_dict(student)  # a copy, whose outputs nobody sees
    client.reset_execution_trackers()
    cells = list(enumerate(client.nb.cells))
    while cells and not is_stub(cells[0][1]):
        del cells[0]
    if cells:
        run_hidden(client, FORGET, cells[0][0])
    for i, cell in cells:
        client.execute_cell(cell, i)  # raises on errors, except in cells tagged raises-exception
        if "check" in tags(cell):
            errors = [o.ename for o in cell.outputs if o.output_type == "error"]
            if errors != ["NotImplementedError"]:
                raise BuildError(
                    f"{name}: without its solution the check that begins {cell.source[:60]!r} "
                    f"gave {errors or 'no error'}, expected NotImplementedError; it must call "
                    "its stub first"
                )


def numbered(student: NotebookNode) -> NotebookNode:
    """Count the executed cells from 1, so that the numbers are the same in every build."""
    executed = [c for c in student.cells if c.cell_type == "code" and "check" not in tags(c)]
    for number, cell in enumerate(executed, start=1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    return student


def written_text(notebook: NotebookNode) -> str:
    """A notebook as the text of its file.

    Raises:
        BuildError: if it is larger than SIZE_LIMIT.
    """
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    size = len(text.encode())
    if size > SIZE_LIMIT:
        raise BuildError(
            f"the notebook has {size / 1e6:.1f} MB, expected at most {SIZE_LIMIT / 1e6:.1f}; "
            "show fewer or smaller pictures"
        )
    return text


def figures_without_source(notebook: NotebookNode) -> dict[int, list[str]]:
    """Find the numbers of a notebook's text that its outputs and its code do not hold.

    Numbers up to 10 without decimals are left out, and so is the text above the first code.

    Args:
        notebook: with outputs.

    Returns:
        number of a cell -> its numbers that stand nowhere, and its sums that do not add up.
    """
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown.append(cell.source)
            for output in cell.get("outputs", ()):
                data = {"text/plain": output.get("text", ""), **output.get("data", {})}
                texts = [text for kind, text in data.items() if kind.startswith("text/")]
                shown += [re.sub(r"<style[\s\S]*?</style>|<[^>]*>", " ", text) for text in texts]
    values = {value_of(n) for text in shown for n in re.findall(rf"{NUMBER}(?:e-?\d+)?", text)}

    def stands(number: str) -> bool:
        half = 0.50001 * 10.0 ** -len(number.partition(".")[2])
        return any(abs(v * scale - value_of(number)) <= half for v in values for scale in (1, 100))

    missing, first = {}, [c.cell_type for c in notebook.cells].index("code")
    for i, cell in enumerate(notebook.cells[first:], start=first):
        if cell.cell_type == "code" or {"larger", "expected"} & set(tags(cell)):
            continue
        known, wrong = cell.metadata.get("elsewhere", "").split(), []
        for sum_ in filter(None, re.split(r";\s*", cell.metadata.get("sums", ""))):
            terms, _, result = sum_.partition(" = ")
            wrong += [n for n in re.findall(NUMBER, terms) if not stands(n)]
            total = sum(
                value_of(term.replace(" ", "")) for term in re.findall(r"-? ?[\d.]+", terms)
            )
            half = 0.50001 * 10.0 ** -len(result.partition(".")[2])
            wrong += [] if abs(total - value_of(result)) <= half else [sum_]
            known.append(result)
        text = re.sub(NO_FIGURES, " ", cell.source)
        stated = rf"(?<![\w.,/])(?<!\w-){NUMBER}(?![\w]|[.,]\d)"
        for number in dict.fromkeys(re.findall(stated, text)):
            small = "." not in number and value_of(number) <= 10
            if not small and number not in known and not stands(number):
                wrong.append(number)
        if wrong:
            missing[i] = wrong
    return missing


def value_of(number: str) -> float:
    """Read a number as it is written, with commas between thousands."""
    return float(number.replace(",", ""))


def compare(student: NotebookNode, path: Path) -> None:
    """Check that a written notebook has the cells its source gives, and outputs.

    Raises:
        BuildError: if it is missing, differs, is too large, was written without a run, or has a
            number in its text that its outputs do not hold.
    """
    again = f"run python notebooks/build.py {path.stem}"
    if not path.exists():
        raise BuildError(f"{path.name} is missing; {again}")
    written = nbformat.read(path, as_version=4)
    written_text(written)
    parts = ("id", "cell_type", "source", "metadata")
    ours, theirs = (
        [
            [c.get(part) for part in parts if part != "source" or "expected" not in tags(c)]
            for c in n
        ]
        for n in (student.cells, written.cells)
    )
    if ours != theirs or written.metadata != student.metadata:
        differ = (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
        where = next(differ, min(len(ours), len(theirs)))
        raise BuildError(f"{path.name} differs from its source from cell {where} on; {again}")
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    if any(cell.execution_count is None and "check" not in tags(cell) for cell in code):
        raise BuildError(f"{path.name} was not executed; {again}")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        raise BuildError(f"{path.name} keeps the output of a failed cell; {again}")
    if missing := figures_without_source(written):
        raise BuildError(
            f"{path.name}: numbers of the text that stand in no output: "
            + "; ".join(f"cell {i}: {', '.join(numbers)}" for i, numbers in missing.items())
            + "; mend the text, or say in the cell's header where they come from"
        )


def build(
    source: Path, *, check: bool = False, run_cells: bool = True, keep_outputs: bool = False
) -> Path:
    """Build the notebook of one source, or check it.

    Args:
        source: ``.src/NN_name.py``; its notebook lies one folder up.
        check: compare with the written notebook instead of writing it.
        run_cells: execute the source; only a check can do without.
        keep_outputs: take the outputs of the written notebook instead of executing.

    Returns:
        path of the notebook.

    Raises:
        BuildError: with the reason.
    """
    folder = source.resolve().parent.parent
    path = folder / f"{source.stem}.ipynb"
    notebook = read_source(source)
    student = student_copy(notebook)
    if check:
        compare(student, path)
    if keep_outputs:
        student = with_outputs(student, nbformat.read(path, as_version=4))
    elif run_cells:
        student = execute(notebook, source.stem, root=FOLDER.parent, folder=folder)
    if not check:
        text = written_text(student)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    return path


def chosen(names: Sequence[str], sources: Sequence[Path]) -> list[Path]:
    """The sources that names stand for: ``02``, ``02_class_activation_maps`` or a path.

    Raises:
        BuildError: if a name stands for none.
    """
    found = []
    for name in names:
        stem = Path(name).stem
        matches = [s for s in sources if s.stem == stem or s.stem.startswith(f"{stem}_")]
        if not matches:
            known = ", ".join(source.stem for source in sources) or "none"
            raise BuildError(f"no source is called {name!r}; there are {known}")
        found += matches
    return found


def main(arguments: Sequence[str] | None = None, *, folder: Path = FOLDER) -> int:
    """Build or check notebooks; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 02; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing, compare and execute")
    parser.add_argument("--no-execute", action="store_true", help="with --check: compare only")
    parser.add_argument(
        "--keep-outputs", action="store_true", help="write text anew, keep the outputs"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="execute N at a time")
    options = parser.parse_args(arguments)
    if options.no_execute and not options.check:
        parser.error("--no-execute goes with --check: a written notebook keeps its outputs")
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}, expected at least 1")
    sources = sorted((folder / ".src").glob("*.py"))
    try:
        wanted = chosen(options.names, sources) if options.names else sources
        if not wanted:
            raise BuildError(f"{folder / '.src'} holds no sources; expected NN_name.py")
        orphans = {p.stem for p in folder.glob("*.ipynb")} - {s.stem for s in sources}
        if options.check and orphans:
            raise BuildError(f"no source for {', '.join(sorted(orphans))}; remove the .ipynb")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1

    def fails(source: Path) -> bool:
        start = time.perf_counter()
        try:
            run = {"run_cells": not options.no_execute, "keep_outputs": options.keep_outputs}
            build(source, check=options.check, **run)
        except BuildError as error:
            print(f"{source.stem}: FAILED\n{error}", file=sys.stderr)
            return True
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        return False

    # the work is done in the kernels; the first notebooks are the shortest and fill the end
    with ThreadPoolExecutor(options.jobs) as pool:
        return sum(pool.map(fails, reversed(wanted)))


if __name__ == "__main__":
    sys.exit(min(main(), 1))
