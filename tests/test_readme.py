"""The README's code runs as it stands."""

import re
from pathlib import Path

from wsss_kit.commands import read_masks
from wsss_kit.commands.line import main

ROOT = Path(__file__).resolve().parent.parent


def test_its_lines_run_one_after_the_other(tmp_path):
    first, instruments, own = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S
    )
    names: dict = {}
    exec(first, names)
    assert len(names["masks"]) == 4 and names["masks"][0].shape == (96, 96)
    (tmp_path / "mine.py").write_text(own)
    words = ["masks", f"{tmp_path / 'mine.py'}:Dark", "--out", str(tmp_path / "dark")]
    assert main([*words, "--data", "paper", "--limit", "2", "--crf"]) == 0
    assert len(read_masks(tmp_path / "dark").masks) == 2
    exec(instruments, names)
    assert names["lab"].prompts.backgrounds == ("grass", "sky", "fog") and not names["lab"].problem


def test_the_lines_of_the_chinese_page():
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.zh-CN.md").read_text("utf-8"), re.S
    )
    names: dict = {}
    exec(code, names)
    assert len(names["masks"]) == 4


def test_every_file_and_folder_it_names_is_there():
    text = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"`((?:wsss_kit|notebooks|tests|data|\.github)/[\w./-]*)`", text)
    missing = [name for name in named if "runs" not in name and not (ROOT / name).exists()]
    assert named and not missing
