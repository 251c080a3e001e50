r"""Score any list of background words on images, and bound differences of scores.

The raw map of a class is the ReLU of a sum over texts, and the weights of the sum are products of
probabilities. So every image goes through CLIP once, each text's part is kept, and the maps of any
subset of words cost products only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsss_kit.cam import normalize_cams, probability_weights, upsample
from wsss_kit.checks import check_word
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.evaluation.background import CONSTANTS
from wsss_kit.evaluation.confusion import check_complete, divide, mean_of, resampled
from wsss_kit.evaluation.prompt_ranking import sharpness
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.clip_es import CLIPES, OpenedImage
from wsss_kit.methods.clip_es.views import EPS, merged, scaled
from wsss_kit.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd

TRACKS = {"agreement": 0.84, "sharpness": 0.62, "share": 0.85}
"""Objectives that need no ground truth, see `WordScores`, and their rank correlation with mIoU:
`rank_correlation` on 100 images of the embedded world's ``val``, its twelve words, constant 0.4,
the lower of two worlds (seed 0: 0.96, 0.70, 0.90)."""
LEAST_TRACK = 0.5
_MOST_PIXELS = 2**23  # of maps at a time


class WordSubsets:
    """CLIP-ES's maps of one image for any subset of background words.

    Args:
        opened: the image, with its classes.
        prompts: whose backgrounds are the P words; None for those it was opened with.

    Raises:
        ValueError: if the method's maps are no softmax's, or its affinity depends on the words.
    """

    def __init__(self, opened: OpenedImage, prompts: Prompts | None = None) -> None:
        self._views, self._walk = opened.responses(prompts)
        self._n = len(opened.classes)

    def __call__(self, on: Tensor, *, box_threshold: float = 0.4) -> tuple[Tensor, Tensor, Tensor]:
        """Compute maps.

        Args:
            on: (V, P) bool, the words of each of V subsets.
            box_threshold: share of a map's maximum that is inside its box.

        Returns:
            (V, C, h, w) refined maps, not scaled; (V, C, h, w) the boxes; (V, C + P)
            probabilities, 0 for the words that are off.
        """
        (V, n), maps, probs = (len(on), self._n), [], []
        for view, logits, cells in self._views:
            is_on = torch.cat([on.new_ones(V, n), on], 1).to(logits.device)
            p = logits.masked_fill(~is_on, -math.inf).softmax(1)  # (V, T)
            classes = torch.arange(n, device=p.device).repeat(V)
            raw = (probability_weights(p.repeat_interleave(n, 0), classes) @ cells).relu()
            maps.append(view.put_back(scaled(raw.float().unflatten(1, view.grid))))
            probs.append(p.float())
        refined, boxes = self._walk(scaled(merged(maps)), box_threshold)
        return refined.unflatten(0, (V, n)), boxes.unflatten(0, (V, n)), probs[0]


class WordScores:
    """Score any list of words on images: an objective's parts, image by image.

    Args:
        method: whose maps are made.
        prompts: whose backgrounds are the P words.
        objective: ``"mIoU"`` with masks; without, ``"agreement"`` (IoU of an image's mask with
            that of its flipped copy, 1.25 times as large), ``"sharpness"`` (CLIP-ES's, negative)
            or ``"share"`` (of the probability that words take from cells outside all boxes).
        rule: the background rule that makes masks.
    """

    def __init__(
        self, method: CLIPES, prompts: Prompts, *, objective: str, rule: BackgroundRule | None
    ) -> None:
        check_word("objective", objective, ("mIoU", *TRACKS))
        if objective in ("mIoU", "agreement") and rule is None:
            raise ValueError(f"{objective} is of masks, and rule is None; give a BackgroundRule")
        self.method, self.prompts, self.objective, self.rule = method, prompts, objective, rule
        self.names: list[str] = []
        self._images: list[_Image] = []

    def add(self, sample: Sample, mask: Tensor | None = None) -> None:
        """Run CLIP on an image; ``mask`` (H, W) is its ground truth, of mIoU alone."""
        self.names.append(sample.name)
        on = (sample.labels > 0).nonzero().flatten()
        (H, W), opened, other, patches = sample.image.shape[1:], None, None, None
        if len(on):
            opened = self._open(sample.image, sample.labels)
            if self.objective == "share":
                patches = opened.claims(self.prompts).flatten(1)  # (T, N)
        if len(on) and self.objective == "agreement":
            larger = upsample(sample.image[None], (round(1.25 * H), round(1.25 * W)))[0]
            other = WordSubsets(self._open(larger.flip(-1), sample.labels), self.prompts)
        subsets = None if opened is None else WordSubsets(opened, self.prompts)
        truth = None if mask is None else torch.as_tensor(mask).numpy().astype(np.int64)
        self._images.append(_Image(subsets, other, patches, on.numpy(), (H, W), truth))

    def images_with(self) -> dict[str, int]:
        """Count the images that have each class."""
        seen = np.concatenate([image.classes for image in self._images])
        counts = np.bincount(seen, minlength=len(self.prompts.classes)).tolist()
        return dict(zip(self.prompts.classes, counts, strict=True))

    def _open(self, image: Tensor, labels: Tensor) -> OpenedImage:
        return self.method.open(image, labels).prepare()

    def __call__(self, on: np.ndarray, *, rule: BackgroundRule | None = None) -> np.ndarray:
        """Score V lists.

        Args:
            on: (V, P) bool.
            rule: another background rule than the usual one.

        Returns:
            (M, V, K, 2) float64: numerator and denominator of K parts for M images. A list's score
            is the mean of its K quotients, each of sums over images; mIoU has background and
            classes as parts, the other objectives have one part or the same.
        """
        words, rule = torch.as_tensor(on), rule or self.rule
        return np.stack([self._score(image, words, rule) for image in self._images])

    def _score(self, image: _Image, on: Tensor, rule: BackgroundRule | None) -> np.ndarray:
        K, of_masks = 1 + len(self.prompts.classes), self.objective in ("mIoU", "agreement")
        if (subsets := image.subsets) is None:
            empty = np.zeros((len(on), K if of_masks else 1, 2))
            if image.truth is not None:
                whole = np.bincount(image.truth[image.truth != IGNORE_INDEX], minlength=K)
                empty[:, :, 1] = whole
                empty[:, 0] = whole[0], whole.sum()
            return empty
        n = max(1, _MOST_PIXELS // (math.prod(image.size) * (1 + len(image.classes))))
        if of_masks and rule:
            return np.concatenate([self._iou(subsets, image, some, rule) for some in on.split(n)])
        return np.concatenate([self._by_cells(subsets, image, some) for some in on.split(n)])

    def _masks(
        self, subsets: WordSubsets, image: _Image, on: Tensor, rule: BackgroundRule
    ) -> np.ndarray:
        """Make masks (V, H, W) with the values of all classes."""
        refined = normalize_cams(subsets(on)[0], subtract_min=True, eps=EPS)
        maps = upsample(refined, image.size)
        local = rule.masks(maps, maps.new_ones(maps.shape[:2])).cpu().numpy()
        return np.concatenate([[0], image.classes + 1])[local]

    def _iou(
        self, subsets: WordSubsets, image: _Image, on: Tensor, rule: BackgroundRule
    ) -> np.ndarray:
        K, masks = 1 + len(self.prompts.classes), self._masks(subsets, image, on, rule)
        truth: Any = image.truth
        if image.other is not None:
            truth = self._masks(image.other, image, on, rule)[..., ::-1]
        truth = np.broadcast_to(truth, masks.shape)
        pairs = (np.arange(len(on))[:, None, None] * K + truth) * K + masks
        counts = np.bincount(pairs[truth != IGNORE_INDEX], minlength=len(on) * K * K)
        counts = counts.reshape(-1, K, K)
        hits = counts.diagonal(axis1=1, axis2=2)
        return np.stack([hits, counts.sum(1) + counts.sum(2) - hits], -1).astype(float)

    def _by_cells(self, subsets: WordSubsets, image: _Image, on: Tensor) -> np.ndarray:
        (_, boxes, probs), n = subsets(on), len(image.classes)
        if image.patches is None:  # sharpness
            value = -sharpness(probs[:, :n], torch.ones(len(on), n))
        else:
            is_on = torch.cat([on.new_ones(len(on), n), on], 1)
            p = image.patches * is_on[..., None]  # (V, T, N)
            p = p[:, n:].sum(1) / p.sum(1)
            outside = (boxes.amax(1) == 0).flatten(1)  # (V, N)
            value = (p * outside).sum(1) / outside.sum(1)  # NaN where boxes cover all
        known = value.isfinite()
        return torch.stack([value.where(known, 0), known], -1).double().cpu().numpy()[:, None]


class _Image(NamedTuple):
    subsets: WordSubsets | None
    other: WordSubsets | None
    patches: Tensor | None
    classes: np.ndarray
    size: tuple[int, int]
    truth: np.ndarray | None


class Changes(NamedTuple):
    """Differences of lists from one list, in points, with simultaneous intervals.

    Args:
        gain: (V,), as the bounds ``low`` and ``high``.
    """

    gain: np.ndarray
    low: np.ndarray
    high: np.ndarray


def changes(
    counts: np.ndarray, before: np.ndarray, *, alpha: float, n_bootstrap: int, seed: int
) -> Changes:
    """Compute differences of scores, paired over images, with simultaneous intervals.

    Args:
        counts: (M, V, K, 2) of V lists, from `WordScores`.
        before: (M, 1, K, 2) of the list that they are compared with, or (M, V, K, 2).
        alpha: probability that any of the intervals misses its difference.
        n_bootstrap: resamples of the images.
        seed: of the resampling.

    Returns:
        `Changes` of shape (V,).
    """
    before = np.broadcast_to(before, counts.shape)
    both = np.stack([counts, before], 1)  # (M, 2, V, K, 2)
    draws = resampled(both.reshape(len(both), -1), n_bootstrap=n_bootstrap, seed=seed)
    draws = score_of(draws.reshape(-1, *both.shape[1:]))
    gain = np.subtract(*score_of(both.sum(0)))
    return simultaneous(gain, draws[:, 0] - draws[:, 1], alpha)


def simultaneous(gain: np.ndarray, draws: np.ndarray, alpha: float) -> Changes:
    """Bound F differences at once (max-T): (F,) and (R, F) of resamples -> `Changes`."""
    draws = np.where(np.isfinite(draws), draws, gain)  # a class may be in no image of a resample
    error = draws.std(0)
    moved = np.divide(draws - gain, error, out=np.zeros_like(draws), where=error > 1e-9)
    above, below = (np.quantile(t.max(1), 1 - alpha / 2) for t in (moved, -moved))
    return Changes(gain, gain - above * error, gain + below * error)


def score_of(totals: np.ndarray) -> np.ndarray:
    """Compute scores in points from (..., K, 2) sums."""
    return 100 * mean_of(divide(totals[..., 0], totals[..., 1]))


def compare_lists(
    searched: WordScores,
    lists: Mapping[str, np.ndarray],
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor],
    **options: Any,
) -> pd.DataFrame:
    """Compare lists with the last of them on other images, by mIoU.

    Args:
        searched: scores of the images that were searched on; by mIoU they choose the background
            rule of each list, one of ``CONSTANTS``.
        lists: name -> (P,) bool.
        samples: the other images.
        masks: their ground truth.
        **options: of `changes`.

    Returns:
        A row for each list but the last: ``images``, ``score``, ``before`` (of the last),
        ``gain``, ``low``, ``high`` and ``rule``.
    """
    import pandas as pd

    check_complete("target", masks, [sample.name for sample in samples])
    rules = [searched.rule] * len(lists)
    if searched.objective == "mIoU":
        on = np.array(list(lists.values()))
        found = {r: score_of(searched(on, rule=r).sum(0)) for r in CONSTANTS}
        rules = [max(found, key=lambda r, i=i: found[r][i]) for i in range(len(lists))]
    scores = WordScores(searched.method, searched.prompts, objective="mIoU", rule=rules[0])
    for sample in samples:
        scores.add(sample, masks[sample.name])
    each = [scores(on[None], rule=r) for on, r in zip(lists.values(), rules, strict=True)]
    gains = changes(np.concatenate(each[:-1], 1), each[-1], **options)
    *score, own = (float(score_of(counts.sum(0))[0]) for counts in each)
    columns = {"images": len(samples), "score": score, "before": own, **gains._asdict()}
    columns["rule"] = [str(rule) for rule in rules[:-1]]
    return pd.DataFrame(columns, index=list(lists)[:-1])


def rank_correlation(
    method: CLIPES,
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor],
    words: Sequence[str],
    *,
    objective: str,
    rule: BackgroundRule | None,
    n_lists: int = 200,
    seed: int = 0,
) -> float:
    """Compute Spearman's correlation of an objective without masks and mIoU over random lists.

    Args:
        method: a `CLIPES`.
        samples: images with image-level labels.
        masks: image name -> (H, W) ground truth.
        words: P; a list has 1 to P of them, each number as often.
        objective: one of ``TRACKS``.
        rule: the background rule that makes masks.
        n_lists: how many lists.
        seed: of the lists.

    Returns:
        In [-1, 1]; NaN if one of the two is the same for all lists.
    """
    from scipy.stats import spearmanr

    rng, P = np.random.default_rng(seed), len(words)
    ranks = rng.random((n_lists, P)).argsort(1)
    on = ranks < rng.integers(1, P + 1, n_lists)[:, None]
    prompts, values = method.prompts.replace(backgrounds=words, class_backgrounds={}), []
    for name in (objective, "mIoU"):
        scores = WordScores(method, prompts, objective=name, rule=rule)
        for sample in samples:
            scores.add(sample, masks[sample.name])
        values.append(score_of(scores(on).sum(0)))
    return float(spearmanr(*values).statistic)


def check_track(
    scores: WordScores, samples: Sequence[Sample], masks: Mapping[str, Tensor] | None
) -> None:
    """Raise `ValueError` for an objective that does not follow mIoU.

    Args:
        scores: with the objective and the words.
        samples: images with image-level labels.
        masks: their ground truth; None for what is known of the embedded world.
    """
    objective, where = scores.objective, "on the embedded world"
    track = TRACKS[objective]
    if masks is not None:
        where, words = f"on these {len(samples)} images", scores.prompts.backgrounds
        options = {"objective": objective, "rule": scores.rule}
        track = rank_correlation(scores.method, samples, masks, words, **options)
    if not track >= LEAST_TRACK:
        problem = f"{objective} ranks lists of words with a correlation of {track:.2f} to mIoU"
        raise ValueError(
            f"{problem} {where}, expected at least {LEAST_TRACK}: it cannot choose words; give "
            "masks of some images and search by mIoU"
        )
