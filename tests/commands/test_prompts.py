"""The command `prompts search`: files that other commands read."""

import re

import pandas as pd
from PIL import Image

from wsss_kit.__main__ import main
from wsss_kit.prompts import Prompts

SEARCH = ("prompts", "search", "--data", "paper", "--limit", "6", "--most", "2")


def test_found_words_are_files_that_masks_reads(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("rails\nfog\nsky\n", encoding="utf-8")
    files = ("--candidates", str(tmp_path / "words.txt"), "--out", str(tmp_path / "found.json"))
    held_out = ("--held-out", "test", "--held-out-limit", "3")
    assert main([*SEARCH, *files, *held_out]) == 0
    said, bars = capsys.readouterr()
    assert re.search(r"steps, about \d+ s in all: 1it", bars)
    assert said.startswith("kept: ") and "over the list of before, 3 held-out images" in said
    table = pd.read_csv(tmp_path / "found.csv", index_col="word")
    assert set(table.index) == {"rails", "fog", "sky"}
    best = Prompts.from_json(tmp_path / "found-best.json")
    assert set(best.backgrounds) <= {"rails", "fog", "sky"} and len(best.backgrounds) <= 2
    for name in ("found.png", "found-classes.png"):
        assert Image.open(tmp_path / name).width > 500
    masks = ("masks", "clip-es", "--data", "paper", "--limit", "1", "--out", str(tmp_path / "out"))
    assert main([*masks, "--prompts", str(tmp_path / "found-best.json")]) == 0


def test_what_the_command_refuses(tmp_path, capsys):
    out = ("--out", str(tmp_path / "x.json"), "--candidates")
    for more, said in (
        (("cow, sky",), "candidates has 'cow', a class; leave it out"),
        (("none.txt",), "none.txt"),
        (("sky", "--objective", "beauty"), "objective is 'beauty', expected"),
        (("sky", "--threshold", "7"), "threshold is 7"),
    ):
        assert main([*SEARCH, *out, *more]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
