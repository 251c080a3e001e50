r"""Which words are good: judged without any mask by sharpness, with masks by what they change.

CLIP-ES's sharpness (Eq. 9) of a way of asking: over pictures with several classes, the variance of
the classes' scores divided by their mean. Where one class takes all, the others' maps are pushed
away; so the lower, the better. The paper sums over the pictures; here it is the mean, which ranks
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
from wsss_kit.clip import FrozenCLIP
from wsss_kit.clip.samples import embedded, labels_for
from wsss_kit.evaluation import ERROR_KINDS, BackgroundRule, error_shares
from wsss_kit.evaluation.scoring import picture_counts
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.prompts.checks import checked_words, expected_one_of
from wsss_kit.prompts.prompts import FUSIONS, Prompts
from wsss_kit.training import progress

if TYPE_CHECKING:
    import pandas as pd


def sharpness(scores: Tensor, present: Tensor) -> Tensor:
    """Variance of the scores of the classes present, divided by their mean, picture by picture.

    Args:
        scores: (M, C) not negative.
        present: (M, C), above 0 for the classes that count.

    Returns:
        (M,); NaN for a picture with fewer than two classes, which says nothing.

    Example:
        >>> scores = torch.tensor([[0.25, 0.25, 0.5], [0.75, 0.25, 0.0], [1.0, 0.0, 0.0]])
        >>> present = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0]])
        >>> sharpness(scores, present).tolist()
        [0.0, 0.125, nan]
    """
    if scores.shape != present.shape or scores.ndim != 2:
        raise ValueError(
            f"scores have shape {tuple(scores.shape)} and present {tuple(present.shape)}, expected "
            "(M, C) for both"
        )
    on = (present > 0).to(scores)
    n = on.sum(1)
    mean = (scores * on).sum(1) / n
    variance = ((scores - mean[:, None]) ** 2 * on).sum(1) / n
    # where all scores are 0 they are equal, and equal scores are not sharp
    return (variance / mean.clamp_min(torch.finfo(scores.dtype).tiny)).where(n > 1, torch.nan)


def rank_templates(
    clip: FrozenCLIP,
    samples: Sequence[Sample],
    prompts: Prompts,
    templates: Sequence[str],
    *,
    shown: bool = True,
) -> pd.DataFrame:
    """Sharpness of every template, the best first: by CLIP's ordinary classification.

    Scores are the softmax over all C classes of CLIP's picture embedding.

    Args:
        clip: the model.
        samples: pictures with image-level labels; those with at least two classes count.
        prompts: class names and their synonyms.
        templates: texts with one ``{}``.
        shown: whether to show a bar.

    Returns:
        A table with the templates as its index: ``sharpness``, ``pictures`` that counted.

    Raises:
        ValueError: if no picture has two classes, a template is none, or labels and classes do not
            fit.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> templates = ["a photo of a {}", "a {} without background"]
        >>> clip, world = load_clip("paper", device="cpu"), PaperWorld(20)
        >>> rank_templates(clip, world, Prompts.paper(), templates, shown=False).columns.tolist()
        ['sharpness', 'pictures']
    """
    templates = checked_words(list(templates), "templates")
    asked = {template: prompts.replace(template=template) for template in templates}
    seen, labels = _several(clip, samples, prompts, shown=shown)
    return _ranked(clip, asked, seen, labels, "template")


def rank_synonyms(
    clip: FrozenCLIP,
    samples: Sequence[Sample],
    prompts: Prompts,
    name: str,
    phrases: Sequence[str],
    *,
    shown: bool = True,
) -> pd.DataFrame:
    """Sharpness of every phrase for one class, and of all together, fused in both ways.

    Args:
        clip: the model.
        samples: pictures with image-level labels; those with the class and another one count.
        prompts: all other words.
        name: the class.
        phrases: what may be said for it; the name itself may be among them.
        shown: whether to show a bar.

    Returns:
        A table with the phrases as its index, the best first: ``sharpness``, ``pictures``. Several
        phrases also have ``"all, one sentence"``, as CLIP-ES published it, and ``"all, mean
        feature"``; give the better to ``prompts.replace(synonyms=..., fusion=...)``.

    Raises:
        ValueError: as `rank_templates`, or if there is no such class.
    """
    if name not in prompts.classes:
        raise ValueError(f"there is no class {name!r}; {expected_one_of(name, prompts.classes)}")
    phrases = checked_words(list(phrases), "phrases")
    prompts = prompts.replace(fusion=FUSIONS[0])
    others = {k: v for k, v in prompts.synonyms.items() if k != name}
    asked = {each: prompts.replace(synonyms={**others, name: each}) for each in phrases}
    if len(phrases) > 1:
        together = prompts.replace(synonyms={**others, name: list(phrases)})
        asked["all, one sentence"] = together
        asked["all, mean feature"] = together.replace(fusion="feature")
    seen, labels = _several(clip, samples, prompts, shown=shown, among=name)
    return _ranked(clip, asked, seen, labels, "phrase")


def leave_one_out(
    method: CLIPES,
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor] | None = None,
    *,
    rule: BackgroundRule | None = None,
    words: Sequence[str] | None = None,
    shown: bool = True,
) -> pd.DataFrame:
    """What each background word does for each class: everything again without it.

    Every picture is opened once; each word left out is then a sum.

    Args:
        method: a `CLIPES`, fitted or not.
        samples: pictures with image-level labels.
        masks: picture name -> (H, W) ground truth; without masks sharpness alone is told.
        rule: the background rule that makes masks of refined maps, chosen on other pictures;
            needed with ``masks``.
        words: which background words; all unless given.
        shown: whether to show a bar.

    Returns:
        A table with one row for every word and class: ``word``, ``class`` (``"background"`` and
        ``"mean"`` among them), ``pictures`` with the class, and what the numbers become *minus*
        what they are with all words. ``sharpness``, of the probabilities among the classes present
        and the background words, in pictures with the class and another. With ``masks``, in points,
        ``iou`` and the shares of the error kinds: ``boundary``, ``missed``, ``spilled``,
        ``confused``. A negative ``iou`` says that the word is needed.

    Raises:
        ValueError: if a word is none of the method's, there is a rule without masks or masks
            without a rule, or a picture has no mask.

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
    import pandas as pd

    check_samples(samples)
    backgrounds = method.prompts.backgrounds
    words = checked_words(list(words or backgrounds), "words", among=backgrounds)
    if (masks is None) != (rule is None):
        raise ValueError(
            f"masks is {type(masks).__name__} and rule {rule}, expected both or none: a background "
            "rule makes masks of maps, and ground truth scores them"
        )
    missing = [] if masks is None else [s.name for s in samples if s.name not in masks]
    if missing:
        raise ValueError(f"{len(missing)} pictures have no mask, the first is {missing[0]!r}")
    classes = method.prompts.classes
    K = 1 + len(classes)
    counts = np.zeros((1 + len(words), 2, K, K), np.int64)
    sharp: list[list[Tensor]] = [[] for _ in range(1 + len(words))]
    rows = []  # labels of the pictures, one row each
    for sample in progress(samples, what="words", shown=shown, total=len(samples)):
        found = _without_each(method, sample, words)
        if masks is not None:
            predictions = [rule.masks(maps, sample.labels[None])[0] for maps, _ in found]
            counts += picture_counts(predictions, masks[sample.name], K)
        rows.append(sample.labels)
        for v, (_, probs) in enumerate(found):
            sharp[v].append(sharpness(probs[None], sample.labels[None])[0])
    present = torch.stack(rows) > 0  # (M, C)
    tables = [
        _per_class(classes, counts[v], torch.stack(sharp[v]), present, masks is not None)
        for v in range(1 + len(words))
    ]
    pictures = tables[0].pop("pictures")
    changes = []
    for word, table in zip(words, tables[1:], strict=True):
        change = table.drop(columns="pictures") - tables[0]
        change.insert(0, "pictures", pictures)
        change.insert(0, "word", word)
        changes.append(change.rename_axis("class").reset_index())
    return pd.concat(changes, ignore_index=True)[["word", "class", *changes[0].columns[2:]]]


