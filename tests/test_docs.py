"""The pages of the documentation say what is there: messages, modules, commands."""

import re
from pathlib import Path

import pytest

from wsss_kit.commands.line import parse

ROOT = Path(__file__).resolve().parent.parent
SOURCES = " ".join(
    re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))
    for path in [*(ROOT / "wsss_kit").rglob("*.py"), ROOT / "Makefile"]
)
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [*sorted((ROOT / "notebooks").glob("*.md")), ROOT / "data" / "README.md"]
PLACES = {"FOLDER": "f", "DIR": "d", "FILE": "f.json", "ROW": "clip-es/val/imagenet"}


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"\*\*`(.+?)`\*\*", page)
    assert len(messages) > 15
    assert [message for message in messages if message not in SOURCES] == []


def commands():
    """The kit's command lines in code blocks and in running text, with their page."""
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:python|\.\.\.) -m wsss_kit ([^`#\n]+)", text):
            words = [PLACES.get(word, word) for word in line.split()]
            if "..." not in words and "COMMAND" not in words and "…" not in line:
                named = [] if any(word.startswith("--") for word in words) else ["--help"]
                yield pytest.param([*words, *named], id=f"{page.name}: {line.strip()}")


@pytest.mark.parametrize("words", [*commands()])
def test_every_command_line_of_the_pages_is_one(words):
    parse(words)
