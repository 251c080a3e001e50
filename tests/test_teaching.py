"""The pages beside the notebooks keep their word: functions exist, headings are there."""

import importlib
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob(".src/*.py")}
PAPERS = (NOTEBOOKS / "papers.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAPERS.splitlines()
    if line.startswith("| ") and not line.startswith(("| Idea", "| ---"))
]


def found(name):
    """What a dotted name stands for."""
    module, _, rest = name.rpartition(".")
    return getattr(importlib.import_module(module), rest)


def headings(notebook):
    return re.findall(r"^# #+ (.*)$", SOURCES[notebook], re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_an_idea_has_its_place_its_function_and_its_cell(row):
    idea, place, function, cell = row
    assert idea and place
    assert callable(found(function.strip("`"))) and found(function.strip("`")).__doc__
    notebook, _, heading = cell.partition(", ")
    assert heading in headings(notebook.strip("`")), headings(notebook.strip("`"))


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_image_of_a_notebook_is_described(notebook):
    images = [
        output
        for cell in nbformat.read(notebook, 4).cells
        for output in cell.get("outputs", ())
        if any(variant.startswith("image/") for variant in output.get("data", ()))
    ]
    assert len(images) >= 3
    for output in images:
        words = output.data["text/plain"]
        assert len(words) > 30 and not words.startswith(("<", "Figure("))


PARTS = (
    *("**Goals.**", "**Needs.**", "**Time.**", "(glossary.md)", "Plan for the teacher"),
    *("you are here", 'DATA = "paper"  # or "voc", "folder"', "## Exercises", "**Exercise 2"),
    *("## Recap", "## What to open next", "**Further reading.**"),
)


@pytest.mark.parametrize("notebook", sorted(SOURCES))
def test_notebooks_have_one_form(notebook):
    text = SOURCES[notebook]
    places = [text.find(part) for part in PARTS]
    assert -1 not in places, [part for part, at in zip(PARTS, places, strict=True) if at < 0]
    assert places[7:] == sorted(places[7:])
    assert notebook[:2] in ("00", "01", "09") or "# by hand" in text  # 00, 01, 09 have their own
    assert re.search(rf"\b{notebook[:2]}\b", TEACHING)


TEACHING = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")


def test_the_course_leads_through_all_notebooks():
    """Whoever follows "What to open next" from 00 on comes to every notebook."""
    leads = {
        name: set(re.findall(r"`(\d\d_[a-z_]+)`", text.split("## What to open next")[-1]))
        for name, text in SOURCES.items()
    }
    seen, waiting = set(), {"00_start_here"}
    while waiting:
        seen |= waiting
        waiting = set().union(*(leads[name] for name in waiting)) - seen
    assert seen == set(SOURCES)
    assert leads["00_start_here"] == set(SOURCES) - {"00_start_here"}


def test_the_teachers_page_names_real_cells():
    for number, heading in re.findall(r"\b(\d\d), ([A-Z][^|).]*?)(?: \||\))", TEACHING):
        (notebook,) = (name for name in SOURCES if name.startswith(number))
        assert heading in headings(notebook), (number, heading)


def test_commands_of_the_coursework_are_commands():
    from wsss_kit.commands.line import parse

    blocks = "".join(re.findall(r"^```\n(.*?)^```$", TEACHING, re.M | re.S)).replace("\\\n", " ")
    lines = [line.partition("#")[0].split() for line in blocks.splitlines() if line.strip()]
    assert len(lines) >= 5
    for words in lines:
        assert words[:3] == ["python", "-m", "wsss_kit"]
        parse(words[3:])  # raises an error for what is no option