def _without_each(
    method: CLIPES, sample: Sample, words: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Maps (1, C, H, W) and class probabilities (C,), with all words first, then without each."""
    size, C = tuple(sample.image.shape[1:]), len(sample.labels)
    on = sample.labels > 0
    if not on.any():
        nothing = torch.zeros(1, C, *size), torch.zeros(C)
        return [nothing] * (1 + len(words))
    opened = method.open(sample.image, sample.labels).prepare()
    found = []
    for without in ((), *((word,) for word in words)):
        made = opened.maps(without=without)
        maps, probs = torch.zeros(1, C, *size), torch.zeros(C)
        maps[0, on] = made.full_size(size).cpu()
        probs[on] = made.probs[: int(on.sum())].cpu()
        found.append((maps, probs))
    return found


def _per_class(
    classes: Sequence[str], counts: np.ndarray, sharp: Tensor, present: Tensor, scored: bool
) -> pd.DataFrame:
    """Numbers of one choice of words: rows background, classes and their mean."""
    import pandas as pd

    several = sharp.isfinite()
    values = {"pictures": [len(present), *present.sum(0).tolist(), len(present)]}
    of_class = [_mean(sharp[several & on]) for on in present.T]
    values["sharpness"] = [float("nan"), *of_class, _mean(sharp[several])]
    if scored:
        whole = counts.sum(0)
        hits = whole.diagonal()
        with np.errstate(invalid="ignore"):
            iou = 100 * hits / (whole.sum(0) + whole.sum(1) - hits)
        shares = 100 * error_shares(inside=counts[1], outside=counts[0])  # (K, 4)
        for name, column in (("iou", iou), *zip(ERROR_KINDS, shares.T, strict=True)):
            values[name] = [*column, float(np.nanmean(column))]
    return pd.DataFrame(values, index=["background", *classes, "mean"])


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else float("nan")


def _several(
    clip: FrozenCLIP,
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    shown: bool,
    among: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Unit embeddings (M, E) and labels (M, C) of the pictures with several classes."""
    labels = labels_for(samples, prompts)
    counts = labels.sum(1) > 1
    if among is not None:
        counts &= labels[:, prompts.classes.index(among)] > 0
    chosen = counts.nonzero().flatten().tolist()
    if not chosen:
        what = "two classes" if among is None else f"{among!r} and another class"
        raise ValueError(
            f"none of {len(samples)} pictures has {what}, and sharpness compares the classes of a "
            "picture; give pictures with several"
        )
    seen = embedded(clip, [samples[i] for i in chosen], what="pictures", shown=shown)
    return seen, labels[chosen]


def _ranked(
    clip: FrozenCLIP, asked: Mapping[str, Prompts], seen: Tensor, labels: Tensor, what: str
) -> pd.DataFrame:
    """Sharpness of several ways to say the classes, the lowest first."""
    import pandas as pd

    found = {}
    for key, prompts in asked.items():
        texts = clip.encode_sentences(prompts.class_sentences()).cpu()
        scores = (float(clip.logit_scale) * seen @ texts.T).softmax(1)  # (M, C)
        found[key] = {"sharpness": _mean(sharpness(scores, labels)), "pictures": len(seen)}
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis(what)
    return table.astype({"pictures": int}).sort_values("sharpness", kind="stable")
