"""Names for sub-categories, from a list of words and CLIP: "boat 3" reads "wooden boat"."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.cam import upsample
from wsss_kit.checks import check_probability, check_samples
from wsss_kit.classes import Sample, labels_of
from wsss_kit.clip import FrozenCLIP
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.sc_cam.look import divided
from wsss_kit.processes import progress
from wsss_kit.prompts.checks import checked_words, one_template

Words = Sequence[str] | Mapping[str, Sequence[str]]
"""Words for every class, or each class's own."""


@torch.no_grad()
def name_subcategories(
    clip: FrozenCLIP,
    method: CAMMethod,
    samples: Sequence[Sample],
    subcategories: Tensor,
    words: Words,
    *,
    template: str = "a {}",
    threshold: float = 0.3,
    shown: bool = True,
) -> list[dict[str, float]]:
    """Find what CLIP sees in the images of a sub-category and less in those of its siblings.

    Of every image CLIP is shown what the class's map shows, and spreads a probability over the
    words. A word's lift for a sub-category is its mean probability there minus the mean over the
    class's sub-categories, so that a word which goes with the class as a whole names none of them.

    Args:
        clip: the model.
        method: fitted; its maps say where the class is.
        samples: M images with labels, those that were clustered.
        subcategories: (M, C * k) of 0 and 1, as `SCCAM.subcategories_`.
        words: words such as ``("wooden", "red")``, which go before the class's name; for all
            classes, or class -> its words.
        template: what CLIP is told of "wooden boat".
        threshold: of the maps; what lies below is not shown. 0 shows the whole image.
        shown: whether to show a bar.

    Returns:
        For each of the C * k sub-categories name -> lift, the highest first; empty where it has no
        image, and for a class without words.

    Raises:
        ValueError: if there are no samples or words, a class is unknown, shapes do not fit, or
            ``threshold`` is not in [0, 1].

    Warns:
        UserWarning: if CLIP does not know a word.
    """
    check_samples(samples)
    check_probability("threshold", threshold)
    template = one_template(template)
    classes = method.classes_
    parts = divided(subcategories, len(classes))  # (M, C, k)
    if len(parts) != len(samples):
        raise ValueError(
            f"{len(samples)} samples and {len(parts)} rows of sub-categories, expected as many rows"
        )
    if (parts.amax(2) > labels_of(samples)).any():
        raise ValueError(
            "a sample has a sub-category of a class that its labels lack; expected the samples "
            "that were clustered, in their order"
        )
    names = _names(words, classes)
    scale = clip.logit_scale.float()
    texts = [clip.encode_text([template.format(n) for n in of]) if of else None for of in names]
    seen = [torch.zeros(len(samples), len(group)) for group in names]
    for i, sample in enumerate(progress(samples, what="names", shown=shown, total=len(samples))):
        present = [c for c in sample.labels.nonzero().flatten().tolist() if names[c]]
        if not present:
            continue
        cams = method(sample.image[None], sample.labels[None]).cams
        maps = upsample(cams, sample.image.shape[-2:])[0, present]  # (P, H, W)
        views = sample.image * (maps >= threshold)[:, None].to(sample.image)  # (P, 3, H, W)
        vectors = F.normalize(clip.encode_image(views).float(), dim=-1)
        for c, vector in zip(present, vectors, strict=True):
            seen[c][i] = (scale * vector @ texts[c].T).softmax(0).cpu()
    return [each for c in range(len(classes)) for each in _lifts(parts[:, c], seen[c], names[c])]


def _names(words: Words, classes: Sequence[str]) -> list[list[str]]:
    """Return the candidates of each class, "wooden boat" and so on."""
    if isinstance(words, Mapping):
        unknown = [name for name in words if name not in classes]
        if unknown or not words:
            raise ValueError(
                f"words names {unknown or 'no class'}, expected classes among {', '.join(classes)}"
            )
        names = {name: checked_words(each, f"words of {name}") for name, each in words.items()}
    else:
        names = dict.fromkeys(classes, checked_words(words, "words"))
    return [[f"{word} {name}" for word in names.get(name, ())] for name in classes]


def _lifts(parts: Tensor, seen: Tensor, names: Sequence[str]) -> list[dict[str, float]]:
    """Compute name -> lift for each sub-category of one class: (M, k) and (M, W) -> k."""
    size = parts.sum(0)  # (k,)
    means = (parts.T @ seen) / size.clamp(min=1)[:, None]  # (k, W)
    lift = means - means[size > 0].mean(0)
    order = lift.argsort(descending=True).tolist()
    return [
        {names[w]: round(lift[j, w].item(), 3) for w in order[j]} if size[j] else {}
        for j in range(len(size))
    ]
