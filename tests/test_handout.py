"""What is handed out: no solutions for students, marks of nbgrader for teachers."""

import importlib
import zipfile

import nbformat
import pytest

from tests.test_notebooks import NOTEBOOKS, TINY, build

PLAN = "<details><summary><b>Plan for the teacher</b></summary>\n#\n# | 0 | x |\n#\n# </details>"


@pytest.fixture
def handout(monkeypatch):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    monkeypatch.setitem(importlib.sys.modules, "build", build)
    return importlib.import_module("handout")


def test_two_folders_and_their_archives(handout, tmp_path):
    (tmp_path / ".src").mkdir()
    text = TINY.replace("# # A source", f"# # A source\n#\n# {PLAN}\n#\n# The end")
    text = text.replace("# %%\nimport importlib", '# %% tags=["predict"]\nimport importlib')
    text = text.replace("object()", 'import PIL.Image\nPIL.Image.new("RGB", (2, 2))')
    (tmp_path / ".src" / "00_tiny.py").write_text(text)
    row = "| 0 to 5 | What a mask costs | 00, A source | *How long?* 20 seconds |"
    (tmp_path / "teaching.md").write_text(f"## The lecture\n\n{row}\n")
    assert handout.main(["--out", str(tmp_path / "out")], folder=tmp_path) == 1  # not built yet
    assert build.main([], folder=tmp_path) == 0
    assert handout.main(["--out", str(tmp_path / "out")], folder=tmp_path) == 0
    student, teacher = (
        nbformat.read(tmp_path / "out" / part / "00_tiny.ipynb", as_version=4)
        for part in ("student", "instructor")
    )
    texts = ["\n".join(cell.source for cell in each.cells) for each in (student, teacher)]
    assert "NotImplementedError" in texts[0] and "base + number" not in texts[0]
    assert "Plan for" not in texts[0] and "The end" in texts[0] and "Plan for" in texts[1]
    assert "    ### BEGIN SOLUTION\n    return base + number\n    ### END SOLUTION" in texts[1]
    first = [next(c for c in each.cells if "base = 20" in c.source) for each in (student, teacher)]
    assert not first[0].outputs and first[1].outputs[0].text == "ready\n"
    last = [next(c for c in each.cells if "recap" in c.source) for each in (student, teacher)]
    assert all(cell.outputs[0].text == "recap 20\n" for cell in last)
    answers = [[c for c in each.cells if c.source == build.ANSWER] for each in (student, teacher)]
    assert [len(each) for each in answers] == [1, 1]
    for each in (student, teacher):
        graded = [c.metadata.nbgrader for c in each.cells if "nbgrader" in c.metadata]
        assert [cell.grade_id for cell in graded] == ["exercise-1", "check-1"]
        assert [cell.get("points") for cell in graded] == [None, 1]
        assert any("Expected output:\n\n```text\npassed\n```" in c.source for c in each.cells)
        nbformat.validate(each)
    page = (tmp_path / "out" / "instructor" / "lecture.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 3 and "<strong>How long?</strong>" in page
    assert 'src="data:image/png;base64,' in page and "http" not in page
    names = {
        p: zipfile.ZipFile(tmp_path / "out" / f"{p}.zip").namelist()
        for p in ("student", "instructor")
    }
    assert "student/00_tiny.ipynb" in names["student"]
    assert "student/teaching.md" not in names["student"]
    assert "instructor/teaching.md" in names["instructor"]
