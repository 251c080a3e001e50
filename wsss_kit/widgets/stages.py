"""The steps from map to mask for the widgets, each computed once and kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.masks import BackgroundRule, MapsOf, scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.pipeline import Pipeline

STAGES = ("map", "refined", "scores", "mask", "error")
"""The steps in their order: the method's map, the map after its affinity, scores with background
and perhaps CRF, the mask, and where the mask is wrong."""
MOST_KEPT = 2**25
"""Bytes of results that are kept: enough to go back and forth."""


class Stages:
    """The steps of several methods on any image.

    Args:
        methods: name to fitted method.

    Example:
        >>> from wsss_kit.methods.cam import CAM
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(2)
        >>> cam = CAM("paper", weights="web").fit(world, train_backbone=False, progress=False)
        >>> stages = Stages({"CAM": cam})
        >>> tuple(stages.maps("CAM", world[0]).shape), stages.has_affinity("CAM")
        ((8, 96, 96), False)
    """

    def __init__(self, methods: Mapping[str, CAMMethod]) -> None:
        self.methods = dict(methods)
        self._known: OrderedDict[Any, Tensor] = OrderedDict()

    def maps(self, method: str, sample: Sample) -> Tensor:
        """(C, H, W) the method's maps at the size of the image."""
        return self._maps("maps", method, sample, affinity=None)

    def has_affinity(self, method: str) -> bool:
        """Whether the method brings an affinity, and so refined maps."""
        return self.methods[method].brings_affinity

    def refined(self, method: str, sample: Sample) -> Tensor:
        """(C, H, W) after the method's own affinity; its maps where it has none."""
        if not self.has_affinity(method):
            return self.maps(method, sample)
        return self._maps("refined", method, sample, affinity="own")

    def scores(self, method: str, sample: Sample, rule: BackgroundRule, *, crf: bool) -> Tensor:
        """(1 + C, H, W) refined maps with their background, through the dense CRF if wanted."""
        scores = rule.scores(self.refined(method, sample)[None])
        if not crf:
            return scores[0]
        pipeline = Pipeline(self.methods[method], crf=True)
        return self._remembered(
            ("crf", method, _key(sample), rule),
            torch.cat([torch.ones(1), sample.labels]) > 0,
            lambda images, labels: pipeline.refine(scores, images, labels),
            sample,
        )

    def mask(self, method: str, sample: Sample, rule: BackgroundRule, *, crf: bool) -> Tensor:
        """(H, W) int64."""
        scores = self.scores(method, sample, rule, crf=crf)
        return scores_to_masks(scores[None], sample.labels[None])[0]

    def forget(self, name: str) -> None:
        """Forget the results of an image, because another one has its name now."""
        for key in [key for key in self._known if key[2][0] == name]:
            del self._known[key]

    def _maps(self, stage: str, method: str, sample: Sample, affinity: str | None) -> Tensor:
        make = Pipeline(self.methods[method], affinity=affinity).maps
        return self._remembered((stage, method, _key(sample)), sample.labels > 0, make, sample)

    def _remembered(self, key: Any, on: Tensor, make: MapsOf, sample: Sample) -> Tensor:
        """The channels of one image, computed once and kept for those that are ``on``."""
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = make(sample.image[None], sample.labels[None])[0, on].cpu()
            held = sum(map(_bytes, self._known.values()))
            while held > MOST_KEPT and len(self._known) > 1:
                held -= _bytes(self._known.popitem(last=False)[1])
        self._known.move_to_end(key)
        kept = self._known[key]
        channels = kept.new_zeros(len(on), *kept.shape[1:])
        channels[on] = kept
        return channels


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _key(sample: Sample) -> tuple[str, tuple[float, ...]]:
    return sample.name, tuple(sample.labels.tolist())
