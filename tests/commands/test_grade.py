"""Notebooks handed in: each exercise has its own mark, whatever else an answer does."""

import csv
import subprocess

import nbformat
import pytest

from wsss_kit.__main__ import main
from wsss_kit.commands.grade import run_grade

SOLUTIONS = {
    "add": "def add(number):\n    return base + number",
    "twice": "def twice(x):\n    return 2 * x",
    "half": "def half(x):\n    return twice(x) / 4",
}
CHECKS = {
    "add": "assert add(1) == 21",
    "twice": "assert twice(2) == 4",
    "half": "assert half(8) == 4",
}
STUB = "def {}(x):\n    raise NotImplementedError('to do')"


def write(path, answers, *, key=False):
    """A notebook with these answers, text by name of the exercise; all else is a stub."""
    cells = [nbformat.v4.new_code_cell("base = 20\n%matplotlib inline")]
    for name, check in CHECKS.items():
        cells.append(nbformat.v4.new_code_cell(answers.get(name, STUB.format(name))))
        cells.append(nbformat.v4.new_code_cell(f"{check}\nprint('passed')"))
        if key:
            cells[-2].metadata.tags, cells[-1].metadata.tags = ["solution"], ["check"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def key(tmp_path):
    write(tmp_path / "key" / "00_sums.ipynb", SOLUTIONS, key=True)
    return tmp_path / "key"


def test_every_answer_has_its_own_mark(key, tmp_path, capsys):
    answers = {
        "all right": SOLUTIONS,
        "stubs": {},
        "own helper": SOLUTIONS
        | {"add": "base = 7\ndef seven(x):\n    return x\ndef add(x):\n    return seven(x) + 20"},
        "three wrong": {name: f"def {name}(x):\n    return 5" for name in SOLUTIONS},
        # half is right although twice, which it calls, never ends: the course's own is taken
        "no end": SOLUTIONS | {"twice": "def twice(x):\n    while True: pass"},
        "crash": SOLUTIONS | {"add": "def add(x):\n    import os; os._exit(3)"},
        "no Python": SOLUTIONS | {"half": "def half(x:\n    return"},
        "no function": SOLUTIONS | {"half": "x = 3"},
    }
    for student, texts in answers.items():
        write(tmp_path / "in" / student / "week 1" / "00_sums (2).ipynb", texts)
    (tmp_path / "in" / "broken").mkdir()
    (tmp_path / "in" / "broken" / "00_sums.ipynb").write_text("{")
    write(tmp_path / "in" / "stubs" / ".ipynb_checkpoints" / "00_sums-copy.ipynb", SOLUTIONS)
    options = {"out": tmp_path / "marks.csv", "notebooks": ["00"], "seconds": 5}
    run_grade(tmp_path / "in", key=key, **options)
    rows = list(csv.DictReader((tmp_path / "marks.csv").open(newline="")))
    assert len(rows) == 9 * 3 and {row["of"] for row in rows} == {"1"}
    marks, remarks = {}, {}
    for row in rows:
        marks[row["student"]] = marks.get(row["student"], "") + row["marks"]
        remarks[row["student"], row["exercise"]] = row["remark"]
    assert marks == {
        **{"all right": "111", "stubs": "000", "own helper": "111", "three wrong": "000"},
        **{"no end": "101", "crash": "011", "no Python": "110", "no function": "110"},
        "broken": "000",
    }
    for place, words in {
        ("stubs", "1"): "NotImplementedError: to do",
        ("three wrong", "2"): "AssertionError: assert twice(2) == 4",
        ("no end", "2"): "not ready after 5 seconds",
        ("crash", "1"): "its process ended with status 3",
        ("no function", "3"): "no answer",
    }.items():
        assert remarks[place] == words
    assert remarks["no Python", "3"].startswith("SyntaxError")
    assert "is no notebook" in remarks["broken", "1"]
    assert "no end: 2 of 3" in capsys.readouterr().out


def test_a_class_as_it_is(key, tmp_path, capsys):
    """Old copies, other names, answers that write files, start programs or say odd things."""
    touches = "import subprocess\ndef add(x):\n    open('new', 'w').close()\n    return x + 20"
    touches += "\nsubprocess.Popen(['sleep', '600'])"
    answers = {
        "amy": SOLUTIONS,
        "ben": SOLUTIONS | {"add": touches},
        "cas": SOLUTIONS | {"add": r"def add(x): raise ValueError('\ud800')"},
        "dot": SOLUTIONS | {"half": f"import no_such_package\nx = 3\n{SOLUTIONS['half']}"},
    }
    for student, texts in answers.items():
        write(tmp_path / "in" / student / "00_sums.ipynb", texts)
    write(tmp_path / "in" / "amy" / "old" / "00_sums.ipynb", {})
    write(tmp_path / "in" / "amy" / "00_sums-Copy1.ipynb", {})
    write(tmp_path / "in" / "eve" / "sums.ipynb", SOLUTIONS)
    file = tmp_path / "in" / "dot" / "00_sums.ipynb"
    notebook = nbformat.read(file, 4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell("import no_such_package"))
    notebook.cells[-2].source = SOLUTIONS["half"]
    nbformat.write(notebook, file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # a byte order mark
    marks = run_grade(tmp_path / "in", key=key, out=tmp_path / "marks.csv", seconds=20)
    totals = {name: sum(m.marks for m in marks if m.student == name) for name in (*answers, "eve")}
    assert totals == {"amy": 3, "ben": 3, "cas": 2, "dot": 3, "eve": 0}
    assert {mark.remark for mark in marks if mark.student == "eve"} == {"not handed in"}
    assert "\\ud800" in (tmp_path / "marks.csv").read_text()
    assert [path.name for path in key.iterdir()] == ["00_sums.ipynb"]
    said = capsys.readouterr().out
    assert "eve/sums.ipynb is left out, it is called as no notebook of the course" in said
    for copy in ("amy/old/00_sums.ipynb", "amy/00_sums-Copy1.ipynb"):
        assert f"{copy} is left out, amy/00_sums.ipynb counts" in said
    running = subprocess.run(["pgrep", "-fx", "sleep 600"], stdout=subprocess.PIPE, check=False)
    assert not running.stdout


def test_nothing_to_grade_and_a_key_that_fails(key, tmp_path, capsys):
    words = ["grade", str(tmp_path / "in"), "--key", str(key), "--out", str(tmp_path / "m.csv")]
    assert main(words) == 2
    assert "in is not there, or is no folder" in capsys.readouterr().err
    write(tmp_path / "in" / "other.ipynb", {})
    assert main(words) == 2
    assert "expected NAME.ipynb or STUDENT/NAME.ipynb" in capsys.readouterr().err
    write(tmp_path / "in" / "00_sums.ipynb", {})
    write(key / "00_sums.ipynb", SOLUTIONS | {"add": STUB.format("add")}, key=True)
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "could not be run with its own solutions" in message and "to do" in message
    assert not (tmp_path / "m.csv").exists()
