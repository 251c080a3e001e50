"""The notebooks run from top to bottom, and the copy a student gets is what build.py promises."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted((NOTEBOOKS / ".src").glob("*.py"))

spec = importlib.util.spec_from_file_location("notebooks_build", NOTEBOOKS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

TINY = """# %% [markdown]
# # A source

# %%
import importlib.util, pathlib
assert importlib.util.find_spec("wsss_kit"), "the package is found from the notebooks' folder"
assert pathlib.Path(".src").is_dir(), "which is where the kernel works"
base = 20
print("working\\rready")
object()

# %% [markdown]
# Add a number to `base`.

# %%
def add(number):
    raise NotImplementedError("add number to base")

# %% tags=["solution"]
def add(number):
    return base + number

answer = 42

# %% tags=["check"]
assert add(1) == 21
print("passed")

# %%
print("recap", base)
"""


@pytest.fixture
def write(tmp_path):
    """Write a source into a folder laid out like notebooks/."""
    (tmp_path / ".src").mkdir()

    def written(text=TINY, name="00_tiny"):
        path = tmp_path / ".src" / f"{name}.py"
        path.write_text(text)
        return path

    return written


def cell_with(notebook, text):
    return next(cell for cell in notebook.cells if text in cell.source)


@pytest.mark.slow  # .ci/run and `make check` execute them all, by build.py --check
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_source_runs_and_its_notebook_is_up_to_date(source):
    build.build(source, check=True)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_sends_nobody_to_one_that_is_not_there(source):
    """By its name, or by its number as in "notebook 02"."""
    names = {path.stem for path in SOURCES}
    text = "\n".join(c.source for c in build.read_source(source).cells if c.cell_type == "markdown")
    named = set(re.findall(r"`(\d\d_[a-z_]+)`", text))
    numbered = set(re.findall(r"\b[Nn]otebooks? (\d\d)\b", text))
    assert named <= names and numbered <= {name[:2] for name in names}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_red_checks_are_announced_before_the_first(source):
    cells = build.read_source(source).cells
    first = next((i for i, cell in enumerate(cells) if build.is_stub(cell)), None)
    if first is not None:
        before = "\n".join(c.source for c in cells[:first] if c.cell_type == "markdown")
        assert "red `NotImplementedError`" in before


def test_every_notebook_equals_its_source(capsys):
    assert build.main(["--check", "--no-execute"]) == 0, capsys.readouterr().err


def test_solutions_are_left_out_and_stubs_and_checks_stay(write):
    source = build.read_source(write())
    student = build.student_copy(source)
    assert len(student.cells) == len(source.cells)  # the solution goes, its output comes
    texts = "\n".join(cell.source for cell in student.cells)
    assert "base + number" not in texts and "answer" not in texts
    assert "raise NotImplementedError" in texts
    check = cell_with(student, "assert add(1)")
    assert check.metadata.tags == ["check", "raises-exception"]
    nbformat.validate(student)
    assert cell_with(source, "assert add(1)").metadata.tags == ["check"]  # the source is not edited


def test_ids_follow_the_text_so_that_one_edit_changes_one_cell(write):
    before = build.student_copy(build.read_source(write()))
    edited = TINY.replace("# # A source", "# # A better source\n\n# %%\nprint(1)\n\n# %%\nprint(1)")
    after = build.student_copy(build.read_source(write(edited)))
    ids = [cell.id for cell in after.cells]
    assert len(set(ids)) == len(ids) == len(before.cells) + 2
    assert {cell.id for cell in before.cells[1:]} <= set(ids)
    assert before.cells[0].id not in ids


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (' tags=["solution"]', "", "the stub cell .* stands in"),
        (' tags=["check"]', "", r"\['stub', 'solution', 'code'\], expected stub, solution, check"),
        ('raise NotImplementedError("add number to base")', "pass", "the solution cell"),
        ('\nprint("passed")', "", "does not end with print"),
        ("object()", "object()\n" * 25, "lines, expected at most 25"),
    ],
)
def test_an_incomplete_exercise_is_refused(write, old, new, message):
    with pytest.raises(build.BuildError, match=message):
        build.read_source(write(TINY.replace(old, new)))


def test_build_executes_with_solutions_and_keeps_clean_outputs(write, capsys):
    path = write()
    assert build.main([], folder=path.parent.parent) == 0, capsys.readouterr().err
    written = path.parent.parent / "00_tiny.ipynb"
    notebook = nbformat.read(written, as_version=4)
    assert [cell.id for cell in notebook.cells] == [
        cell.id for cell in build.student_copy(build.read_source(path)).cells
    ]
    stream, result = cell_with(notebook, "base = 20").outputs
    assert stream.text == "ready\n"
    assert result.data["text/plain"] == "<object>"
    assert cell_with(notebook, "recap").outputs[0].text == "recap 20\n"
    check = cell_with(notebook, "assert add(1)")
    assert check.outputs == [] and check.execution_count is None
    assert [c.execution_count for c in notebook.cells if c.get("execution_count")] == [1, 2, 3]
    assert notebook.metadata == build.METADATA

    assert build.main(["--check", "--no-execute"], folder=path.parent.parent) == 0
    path.write_text(TINY.replace("base = 20", "base = 21"))
    assert build.main(["--check", "--no-execute"], folder=path.parent.parent) == 1
    assert "00_tiny.ipynb differs from its source from cell 1 on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return base + number", "return base - number", "AssertionError"),
        ("assert add(1) == 21", "assert answer == 42", r"gave \['NameError'\]"),
        ("assert add(1) == 21", "assert base == 20", "gave no error"),
        ('print("recap", base)', 'print("recap", answer)', "name 'answer' is not defined"),
    ],
)
def test_a_notebook_that_would_fail_a_student_is_refused(write, old, new, message):
    path = write(TINY.replace(old, new))
    with pytest.raises(build.BuildError, match=message):
        build.build(path)
    assert not path.parent.parent.joinpath("00_tiny.ipynb").exists()


def test_two_at_a_time_each_with_one_thread(write, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    message = "import os; print(os.environ['OMP_NUM_THREADS'])"
    # each waits for the other's kernel to have started
    meet = (
        "\nimport pathlib, time\npathlib.Path(OWN).touch()\nend = time.time() + 60\n"
        "while not pathlib.Path(OTHER).exists():\n"
        "    assert time.time() < end\n    time.sleep(0.05)\n"
    )
    folder = write(f"# %%\nOWN, OTHER = 'a', 'b'{meet}{message}\n", name="00_a").parent.parent
    write(f"# %%\nOWN, OTHER = 'b', 'a'{meet}raise KeyError('lost')\n", name="01_b")
    assert build.main(["--jobs", "2"], folder=folder) == 1
    assert "01_b: FAILED" in capsys.readouterr().err
    notebook = nbformat.read(folder / "00_a.ipynb", as_version=4)
    assert notebook.cells[0].outputs[0].text == "1\n"
    assert not (folder / "01_b.ipynb").exists()


def test_kept_outputs_drop_widgets_and_stderr_but_not_their_images():
    def shown(data):
        return nbformat.v4.new_output("display_data", data=data)

    bar = shown({build.WIDGET: {"model_id": "1"}, "text/plain": "0%"})
    view = shown({build.WIDGET: {"model_id": "2"}, "text/plain": "View()", "image/png": "aGk="})
    warning = nbformat.v4.new_output("stream", name="stderr", text="careful")
    (kept,) = build.kept_outputs([bar, view, warning])
    assert kept.data == {"text/plain": "View()", "image/png": "aGk="}


def test_a_large_notebook_is_refused():
    cell = nbformat.v4.new_markdown_cell("x" * build.SIZE_LIMIT)
    with pytest.raises(build.BuildError, match=r"has 1\.5 MB, expected at most 1\.5"):
        build.written_text(nbformat.v4.new_notebook(cells=[cell]))


def test_numbers_of_the_text_are_in_an_output_or_say_where_they_are_from():
    code = nbformat.v4.new_code_cell("n = 60")
    code.outputs = [nbformat.v4.new_output("stream", text="mIoU 0.5566, from 29.24 to 1,464")]
    bar = nbformat.v4.new_output(
        "display_data", data={"text/html": "<td>12.3</td><style>77</style>"}
    )
    code.outputs.append(bar)

    def missing(text, **metadata):
        cells = [code, nbformat.v4.new_markdown_cell(text, metadata=metadata)]
        return build.figures_without_source(nbformat.v4.new_notebook(cells=cells)).get(1)

    right = (
        "In notebook 07 and CVPR 2023: 55.7 %, 29.2, 1464 of 60 images, 12, ResNet-101, `99`, 3."
    )
    assert missing(right) is None
    assert missing("55.6 %, 29.3 or 77 and 61") == ["55.6", "29.3", "77", "61"]
    assert missing("26 points") == ["26"] and missing("26 points", elsewhere="26") is None
    assert missing("26 points", tags=["larger"]) is None
    assert missing("16.9 points", sums="29.2 - 12.3 = 16.9") is None
    assert missing("17.9 points", sums="29.2 - 12.3 = 17.9") == ["29.2 - 12.3 = 17.9"]
    assert missing("20 points", sums="32.3 - 12.3 = 20") == ["32.3"]


def test_text_is_written_anew_around_the_outputs(write, capsys):
    path = write()
    folder = path.parent.parent
    assert build.main([], folder=folder) == 0
    path.write_text(TINY.replace("# # A source", "# # Better words"))
    assert build.main(["--keep-outputs"], folder=folder) == 0
    assert build.main(["--check", "--no-execute"], folder=folder) == 0
    assert "recap 20" in (folder / "00_tiny.ipynb").read_text()
    path.write_text(TINY + "\n# %%\nprint(3)\n")
    assert build.main(["--keep-outputs"], folder=folder) == 1
    assert "has 2 cells of code and 1 exercises, its source 3 and 1" in capsys.readouterr().err


def test_an_orphan_and_an_unknown_name_are_reported(write, tmp_path, capsys):
    write()
    assert build.main(["07"], folder=tmp_path) == 1
    assert "no source is called '07'; there are 00_tiny" in capsys.readouterr().err
    (tmp_path / "01_old.ipynb").write_text("{}")
    assert build.main(["--check", "--no-execute"], folder=tmp_path) == 1
    assert "no source for 01_old" in capsys.readouterr().err
