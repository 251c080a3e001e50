"""Write the table of ``notebooks/backbones.md`` from the open_clip that is installed.

python -m tests.clip.table
"""

import logging
from pathlib import Path

import open_clip
import pytest

from tests.clip.shrunk import shrink
from wsss_kit.clip import FrozenCLIP, load_clip

PAGE = Path(__file__).parents[2] / "notebooks" / "backbones.md"
HEAD = "| Model | Maps by | Affinity |\n| --- | --- | --- |\n"


def row_of(name: str) -> str:
    """Open a model with fewer layers and say what it gives."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, name)
        try:
            clip = load_clip(name, device="cpu")
        except ValueError as error:
            assert "has the text tower" in str(error)
            return f"| `{name}` | refused | its text tower needs transformers and a download |"
    by = "closed form" if isinstance(clip, FrozenCLIP) else "differentiation"
    return f"| `{name}` | {by} | {'attention' if clip.attends else 'features'} |"


if __name__ == "__main__":
    logging.disable()
    text = PAGE.read_text(encoding="utf-8")
    rows = "\n".join(row_of(name) for name in sorted(open_clip.list_models(), key=str.casefold))
    PAGE.write_text(text[: text.index(HEAD)] + HEAD + rows + "\n", encoding="utf-8")
