"""What becomes of a picture on the way from map to mask, each step made once and kept a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from wsss_kit.cam import upsample
from wsss_kit.classes import Sample
from wsss_kit.evaluation import BackgroundRule
from wsss_kit.masks import scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.recipes import clip_es_crf, clip_es_maps

STAGES = ("map", "refined", "scores", "mask", "error")
"""The steps in their order: the method's map, the map after its affinity, scores with background
and perhaps CRF, the mask, and where the mask is wrong."""
MOST_KEPT = 2**25
"""Bytes of results that are kept: enough to go back and forth."""


class Stages:
    """The steps of several methods on any picture.

    Args:
        methods: name to fitted method.

    Example:
        >>> from wsss_kit.methods.cam import CAM
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(2)
        >>> cam = CAM("paper", weights="web").fit(world, train_backbone=False, progress=False)
        >>> stages = Stages({"CAM": cam})
        >>> tuple(stages.maps("CAM", world[0]).shape), stages.has_affinity("CAM", world[0])
        ((8, 96, 96), False)
    """

    def __init__(self, methods: Mapping[str, CAMMethod]) -> None:
        self.methods = dict(methods)
        self._known: OrderedDict[Any, Any] = OrderedDict()

    def maps(self, method: str, sample: Sample) -> Tensor:
        """(C, H, W) the method's maps at the picture's size."""
        cams = self._output(method, sample)[0]
        return upsample(cams, sample.image.shape[1:])[0]

    def has_affinity(self, method: str, sample: Sample) -> bool:
        """Whether the method brings an affinity of its own, and so refined maps."""
        return self._output(method, sample)[1]

    def refined(self, method: str, sample: Sample) -> Tensor:
        """(C, H, W) after the method's own affinity; its maps where it has none."""
        if not self.has_affinity(method, sample):
            return self.maps(method, sample)

        on = sample.labels > 0

        def make() -> Tensor:
            images, labels = sample.image[None], sample.labels[None]
            return clip_es_maps(images, labels, method=self.methods[method])[0, on]

        return _spread(self._remembered(("refined", method, _key(sample)), make), on)

    def scores(self, method: str, sample: Sample, rule: BackgroundRule, *, crf: bool) -> Tensor:
        """(1 + C, H, W) refined maps with their background, through the dense CRF if wanted."""
        scores = rule.scores(self.refined(method, sample)[None])
        if not crf:
            return scores[0]

        on = torch.cat([torch.ones(1), sample.labels]) > 0

        def make() -> Tensor:
            images, labels = sample.image[None], sample.labels[None]
            return clip_es_crf(scores, images, labels, method=self.methods[method])[0, on]

        return _spread(self._remembered(("crf", method, _key(sample), rule), make), on)

    def mask(self, method: str, sample: Sample, rule: BackgroundRule, *, crf: bool) -> Tensor:
        """(H, W) int64."""
        scores = self.scores(method, sample, rule, crf=crf)
        return scores_to_masks(scores[None], sample.labels[None])[0]

    def forget(self, name: str) -> None:
        """Forget what was made of a picture, because another one has its name now."""
        for key in [key for key in self._known if key[2][0] == name]:
            del self._known[key]

    def _output(self, method: str, sample: Sample) -> tuple[Tensor, bool]:
        """The method's maps (1, C, h, w), and whether an affinity came with them."""

        def make() -> tuple[Tensor, bool]:
            cams, affinity = self.methods[method](sample.image[None], sample.labels[None])
            return cams.cpu(), affinity is not None

        return self._remembered(("output", method, _key(sample)), make)

    def _remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = make()
            held = sum(_bytes(value) for value in self._known.values())
            while held > MOST_KEPT and len(self._known) > 1:
                held -= _bytes(self._known.popitem(last=False)[1])
        self._known.move_to_end(key)
        return self._known[key]


def _spread(maps: Tensor, on: Tensor) -> Tensor:
    """Maps of the classes present as maps of all classes, the others zero."""
    everywhere = maps.new_zeros(len(on), *maps.shape[1:])
    everywhere[on] = maps
    return everywhere


def _bytes(value: Any) -> int:
    tensor = value if isinstance(value, Tensor) else value[0]
    return tensor.numel() * tensor.element_size()


def _key(sample: Sample) -> tuple[str, tuple[float, ...]]:
    return sample.name, tuple(sample.labels.tolist())
