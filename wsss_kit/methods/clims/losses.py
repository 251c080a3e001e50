r"""The losses of CLIMS (Xie et al., CVPR 2022, section 3.3), and what computes them with CLIP.

A *pair* is an image and a class present in it. :math:`s^{oo}` is the cosine between the image
masked to the class's map and the class's text, :math:`s^{bo}` between what the map leaves and the
same text, :math:`s^{ob}_l` between the masked image and the text of a background. Cosines carry
no logit scale.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.cam import class_activation_maps
from wsss_kit.checks import check_floating, check_probability
from wsss_kit.classes import IMAGENET_MEAN, IMAGENET_STD, Sample
from wsss_kit.clip import FrozenModel
from wsss_kit.engine import Diverged
from wsss_kit.prompts import Prompts


class Judge:
    """A frozen CLIP with its texts encoded, which gives maps their losses.

    Args:
        clip: the evaluator.
        prompts: classes, backgrounds and which of these belong to which class.
        choices: a preset's values, see ``PRESETS`` of the method.

    Attributes:
        texts: (C, D) unit; several templates are averaged.
        backgrounds: (P, D) unit.
        related: (C, P), how much a background counts for a class.
    """

    def __init__(self, clip: FrozenModel, prompts: Prompts, choices: Mapping[str, Any]) -> None:
        self.clip, self.choices = clip, choices
        self.texts = clip.encode_sentences(prompts.class_sentences())
        self.backgrounds = clip.encode_sentences(prompts.background_sentences())
        backgrounds = [prompts.backgrounds_of(name) for name in prompts.classes]
        rows = [[word in words for word in prompts.backgrounds] for words in backgrounds]
        self.related = torch.tensor(rows, device=clip.device).float()  # (C, P)
        if choices["backgrounds"] == "texts":  # a mean over the texts of a class
            self.related = self.related / self.related.sum(1, keepdim=True).clamp(min=1)
        factors = [choices["heavy_classes"].get(name, 1.0) for name in prompts.classes]
        self.factors = torch.tensor(factors, device=clip.device)

    def losses(self, images: Tensor, maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the four losses, not yet weighted.

        Reference: the released code normalises images by ImageNet's statistics, masks them, and
        shows CLIP the result; the camera-ready code normalises by CLIP's.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            maps: (B, C, h, w) in [0, 1], with a graph.
            labels: (B, C) of 0 and 1.

        Returns:
            ``otm``, ``btm``, ``cbs`` and ``reg`` -> scalar on CLIP's device.
        """
        choices, clip = self.choices, self.clip
        maps, labels, pixels = (x.to(clip.device) for x in (maps.float(), labels, images))
        normalised = choices["pixels"] != "rgb"
        if normalised:
            of_clip = choices["pixels"] == "clip"
            statistics = (clip.mean, clip.std) if of_clip else (IMAGENET_MEAN, IMAGENET_STD)
            mean, std = (torch.as_tensor(v).to(pixels).view(3, 1, 1) for v in statistics)
            pixels = (pixels - mean) / std
        side, pairs = choices["side"], pairs_of(maps, labels)
        size = clip.whole_patches(pixels) if side is None else (side, side)
        masked = masked_images(pixels, pairs, size=size, align_corners=choices["align_corners"])
        texts = self.texts, self.backgrounds
        shown, left, other = cosines(clip, masked, pairs.classes, *texts, normalised=normalised)
        heavy, related = self.factors[pairs.classes], self.related[pairs.classes]
        cbs = cooccurrence_loss(other, threshold=choices["cbs_threshold"], related=related)
        if choices["backgrounds"] == "pairs":
            cbs = cbs / max(1, len(pairs.classes))
        counted = maps if choices["area"] == "all" or not len(pairs.classes) else pairs.maps
        return {
            "otm": object_text_loss(shown, weights=heavy),
            "btm": background_text_loss(left, weights=heavy),
            "cbs": cbs,
            "reg": area_loss(counted),
        }


class Pairs(NamedTuple):
    """Every class present in every image, and its map.

    Args:
        images: (pairs,) int64, which image of the batch.
        classes: (pairs,) int64, which class.
        maps: (pairs, h, w) in [0, 1].
    """

    images: Tensor
    classes: Tensor
    maps: Tensor


