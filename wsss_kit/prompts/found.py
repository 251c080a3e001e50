"""What a search of background words found: two lists, and what each word is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_kit.evaluation.word_scores import changes
from wsss_kit.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd

SMALL = 0.5
"""Points of mIoU: a word whose interval stays below is dropped rather than undecided."""


@dataclass(frozen=True, kw_only=True)
class PromptSearch:
    """What a search of background words found.

    Args:
        prompts: the method's, with the kept words alone; its own where none was kept.
        best: the same with the list of the highest score, whose words are not all proven.
        words: a row for each candidate: ``status`` (kept, dropped, undecided), whether it is ``in
            best``, and what it is worth: ``gain`` with ``low`` and ``high``, in points, of the kept
            list with it against without; of undecided words also how many ``images`` would decide.
        by_class: a row for each candidate and class, ``gain``, ``low`` and ``high`` of its IoU.
        path: a row for each step: what joined, left or was exchanged, and the score of the list.
        confirmed: both lists against the method's own on held-out images, each with the background
            rule that is best for it on the searched ones; None without held-out images.
        made_by: objective, images, candidates, corrections and seed, as in the JSON.
    """

    prompts: Prompts
    best: Prompts
    words: pd.DataFrame
    by_class: pd.DataFrame
    path: pd.DataFrame
    confirmed: pd.DataFrame | None
    made_by: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write the result in a few lines."""
        lines = []
        for status in ("kept", "undecided", "dropped"):
            those = self.words.index[self.words["status"] == status]
            lines.append(f"{status}: {', '.join(those) or 'none'}")
        lines.append(f"best list: {', '.join(self.best.backgrounds)}")
        for name, row in () if self.confirmed is None else self.confirmed.iterrows():
            gain = f"{row['gain']:+.1f} points [{row['low']:+.1f}, {row['high']:+.1f}]"
            lines.append(f"{name}: {gain} over the list of before, {row['images']} held-out images")
        return "\n".join(lines)

    def to_json(self, path: str | Path | None = None, *, best: bool = False) -> str:
        """Write the kept words, or the ``best`` list, as `Prompts.from_json` reads them.

        ``made_by`` goes along and says where they come from.
        """
        return (self.best if best else self.prompts).to_json(path, made_by=self.made_by)


def worth_tables(
    counts: tuple[np.ndarray, np.ndarray],
    words: Sequence[str],
    kept: np.ndarray,
    best: np.ndarray,
    classes: Sequence[str],
    *,
    alpha: float,
    **resampling: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate what each of V candidates is worth to a list, see `PromptSearch`.

    Args:
        counts: (M, V, K, 2) of the list with each word, and without it.
        words: V of them.
        kept: (V,) bool, the words of the list.
        best: (V,) bool, those of the best list.
        classes: names of the K parts.
        alpha: probability that any interval of a table misses.
        **resampling: of `changes`.

    Returns:
        ``words`` and ``by_class``.
    """
    import pandas as pd

    found = changes(*counts, alpha=alpha, **resampling)
    status = np.where(kept, "kept", np.where(found.high < SMALL, "dropped", "undecided"))
    half = np.where(found.gain > 0, found.gain - found.low, found.high - found.gain)
    images, open_ones = np.full(len(words), np.nan), (status == "undecided") & (found.gain != 0)
    np.divide(half, found.gain, out=images, where=open_ones)  # half the width over the gain
    columns = {"word": words, "status": status, "in best": best, **found._asdict()}
    columns["images"] = np.ceil(len(counts[0]) * images**2)
    order = np.lexsort([-found.gain, status == "dropped", status != "kept"])
    table = pd.DataFrame(columns).set_index("word").iloc[order]
    parts = [each.reshape(len(each), -1, 1, 2) for each in counts]  # (M, V * K, 1, 2)
    each = changes(*parts, alpha=alpha, **resampling)  # all words and classes at once
    names = {"word": np.repeat(words, len(classes)), "class": [*classes] * len(words)}
    return table, pd.DataFrame({**names, **each._asdict()})
