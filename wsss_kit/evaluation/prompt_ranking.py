r"""Rank prompts: without masks by sharpness, with masks by the change of the scores.

CLIP-ES's sharpness (Eq. 9) of a prompt: over images with several classes, the variance of the
classes' scores divided by their mean. Where one class takes all, the others' maps are pushed
away; so the lower, the better. The paper sums over the images; here it is the mean, which ranks
alike and does not grow with their number. Scores are softmax probabilities, the variance is over
the classes present, divided by their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_samples
from wsss_kit.classes import Sample
from wsss_kit.clip import FrozenModel
from wsss_kit.evaluation import image_counts
from wsss_kit.evaluation.confusion import ERROR_KINDS, check_complete, divide, mean_of, unions_of
from wsss_kit.evaluation.error_kinds import error_shares
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.clip_es import CLIPES, OpenedImage
from wsss_kit.processes import progress
from wsss_kit.prompts import FUSIONS, Prompts
from wsss_kit.prompts.checks import check_known, checked_words, labels_for

if TYPE_CHECKING:
    import pandas as pd


def sharpness(scores: Tensor, present: Tensor) -> Tensor:
    """Divide the variance of the scores of the classes present by their mean, image by image.

    Args:
        scores: (M, C) not negative.
        present: (M, C), above 0 for the classes that count.

    Returns:
        (M,); NaN for an image with fewer than two classes.

    Example:
        >>> scores = torch.tensor([[0.25, 0.25, 0.5], [0.75, 0.25, 0.0], [1.0, 0.0, 0.0]])
        >>> present = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0]])
        >>> sharpness(scores, present).tolist()
        [0.0, 0.125, nan]
    """
    if scores.shape != present.shape or scores.ndim != 2:
        problem = f"scores have shape {tuple(scores.shape)} and present {tuple(present.shape)}"
        raise ValueError(f"{problem}, expected (M, C) for both")
    on = (present > 0).to(scores)
    n = on.sum(1)
    mean = (scores * on).sum(1) / n
    variance = ((scores - mean[:, None]) ** 2 * on).sum(1) / n
    # where all scores are 0 they are equal, and equal scores are not sharp
    return (variance / mean.clamp_min(torch.finfo(scores.dtype).tiny)).where(n > 1, torch.nan)


def rank_templates(
    clip: FrozenModel,
    samples: Sequence[Sample],
    prompts: Prompts,
    templates: Sequence[str],
    *,
    shown: bool = True,
) -> pd.DataFrame:
    """Compute the sharpness of every template by CLIP's ordinary classification, best first.

    Scores are the softmax over all C classes of CLIP's image embedding.

    Args:
        clip: the model.
        samples: images with image-level labels; those with at least two classes count.
        prompts: class names and their synonyms.
        templates: texts with one ``{}``.
        shown: whether to show a bar.

    Returns:
        A table with the templates as its index: ``sharpness``, ``images`` that counted.

    Raises:
        ValueError: if no image has two classes, a template is none, or labels and classes do not
            fit.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> templates = ["a photo of a {}", "a {} without background"]
        >>> clip, world = load_clip("paper", device="cpu"), PaperWorld(20)
        >>> rank_templates(clip, world, Prompts.paper(), templates, shown=False).columns.tolist()
        ['sharpness', 'images']
    """
    templates = checked_words(list(templates), "templates")
    candidates = {template: prompts.replace(template=template) for template in templates}
    return _ranked(clip, samples, candidates, "template", shown=shown)


def rank_synonyms(
    clip: FrozenModel,
    samples: Sequence[Sample],
    prompts: Prompts,
    name: str,
    phrases: Sequence[str],
    *,
    shown: bool = True,
) -> pd.DataFrame:
    """Compute the sharpness of every phrase for one class, and of all, fused in both ways.

    Args:
        clip: the model.
        samples: images with image-level labels; those with the class and another one count.
        prompts: all other prompts.
        name: the class.
        phrases: synonyms; the name itself may be among them.
        shown: whether to show a bar.

    Returns:
        A table with the phrases as its index, the best first: ``sharpness``, ``images``. Several
        phrases also have ``"all, one sentence"``, as CLIP-ES published it, and ``"all, mean
        feature"``; give the better to ``prompts.replace(synonyms=..., fusion=...)``.

    Raises:
        ValueError: as `rank_templates`, or if there is no such class.
    """
    check_known([name], "there is no class", prompts.classes)
    phrases = checked_words(list(phrases), "phrases")
    prompts = prompts.replace(fusion=FUSIONS[0])
    others = {k: v for k, v in prompts.synonyms.items() if k != name}
    candidates = {each: prompts.replace(synonyms={**others, name: each}) for each in phrases}
    if len(phrases) > 1:
        together = prompts.replace(synonyms={**others, name: list(phrases)})
        candidates["all, one sentence"] = together
        candidates["all, mean feature"] = together.replace(fusion="feature")
    return _ranked(clip, samples, candidates, "phrase", shown=shown, among=name)


def leave_one_out(
    method: CLIPES,
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor] | None = None,
    *,
    rule: BackgroundRule | None = None,
    words: Sequence[str] | None = None,
    shown: bool = True,
) -> pd.DataFrame:
    """Compute the effect of each background word on each class by leaving it out.

    Every image is opened once; each word left out is then a sum.

    Args:
        method: a `CLIPES`, fitted or not.
        samples: images with image-level labels.
        masks: image name -> (H, W) ground truth; without masks there is only sharpness.
        rule: the background rule that makes masks of refined maps, chosen on other images;
            needed with ``masks``.
        words: which background words; all unless given.
        shown: whether to show a bar.

    Returns:
        A table with one row for every word and class: ``word``, ``class`` (``"background"`` and
        ``"mean"`` among them), ``images`` with the class, and the numbers without the word
        *minus* those with all words. ``sharpness`` is of the probabilities among the classes
        present and the background words, in images with the class and another. With ``masks``, in
        points, ``iou`` and the shares of the error kinds: ``boundary``, ``missed``, ``spilled``,
        ``confused``. A negative ``iou`` means that the word is needed.

    Raises:
        ValueError: if a word is none of the method's, there is a rule without masks or masks
            without a rule, or an image has no mask.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper())
        >>> world, rule = PaperWorld(6), BackgroundRule(threshold=0.4)
        >>> options = {"rule": rule, "words": ["grass", "sky"], "shown": False}
        >>> table = leave_one_out(method, world, world.masks, **options)
        >>> table.pivot(index="class", columns="word", values="iou").loc["mean"].notna().tolist()
        [True, True]
    """
    check_samples(samples)
    prompts = method.prompts
    words = checked_words(list(words or prompts.backgrounds), "words", among=prompts.backgrounds)
    if (masks is None) != (rule is None):
        raise ValueError(f"masks is {type(masks).__name__} and rule {rule}, expected both or none")
    if masks is not None:
        check_complete("target", masks, [sample.name for sample in samples])
    tally = WordTally(prompts, words, rule=rule)
    for sample in progress(samples, what="words", shown=shown, total=len(samples)):
        has_class = bool(sample.labels.any())
        opened = method.open(sample.image, sample.labels).prepare() if has_class else None
        tally.add(sample, opened, None if masks is None else masks[sample.name])
    return tally.changes()


class WordTally:
    """Sum up the scores of images with all words and with each left out.

    Args:
        prompts: may differ from those that the images were opened with.
        words: those of its backgrounds that are left out in turn; none for the numbers with all.
        rule: the background rule that makes masks; needed for images with ground truth.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper())
        >>> tally = WordTally(method.prompts, rule=BackgroundRule(threshold=0.4))
        >>> world = PaperWorld(2)
        >>> for sample in world:
        ...     opened = method.open(sample.image, sample.labels)
        ...     tally.add(sample, opened, world.masks[sample.name])
        >>> tally.per_class().columns.tolist()[:3]
        ['images', 'sharpness', 'iou']
    """

    def __init__(
        self, prompts: Prompts, words: Sequence[str] = (), *, rule: BackgroundRule | None = None
    ) -> None:
        self.prompts, self.words, self.rule = prompts, tuple(words), rule
        K, V = 1 + len(prompts.classes), 1 + len(self.words)
        self._counts = np.zeros((V, 2, K, K), np.int64)
        self._sharp: list[Tensor] = []  # (V,) of every image
        self._labels: list[Tensor] = []  # (C,) of every image

    def add(self, sample: Sample, opened: OpenedImage | None, mask: Tensor | None = None) -> None:
        """Add an image with all words, then without each.

        Args:
            sample: the image.
            opened: the same, open; None where no class is present.
            mask: (H, W) ground truth, to count pixels.
        """
        if mask is not None and self.rule is None:
            raise ValueError("there is a mask but no rule that makes masks of maps; give one")
        on, (H, W) = sample.labels > 0, sample.image.shape[1:]
        names = [self.prompts.classes[c] for c in on.nonzero().flatten().tolist()]
        predictions, sharp = [], []
        for without in ((), *((word,) for word in self.words)):
            maps, probs = torch.zeros(1, len(on), H, W), torch.zeros(len(on))
            if opened is not None:
                refined = opened.maps(self.prompts, classes=names, without=without)
                maps[0, on] = refined.full_size((H, W)).cpu()
                probs[on] = refined.probs[: len(names)].cpu()
            if mask is not None and self.rule is not None:
                predictions.append(self.rule.masks(maps, sample.labels[None])[0])
            sharp.append(sharpness(probs[None], sample.labels[None])[0])
        if mask is not None:
            self._counts += image_counts(predictions, mask, self._counts.shape[-1])
        self._sharp.append(torch.stack(sharp))
        self._labels.append(sample.labels)

    def per_class(self, without: int = 0) -> pd.DataFrame:
        """Compute the numbers of every class: rows background, classes and their mean.

        Args:
            without: 0 for all words, 1 + i without the word of this index.
        """
        import pandas as pd

        present = torch.stack(self._labels) > 0  # (M, C)
        sharp, counts = torch.stack(self._sharp)[:, without], self._counts[without]
        several = sharp.isfinite()
        means = [sharp[several & on].mean().item() for on in (*present.T, True)]  # NaN of none
        values = {
            "images": [len(present), *present.sum(0).tolist(), len(present)],
            "sharpness": [float("nan"), *means],
        }
        if counts.any():
            whole = counts.sum(0)
            iou = divide(100 * whole.diagonal(), unions_of(whole))
            shares = 100 * error_shares(inside=counts[1], outside=counts[0])  # (K, 4)
            for name, column in zip(("iou", *ERROR_KINDS), (iou, *shares.T), strict=True):
                values[name] = [*column, mean_of(column)]
        return pd.DataFrame(values, index=["background", *self.prompts.classes, "mean"])

    def changes(self) -> pd.DataFrame:
        """Compute the change of the numbers without each word, as `leave_one_out` returns it."""
        import pandas as pd

        whole = self.per_class()
        without = {word: self.per_class(v) for v, word in enumerate(self.words, 1)}
        changes = {w: (less - whole).assign(images=whole["images"]) for w, less in without.items()}
        return pd.concat(changes, names=["word", "class"]).reset_index()


def _ranked(
    clip: FrozenModel,
    samples: Sequence[Sample],
    candidates: Mapping[str, Prompts],
    what: str,
    *,
    shown: bool,
    among: str | None = None,
) -> pd.DataFrame:
    """Rank prompts by their sharpness on images with several classes, the lowest first."""
    import pandas as pd

    classes = next(iter(candidates.values())).classes
    labels = labels_for(samples, classes)
    counts = labels.sum(1) > 1
    if among is not None:
        counts &= labels[:, classes.index(among)] > 0
    chosen = counts.nonzero().flatten().tolist()
    if not chosen:
        missing = "two classes" if among is None else f"{among!r} and another class"
        raise ValueError(f"none of {len(samples)} images has {missing}, which sharpness compares")
    images = clip.encode_samples([samples[i] for i in chosen], what="images", shown=shown)
    table = pd.DataFrame(index=pd.Index(candidates, name=what))
    for key, prompts in candidates.items():
        texts = clip.encode_sentences(prompts.class_sentences()).cpu()
        scores = (float(clip.logit_scale) * images @ texts.T).softmax(1)  # (M, C)
        table.loc[key, "sharpness"] = sharpness(scores, labels[chosen]).mean().item()
    return table.assign(images=len(images)).sort_values("sharpness", kind="stable")