def pairs_of(maps: Tensor, labels: Tensor) -> Pairs:
    """Collect the pairs of a batch in the order of images and, in each, of classes.

    Args:
        maps: (B, C, h, w) in [0, 1].
        labels: (B, C) of 0 and 1.

    Example:
        >>> pairs = pairs_of(torch.rand(2, 3, 4, 4), torch.tensor([[0, 1, 1], [0, 0, 0]]))
        >>> pairs.images.tolist(), pairs.classes.tolist(), tuple(pairs.maps.shape)
        ([0, 0], [1, 2], (2, 4, 4))
    """
    images, classes = labels.to(maps.device).nonzero(as_tuple=True)
    return Pairs(images, classes, maps[images, classes])


def masked_images(
    pixels: Tensor, pairs: Pairs, *, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Compute the part of an image that each map shows, and the part that it leaves.

    Args:
        pixels: (B, 3, H, W), in whatever units the evaluator takes; hidden pixels are 0.
        pairs: from `pairs_of`.
        size: (H', W') that images and maps are resized to first.
        align_corners: of the resizing; the released code says True.

    Returns:
        (2 * pairs, 3, H', W'): first what all maps show, then all remainders.
    """
    options = {"size": size, "mode": "bilinear", "align_corners": align_corners}
    maps, pixels = (
        x if tuple(x.shape[-2:]) == size else F.interpolate(x, **options)
        for x in (pairs.maps[:, None], pixels)
    )
    shown = pixels[pairs.images]  # (pairs, 3, H', W')
    return torch.cat([shown * maps, shown * (1 - maps)])


def cosines(
    clip: FrozenModel,
    masked: Tensor,
    classes: Tensor,
    texts: Tensor,
    backgrounds: Tensor,
    *,
    normalised: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute cosines of masked images with texts; gradients reach the images, never CLIP.

    Args:
        clip: the evaluator.
        masked: (2 * pairs, 3, H, W) from `masked_images`, RGB in [0, 1].
        classes: (pairs,) int64, the class of each pair.
        texts: (C, D) unit embeddings of the classes.
        backgrounds: (P, D) unit embeddings of the backgrounds; P may be 0.
        normalised: whether the images are normalised already; CLIP then does not.

    Returns:
        (pairs,) what the map shows against its class, (pairs,) what it leaves against its class,
        and (pairs, P) what it shows against all background texts.
    """
    if not len(masked):
        none = masked.new_zeros(0)
        return none, none, none[:, None].expand(0, len(backgrounds))
    seen = F.normalize(clip.encode_image(masked, normalised=normalised), dim=-1)  # (2 * pairs, D)
    shown, left = seen.chunk(2)
    of_pairs = texts[classes]  # (pairs, D)
    return (shown * of_pairs).sum(1), (left * of_pairs).sum(1), shown @ backgrounds.T


SMALLEST, LARGEST = 1e-4, 0.9999
"""Where the released code cuts cosines off before it takes a logarithm."""


def object_text_loss(similarity: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""OTM: what the map shows should look like its class, :math:`-\mathrm{mean}\log s^{oo}`.

    Args:
        similarity: (pairs,) cosines in [-1, 1] of masked images and their class's text.
        weights: (pairs,) factors on the terms; the camera-ready code gives some classes 3.

    Returns:
        Scalar, 0 without a pair. Cosines are cut to [0.0001, 0.9999] first.

    Raises:
        ValueError: if a cosine is NaN or no cosine, or the shapes do not fit.

    Example:
        >>> object_text_loss(torch.tensor([1.0, 0.0])).round(decimals=3)
        tensor(4.6050)
    """
    return _mean(similarity, weights, lambda cosines: -cosines.log())


def background_text_loss(similarity: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""BTM: what the map leaves should not, :math:`-\mathrm{mean}\log(1 - s^{bo})`.

    Args:
        similarity: (pairs,) cosines of the images' remainders and their class's text.
        weights: as for `object_text_loss`.

    Returns:
        Scalar, 0 without a pair. Cosines are cut to [0.0001, 0.9999] first.

    Raises:
        ValueError: as `object_text_loss`.
    """
    return _mean(similarity, weights, lambda cosines: -(1 - cosines).log())


def cooccurrence_loss(
    similarity: Tensor, *, threshold: float | None, related: Tensor | None = None
) -> Tensor:
    r"""CBS: nor should it show a background, :math:`-\sum [s^{ob} > \tau] \log(1 - s^{ob})`.

    Reference: a sum over pairs and backgrounds, so it grows with the batch. The camera-ready code
    takes no threshold and only the backgrounds of a class; ``related`` says which.

    Args:
        similarity: (pairs, P) cosines of masked images and the texts of the backgrounds.
        threshold: cosines up to this cost nothing (0.26 for VOC, 0.285 for COCO); None lets none
            go free.
        related: (pairs, P) of 0 and 1, or weights: how much a background counts for a pair; None
            for all.

    Returns:
        Scalar, 0 where nothing exceeds the threshold.

    Raises:
        ValueError: as `object_text_loss`, and if the threshold is no number in [0, 1].

    Example:
        >>> cosines = torch.tensor([[0.2, 0.5], [0.26, 0.3]])
        >>> cooccurrence_loss(cosines, threshold=0.26).round(decimals=3)
        tensor(1.0500)
    """
    _check_cosines(similarity, 2)
    # a cosine of 1, as of an all too similar image, would cost without end
    costs = -(1 - similarity.clamp(max=LARGEST)).log()
    if threshold is not None:
        check_probability("threshold", threshold)
        costs = torch.where(similarity > threshold, costs, 0.0)
    return _weighted(costs, related, "related").sum()


def area_loss(maps: Tensor) -> Tensor:
    r"""REG: maps should be no larger than they must, :math:`\mathrm{mean}_{n,k,h,w} P`.

    Reference: the mean over all maps of the batch, absent classes included.

    Args:
        maps: (B, C, h, w) in [0, 1].

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: if a map is NaN, or there is none.

    Example:
        >>> area_loss(torch.full((2, 3, 4, 4), 0.25))
        tensor(0.2500)
    """
    check_floating(maps, "maps")
    if not maps.numel() or maps.isnan().any():
        raise ValueError(
            f"maps of shape {tuple(maps.shape)} hold {'NaN' if maps.numel() else 'nothing'}, "
            "expected numbers in [0, 1]; look at the network's last step"
        )
    return maps.mean()


def _mean(similarity: Tensor, weights: Tensor | None, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the mean cost over the pairs; without a pair 0, and still part of the graph."""
    _check_cosines(similarity, 1)
    costs = _weighted(cost(similarity.clamp(SMALLEST, LARGEST)), weights, "weights")
    return costs.mean() if costs.numel() else costs.sum()


def _weighted(costs: Tensor, weights: Tensor | None, name: str) -> Tensor:
    """Multiply costs by weights of the same shape, if there are some."""
    if weights is None:
        return costs
    if weights.shape != costs.shape:
        raise ValueError(f"{name} has shape {tuple(weights.shape)}, expected {tuple(costs.shape)}")
    return costs * weights.to(costs)


def _check_cosines(similarity: Tensor, ndim: int) -> None:
    check_floating(similarity, "similarity")
    if similarity.ndim != ndim:
        expected = "(pairs,)" if ndim == 1 else "(pairs, P)"
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}, expected {expected}")
    largest = similarity.detach().abs().amax().item() if similarity.numel() else 0.0
    if not largest <= 1.001:  # NaN fails
        raise ValueError(
            f"similarity ranges to {largest:.4g}, expected cosines in [-1, 1]: products of unit "
            "embeddings, without a logit scale"
        )


_AT_MAXIMUM, _AT_ZERO = 2.0, -3.0
"""Calibrated sigmoids: the logit at a class's usual maximum, and where the map is zero."""
_SATURATED = 0.003  # mean map of present classes from which on nothing is learned


@torch.no_grad()
def calibrate(backbone: nn.Module, head: Tensor, bias: Tensor, samples: Sequence[Sample]) -> None:
    """Scale and shift the head so that maps begin where the sigmoid has a slope.

    A class's usual maximum, the median over up to 400 images that show it, becomes 0.88, and a
    map of zero 0.05. The order of values within a map stays, and so does the map that is read out.

    Args:
        backbone: in evaluation mode afterwards.
        head: (C, D); changed in place.
        bias: (C,); changed in place.
        samples: training images.
    """
    backbone.eval()
    highest: list[list[float]] = [[] for _ in range(len(head))]
    for sample in list(samples[: min(400, len(samples))]):
        cams = class_activation_maps(backbone(sample.image[None].to(head)), head)
        for c in sample.labels.nonzero().flatten().tolist():
            highest[c].append(cams[0, c].amax().item())
    for c, values in enumerate(highest):
        usual = float(torch.tensor(values).median()) if values else 0.0
        if usual > 0:
            head[c] *= (_AT_MAXIMUM - _AT_ZERO) / usual
        bias[c] = _AT_ZERO


def check_maps(mean: float, where: str) -> None:
    """Raise `Diverged` for maps that are 0 or 1 everywhere."""
    if _SATURATED <= mean <= 1 - _SATURATED:
        return
    raise Diverged(
        f"training diverged in {where}: the maps of the classes present average {mean:.4f}, where "
        "a sigmoid has no slope left; try a lower learning rate, another weight of the area loss "
        "(reg), or a fitted CAM to start from"
    )
