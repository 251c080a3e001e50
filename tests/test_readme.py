"""The README's code runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_its_lines_run_one_after_the_other():
    first, instruments = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S
    )
    names: dict = {}
    exec(first, names)
    assert len(names["masks"]) == 4 and names["masks"][0].shape == (96, 96)
    exec(instruments, names)
    assert names["lab"].prompts.backgrounds == ("grass", "sky", "fog") and not names["lab"].problem


def test_every_file_and_folder_it_names_is_there():
    text = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"`((?:wsss_kit|notebooks|tests|data|\.github)/[\w./-]*)`", text)
    missing = [name for name in named if "runs" not in name and not (ROOT / name).exists()]
    assert named and not missing
