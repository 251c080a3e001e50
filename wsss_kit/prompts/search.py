r"""Search background words: which of many candidates are worth their place, with intervals.

First proven words: the one that gains most joins, or replaces another, if the interval of its gain
lies above 0; words that are no longer needed leave. Then the list is filled by the mean gain alone.

Intervals are simultaneous over all that is tried in a step: images are resampled in pairs, and the
largest of the studentised differences bounds them all (max-T; Romano and Wolf, 2005).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from wsss_kit.checks import check_count, check_probability, check_samples, check_seed
from wsss_kit.classes import Sample
from wsss_kit.evaluation.confusion import check_complete
from wsss_kit.evaluation.word_scores import (
    TRACKS,
    Changes,
    WordScores,
    changes,
    check_track,
    compare_lists,
    score_of,
)
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.processes import progress
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import checked_words
from wsss_kit.prompts.found import PromptSearch, worth_tables

FEWEST = 10  # images with a class that gets its own list: fewer prove nothing
Move = tuple[Any, Any]  # the word that joins and the one that leaves, by number


class Search:
    """A search in steps, for whoever wants to watch or stop it; see `search_backgrounds`.

    Add images to ``scores``, the `WordScores` of all candidates and of the method's own words, then
    go through `steps`; `result` may be asked at any time.
    """

    def __init__(
        self,
        method: CLIPES,
        candidates: Sequence[str],
        *,
        objective: str = "mIoU",
        rule: BackgroundRule | None = None,
        most: int = 6,
        alpha: float = 0.05,
        n_bootstrap: int = 2000,
        seed: int = 0,
    ) -> None:
        check_count("most", most)
        check_count("n_bootstrap", n_bootstrap)
        check_probability("alpha", alpha)
        check_seed(seed)
        candidates, prompts = checked_words(list(candidates), "candidates"), method.prompts
        objects = object_words(prompts)
        if named := [word for word in candidates if word.casefold() in objects]:
            raise ValueError(f"candidates has {named[0]!r}, a class; leave it out")
        words = list(dict.fromkeys([*candidates, *prompts.backgrounds]))
        prompts = prompts.replace(backgrounds=words, class_backgrounds={})
        self.scores = WordScores(method, prompts, objective=objective, rule=rule)
        self.most, self.alpha = most, alpha
        self._resampling = {"n_bootstrap": n_bootstrap, "seed": seed}
        self._words, self._tried = np.array(words), np.arange(len(candidates))
        self._now = self._kept = self._best = np.zeros(len(words), bool)
        self._by_class: dict[str, list[str]] = {}
        self._path: list[dict[str, Any]] = []

    def steps(self, *, per_class: bool = False) -> Iterator[dict[str, Any]]:
        """Search, a step at a time.

        Args:
            per_class: also search a list for each class alone, by its own IoU, where ``FEWEST``
                images or more have it.

        Yields:
            The row of the path: ``step``, ``word``, ``for`` which it came, ``gain`` with ``low``
            and ``high``, and of the new list ``words`` and ``score``.
        """
        counts = self.scores.images_with()
        for name in [c for c, n in counts.items() if per_class and n >= FEWEST]:
            self._now = np.zeros_like(self._now)
            yield from self._prove(name)
            if self._now.any():
                self._by_class[name] = self._words[self._now].tolist()
        self._now = np.zeros_like(self._now)
        for row in self._prove(None):
            self._kept = self._now
            yield row
        yield from self._fill()

    def seconds(self) -> float:
        """Estimate how long `steps` takes, from some of the first lists that it scores."""
        lists = np.eye(len(self._words), dtype=bool)[self._tried[:8]]
        start = perf_counter()
        self.scores(lists)
        each = (perf_counter() - start) / len(lists)
        return each * len(self._tried) * self.most * (1 + self.most)  # joins and exchanges

    def _prove(self, only: str | None) -> Iterator[dict[str, Any]]:
        """Let words join or be exchanged while the interval of the gain lies above 0."""
        barred: set[int] = set()
        for _ in range(4 * self.most):
            for moves in self._moves(barred):
                taken = yield from self._take(moves, only, proven=True)
                if taken:
                    break
            else:
                return
            while self._now.sum() > 1:  # does the list still need each of its words?
                worth = self._changes(*self._pair(only), only)
                on = self._now[self._tried]
                if (worth.low[on] > 0).all():
                    break
                idle = int(np.where(on, worth.low, np.inf).argmin())
                barred.add(idle)
                self._now = self._moved((None, idle))
                numbers = -worth.gain[idle], -worth.high[idle], -worth.low[idle]
                yield self._row((None, idle), numbers, only)

    def _fill(self) -> Iterator[dict[str, Any]]:
        """Let the best word join until there are enough; exchange while that raises the score."""
        self._best, best = self._now, self._score(None)
        while moves := self._moves()[0]:
            if not (yield from self._take(moves)):
                return  # no list has a score
            while (yield from self._take(self._moves()[1], least=1e-6)):
                pass
            if (score := self._path[-1]["score"]) > best + 1e-6:  # of the list as it is
                self._best, best = self._now, score

    def _moves(self, barred: Collection[int] = ()) -> tuple[list[Move], list[Move]]:
        """List the words that may join while there is room, and the exchanges."""
        out = [i for i in self._tried if not self._now[i] and i not in barred]
        adds: list[Move] = [(i, None) for i in out] if self._now.sum() < self.most else []
        return adds, [(i, o) for i in out for o in self._now.nonzero()[0].tolist()]

    def _take(
        self,
        moves: Sequence[Move],
        only: str | None = None,
        *,
        proven: bool = False,
        least: float = -math.inf,
    ) -> Generator[dict[str, Any], None, bool]:
        """Make the move that gains most and yield its row; return whether there was one.

        It gains ``least`` points or more; if ``proven``, with its interval above 0.
        """
        if not moves:
            return False
        after = self._counts([self._moved(move) for move in moves], only)
        found = self._changes(after, self._counts([self._now], only), only)
        allowed = found.low > 0 if proven else found.gain >= least
        if not allowed.any():
            return False
        best = int(np.where(allowed, found.gain, -np.inf).argmax())
        self._now = self._moved(moves[best])
        yield self._row(moves[best], [values[best] for values in found], only)
        return True

    def _row(self, move: Move, numbers: Sequence[float], only: str | None) -> dict[str, Any]:
        word, other = ("" if i is None else str(self._words[i]) for i in move)
        step = "exchange" if word and other else "add" if word else "remove"
        row = {"class": only or "", "step": step, "word": word or other, "for": other * bool(word)}
        row |= dict(zip(Changes._fields, map(float, numbers), strict=True))
        self._path.append(row | {"words": int(self._now.sum()), "score": self._score(only)})
        return self._path[-1]

    def _moved(self, move: Move) -> np.ndarray:
        on = self._now.copy()
        for word, is_on in zip(move, (True, False), strict=True):
            if word is not None:
                on[word] = is_on
        return on

    def _counts(self, lists: Sequence[np.ndarray], only: str | None) -> np.ndarray:
        counts = self.scores(np.array(lists))
        k = None if only is None else 1 + self.scores.prompts.classes.index(only)
        return counts if k is None else counts[:, :, k : k + 1]

    def _score(self, only: str | None) -> float:
        return float(score_of(self._counts([self._now], only).sum(0))[0])

    def _pair(self, only: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Count the list with each candidate, and the list without it."""
        on = self._now[self._tried]
        flips = [(None, i) if i_on else (i, None) for i, i_on in zip(self._tried, on, strict=True)]
        flipped = self._counts([self._moved(flip) for flip in flips], only)
        now, is_on = self._counts([self._now], only), on[None, :, None, None]
        return np.where(is_on, now, flipped), np.where(is_on, flipped, now)

    def _changes(self, after: np.ndarray, before: np.ndarray, only: str | None) -> Changes:
        alpha = self.alpha / (len(self.scores.prompts.classes) if only else 1)
        return changes(after, before, alpha=alpha, **self._resampling)

    def result(
        self, held_out: tuple[Sequence[Sample], Mapping[str, Tensor]] | None = None
    ) -> PromptSearch:
        """Return what was found so far, and score it once on held-out images and their masks."""
        import pandas as pd

        self._now, own = self._kept, self.scores.method.prompts
        best = self._best if self._best.any() else self._kept
        lists = {"kept": self._kept, "best": best, "before": np.isin(self._words, own.backgrounds)}
        words = {name: self._words[on].tolist() for name, on in lists.items()}
        made_by = {
            "objective": self.scores.objective,
            "images": len(self.scores.names),
            "rule": str(self.scores.rule),
            "candidates": self._words[self._tried].tolist(),
            **words,
            "intervals": f"{1 - self.alpha:.0%}, simultaneous over all candidates (max-T)",
            **self._resampling,
        }
        options, confirmed = {"alpha": self.alpha, **self._resampling}, None
        pair, words_tried = self._pair(None), self._words[self._tried].tolist()
        names = ["background", *own.classes] if pair[0].shape[2] > 1 else ["all"]
        is_in = (lists["kept"][self._tried], best[self._tried])
        worth, by_class = worth_tables(pair, words_tried, *is_in, names, **options)
        if held_out is not None:
            confirmed = compare_lists(self.scores, lists, *held_out, **options)
            made_by["held out"] = confirmed.to_dict("index")
        kept, filled = (own.with_backgrounds(words[x] or own.backgrounds) for x in ("kept", "best"))
        if self._by_class:
            union = list(dict.fromkeys([w for of in self._by_class.values() for w in of]))
            kept = own.replace(backgrounds=union, class_backgrounds=self._by_class)
        found = {"prompts": kept, "best": filled, "confirmed": confirmed, "made_by": made_by}
        path = pd.DataFrame(self._path)
        return PromptSearch(words=worth, by_class=by_class, path=path, **found)


