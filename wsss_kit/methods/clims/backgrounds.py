"""Which backgrounds come with which class, from image-level labels and CLIP alone."""

from collections.abc import Sequence

from wsss_kit.checks import check_count, check_probability
from wsss_kit.classes import Sample
from wsss_kit.clip import FrozenCLIP
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import labels_for


def propose_backgrounds(
    clip: FrozenCLIP,
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    most: int = 3,
    least: float = 0.1,
    template: str = "a photo of {}",
    shown: bool = True,
) -> dict[str, dict[str, float]]:
    """Find background words that CLIP sees in images of a class and hardly in others.

    For every image CLIP spreads a probability over the background words. A word's lift for a
    class is its mean probability in the images with the class minus that in the images
    without. What is common everywhere has none, however often it comes with the class.

    Args:
        clip: the model.
        samples: M images with image-level labels; some with and some without each class.
        prompts: classes and background words.
        most: words a class gets at most.
        least: lift from which on a word counts, in [0, 1].
        template: what the words are said in; those of ``prompts`` may speak of things alone.
        shown: whether to show a bar.

    Returns:
        Class -> word -> lift, the largest first; a class may have none. For CLIMS, give those
        that have some to ``prompts.replace(class_backgrounds={"boat": ["water"], ...})``.

    Raises:
        ValueError: if there are no samples, a number is out of range, or labels and classes do
            not fit.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world, prompts = PaperWorld(40, split="train"), Prompts.paper(method="clims")
        >>> found = propose_backgrounds(load_clip("paper"), world, prompts, shown=False)
        >>> next(iter(found["boat"])), next(iter(found["cat"]))
        ('water', 'carpet')
    """
    check_count("most", most)
    check_probability("least", least)
    labels = labels_for(samples, prompts.classes)  # (M, C)
    texts = clip.encode_text(prompts.background_texts(template)).cpu()
    images = clip.encode_samples(samples, what="backgrounds", shown=shown)
    seen = (float(clip.logit_scale) * images @ texts.T).softmax(1).to(labels)  # (M, P)
    proposals = {}
    for name, having in zip(prompts.classes, labels.T > 0, strict=True):
        # NaN where no image has the class, or every one: no word counts
        lift = seen[having].mean(0) - seen[~having].mean(0)  # (P,)
        best = lift.argsort(descending=True)[:most].tolist()
        kept = [p for p in best if lift[p] >= least]
        proposals[name] = {prompts.backgrounds[p]: round(lift[p].item(), 3) for p in kept}
    return proposals
