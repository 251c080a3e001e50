"""Look into sub-categories: names from CLIP, their most typical images, features on a plane."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit import checks
from wsss_kit.cam import upsample
from wsss_kit.checks import check_count, check_labels, check_samples, check_word
from wsss_kit.classes import Sample, labels_of
from wsss_kit.clip import FrozenModel
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.sc_cam.clusters import check_features
from wsss_kit.processes import progress
from wsss_kit.prompts.checks import checked_words, one_template

Words = Sequence[str] | Mapping[str, Sequence[str]]
"""Words for every class, or each class's own."""


@torch.no_grad()
def name_subcategories(
    clip: FrozenModel,
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
    checks.check_probability("threshold", threshold)
    template = one_template(template)
    classes: Any = method.classes_
    parts = divided(subcategories, len(classes))  # (M, C, k)
    if len(parts) != len(samples):
        counts = f"{len(samples)} samples and {len(parts)} rows of sub-categories"
        raise ValueError(f"{counts}, expected as many rows")
    if (parts.amax(2) > labels_of(samples)).any():
        problem = "a sample has a sub-category of a class that its labels lack"
        raise ValueError(f"{problem}; expected the samples that were clustered, in their order")
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


def exemplars(
    features: Tensor, subcategories: Tensor, *, n_classes: int, n: int = 4
) -> list[list[int]]:
    """Find the images nearest to the centre of each sub-category.

    Args:
        features: (M, D) or (M, C, D), what was clustered.
        subcategories: (M, C * k) of 0 and 1.
        n_classes: how many there are, C.
        n: images of each, at most.

    Returns:
        For each of the C * k sub-categories the rows of its images, the nearest first; empty
        where it has none.

    Raises:
        ValueError: if shapes do not fit, or a number is out of range.

    Example:
        >>> features = torch.tensor([[0.0], [0.4], [0.5], [9.0]])
        >>> exemplars(features, torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]), n_classes=1, n=2)
        [[1, 2], [3]]
    """
    check_features(features, 2, 3)
    check_count("n", n)
    parts = divided(subcategories, n_classes)  # (M, C, k)
    expected = features.shape[:2] if features.ndim == 3 else (len(features), n_classes)
    if tuple(parts.shape[:2]) != tuple(expected):
        raise ValueError(
            f"features have shape {tuple(features.shape)} and sub-categories "
            f"{tuple(subcategories.shape)}; expected (M, D) or (M, C, D) and (M, {n_classes} * k)"
        )
    nearest = []
    for column, of_images in enumerate(parts.flatten(1).T):
        values = features if features.ndim == 2 else features[:, column // parts.shape[2]]
        rows = of_images.nonzero().flatten()
        values = values.float().cpu()[rows]
        distances = (values - values.mean(0)).square().sum(1)
        nearest.append(rows[distances.argsort(stable=True)[:n]].tolist())
    return nearest


def plane(features: Tensor, *, how: str = "pca", seed: int = 0) -> Tensor:
    """Project features to points on a plane, to draw them.

    ``"pca"`` turns them so that they are seen from their widest side; distances on the plane are
    never larger than they were. ``"tsne"`` keeps neighbours together and gives up distances: what
    lies far apart there need not be far.

    Args:
        features: (N, D), N at least 2.
        how: ``"pca"`` or ``"tsne"``.
        seed: of t-SNE; PCA has no use for it.

    Returns:
        (N, 2) float32.

    Raises:
        ValueError: if there is no such view, or the features are no (N, D) of finite numbers with
            two rows at least.

    Example:
        >>> points = plane(torch.tensor([[0.0, 0, 0], [0, 0, 3], [0, 1, 0]]))
        >>> points.shape, bool((points[:, 0].diff().abs().max() - 3).abs() < 0.3)
        (torch.Size([3, 2]), True)
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    check_features(features, 2)
    checks.check_seed(seed)
    check_word("how", how, ("pca", "tsne"))
    N, D = features.shape
    if N < 2:
        raise ValueError(f"features have shape {(N, D)}, expected two rows at least")
    values = F.pad(features.detach().float().cpu(), (0, max(0, 2 - D))).numpy()
    fitted = PCA(2, svd_solver="full")
    if how == "tsne":
        fitted = TSNE(perplexity=min(30.0, (N - 1) / 3), init="pca", random_state=seed)
    return torch.from_numpy(fitted.fit_transform(values)).float()


def listed(names: Sequence[Mapping[str, float]], classes: Sequence[str], k: int) -> list[str]:
    """Return one name for each sub-category: the word with the highest lift, else its number.

    Args:
        names: C * k, from `name_subcategories`.
        classes: C names.
        k: sub-categories of each.

    Returns:
        C * k names, all different: the second of two equal ones has its number behind it.

    Raises:
        ValueError: if there are more or fewer names.

    Example:
        >>> listed([{"red boat": 0.4, "wooden boat": -0.2}, {}, {"red boat": 0.1}], ("boat",), 3)
        ['red boat', 'boat 2', 'red boat 3']
    """
    if len(names) != len(classes) * k:
        raise ValueError(f"{len(names)} names for {len(classes)} classes of {k}, expected as many")
    numbered: list[str] = []
    for i, lifts in enumerate(names):
        best = max(lifts, key=lifts.__getitem__, default=None)
        number = i % k + 1
        name = best if best is not None and lifts[best] > 0 else f"{classes[i // k]} {number}"
        numbered.append(name if name not in numbered else f"{name} {number}")
    return numbered


class Agreement(NamedTuple):
    """How two divisions of every class agree; NaN for a class that too few images show.

    Args:
        nmi: normalised mutual information of each class, in [0, 1]; 1 for the same division, 0
            for one that says nothing of the other.
        ari: adjusted Rand index of each class, 1 for the same division, 0 for chance.
    """

    nmi: tuple[float, ...]
    ari: tuple[float, ...]

    @property
    def mean_nmi(self) -> float:
        """Mean over the classes that have one."""
        return torch.tensor(self.nmi).nanmean().item()


class Purity(NamedTuple):
    """What a sub-category's images mostly are.

    Args:
        share: (C * k,) of the images that are of the most frequent kind; NaN where none counts.
        kind: (C * k,) int64, the column of that kind; -1 where none counts.
        size: (C * k,) int64, images that count.
    """

    share: Tensor
    kind: Tensor
    size: Tensor


def agreement(first: Tensor, second: Tensor, *, n_classes: int) -> Agreement:
    """Compare two divisions of C classes into sub-categories, over images with one of each.

    An image that two divisions put into several sub-categories of a class at once, as one with two
    different boats, says nothing about that class.

    Args:
        first: (M, C * k) of 0 and 1.
        second: (M, C * j) of 0 and 1.
        n_classes: how many there are, C.

    Returns:
        NMI and ARI of each class, as scikit-learn defines them.

    Raises:
        ValueError: if shapes do not fit, or something else than 0 and 1 arrives.

    Example:
        >>> found = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        >>> agreement(found, found.flip(1), n_classes=1).mean_nmi
        1.0
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    one, two = _of_same_images(first, second, n_classes)
    scores = []
    for c in range(n_classes):
        single = (one[:, c].sum(1) == 1) & (two[:, c].sum(1) == 1)
        pairs = [labels[single, c].argmax(1).numpy() for labels in (one, two)]
        measures = (normalized_mutual_info_score, adjusted_rand_score)
        scores.append(
            [float(score(*pairs)) if single.sum() > 1 else torch.nan for score in measures]
        )
    return Agreement(*zip(*scores, strict=True))


def stability(rounds: Sequence[Tensor], *, n_classes: int) -> list[Agreement]:
    """Compare each round's sub-categories with those of the round before.

    Args:
        rounds: R divisions (M, C * k), as `SCCAM.rounds_`.
        n_classes: how many there are, C.

    Returns:
        R - 1 comparisons; sub-categories that change little from one round to the next say that
        further rounds would change little as well.
    """
    return [agreement(before, after, n_classes=n_classes) for before, after in pairwise(rounds)]


def purity(subcategories: Tensor, kinds: Tensor, *, n_classes: int) -> Purity:
    """Find what each sub-category's images mostly are, over images with one kind of its class.

    Args:
        subcategories: (M, C * k) of 0 and 1.
        kinds: (M, C * j) of 0 and 1, what is known of them.
        n_classes: how many there are, C.

    Raises:
        ValueError: as `agreement`.
    """
    clusters, known = _of_same_images(subcategories, kinds, n_classes)
    single = (known.sum(2) == 1).float()  # (M, C)
    counts = torch.einsum("mck,mcj,mc->ckj", clusters, known, single)  # (C, k, j)
    size = counts.sum(2).flatten()
    most, subtype = counts.max(2)
    subtype = subtype + known.shape[2] * torch.arange(n_classes)[:, None]
    return Purity(most.flatten() / size, subtype.flatten().where(size > 0, -1), size.long())


def _of_same_images(first: Tensor, second: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return both divisions by class, see `divided`."""
    one, two = divided(first, n_classes), divided(second, n_classes)
    if len(one) != len(two):
        raise ValueError(f"{len(one)} images and {len(two)}, expected the same ones in order")
    return one, two


def divided(labels: Tensor, n_classes: int) -> Tensor:
    """Arrange sub-categories by class: (M, C * k) of 0 and 1 -> (M, C, k) float32 on the CPU.

    Raises:
        ValueError: if something else arrives.
    """
    check_count("n_classes", n_classes)
    check_labels(labels)
    if not labels.shape[1] or labels.shape[1] % n_classes:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected (M, {n_classes} * k)")
    return labels.detach().cpu().float().unflatten(1, (n_classes, -1))