def object_words(prompts: Prompts) -> set[str]:
    """Return the names and phrases of the classes in lower case, which are no background."""
    phrases = (word.strip() for phrase in prompts.phrases for word in phrase.split(","))
    return {word.casefold() for word in (*prompts.classes, *phrases)}


def stuff_words() -> list[str]:
    """Return COCO-Stuff's 91 names of what is no object, as phrases to try.

    Example:
        >>> words = stuff_words()
        >>> len(words), words[4], words[11]
        (91, 'building', 'tile ceiling')
    """
    names = json.loads(Path(__file__).with_name("stuff.json").read_text("utf-8"))["names"]
    parts = (name.partition("-") for name in names)
    return [noun if kind in ("", "other", "stuff") else f"{kind} {noun}" for noun, _, kind in parts]


def search_backgrounds(
    method: CLIPES,
    samples: Sequence[Sample],
    candidates: Sequence[str],
    *,
    masks: Mapping[str, Tensor] | None = None,
    rule: BackgroundRule | None = None,
    objective: str = "mIoU",
    per_class: bool = False,
    held_out: tuple[Sequence[Sample], Mapping[str, Tensor]] | None = None,
    shown: bool = True,
    **options: Any,
) -> PromptSearch:
    """Find the background words that are worth their place.

    Args:
        method: a `CLIPES`; its prompts give classes, templates and the list to compare with.
        samples: images with image-level labels to search on.
        candidates: words to try.
        masks: image name -> (H, W) ground truth; without, an objective without masks.
        rule: the background rule that makes masks of maps, the same for all lists.
        objective: see `WordScores`. One without masks is refused where it does not follow mIoU:
            on these images if there are masks, otherwise on the embedded world (``TRACKS``).
        per_class: whether each class gets its own list, as ``class_backgrounds`` of the result.
        held_out: other images and their masks, on which the lists are scored once.
        shown: whether to show a bar.
        **options: of `Search`: ``most`` words of a list, 6; ``alpha``, 0.05, the probability that a
            step takes a word which gains nothing; ``n_bootstrap``, ``seed``.

    Returns:
        `PromptSearch`; print it.

    Raises:
        ValueError: if a word is a class or comes twice, the objective cannot choose, an image has
            no mask, or there are masks without a rule.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> from wsss_kit.prompts import Prompts
        >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper())
        >>> world, rule = PaperWorld(12), BackgroundRule(threshold=0.4)
        >>> options = {"masks": world.masks, "rule": rule, "most": 1, "shown": False}
        >>> found = search_backgrounds(method, world, ["rails", "stone", "water"], **options)
        >>> found.words["status"].tolist()[0], found.best.backgrounds
        ('kept', ('rails',))
    """
    check_samples(samples)
    search = Search(method, candidates, objective=objective, rule=rule, **options)
    if masks is not None:
        check_complete("target", masks, [sample.name for sample in samples])
    elif objective == "mIoU":
        expected = f"masks, or an objective without: {', '.join(TRACKS)}"
        raise ValueError(f"masks is None, and mIoU needs ground truth; expected {expected}")
    if objective in TRACKS:
        check_track(search.scores, samples, masks)
    for sample in progress(samples, what="images", shown=shown, total=len(samples)):
        search.scores.add(sample, None if masks is None else masks[sample.name])
    steps = f"steps, about {search.seconds():.0f} s in all" if shown else "steps"
    for _ in progress(search.steps(per_class=per_class), what=steps, shown=shown):
        pass
    return search.result(held_out)
