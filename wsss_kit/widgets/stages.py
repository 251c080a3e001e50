"""Images by name, and the steps from map to mask for each, computed once and kept for a while."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checks import check_samples
from wsss_kit.classes import Sample
from wsss_kit.data.datasets import ByName
from wsss_kit.masks import BackgroundRule, MapsOf, scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.pipeline import Pipeline

STAGES = ("map", "refined", "scores", "mask", "error")
"""The steps in their order: the method's map, the map after its affinity, scores with background
and perhaps CRF, the mask, and where the mask is wrong."""
MOST_KEPT = 2**25  # bytes of results that are kept: enough to go back and forth


class Images(ByName):
    """Samples by their names, those without any label left out; the last few read are kept.

    Args:
        samples: images with image-level labels. Where labels are known without decoding, as in
            `LazySamples`, none is decoded before it is asked for.

    Attributes:
        labels: name to (C,) of 0 and 1.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> images = Images(PaperWorld(2))
        >>> list(images), images["val_0_000001"].name
        (['val_0_000000', 'val_0_000001'], 'val_0_000001')
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        check_samples(samples)
        if hasattr(samples, "image_labels"):
            known = list(zip(samples.names, samples.image_labels(), strict=True))
        else:
            known = [(sample.name, sample.labels) for sample in samples]
        self._names = self.labels = {name: labels for name, labels in known if labels.any()}
        places = {name: place for place, (name, _) in enumerate(known)}
        self._read = lru_cache(16)(lambda name: samples[places[name]])

    def __getitem__(self, name: str) -> Sample:
        return self._read(name)


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

    def maps(self, method: str, sample: Sample, affinity: str | None = None) -> Tensor:
        """Compute the method's maps at the size of the image, (C, H, W)."""
        make = Pipeline(self.methods[method], affinity=affinity).maps
        return self._remembered((method, affinity), sample.labels > 0, make, sample)

    def has_affinity(self, method: str) -> bool:
        """Return whether the method brings an affinity, and so refined maps."""
        return self.methods[method].brings_affinity

    def refined(self, method: str, sample: Sample) -> Tensor:
        """Refine maps by the method's own affinity if it has one, (C, H, W)."""
        return self.maps(method, sample, "own" if self.has_affinity(method) else None)

    def scores(self, method: str, sample: Sample, rule: BackgroundRule, *, crf: bool) -> Tensor:
        """Add the background to refined maps, and run the dense CRF if wanted: (1 + C, H, W)."""
        scores = rule.scores(self.refined(method, sample)[None])
        if not crf:
            return scores[0]
        refine = partial(Pipeline(self.methods[method], crf=True).refine, scores)
        present = torch.cat([torch.ones(1), sample.labels]) > 0
        return self._remembered((method, rule), present, refine, sample)

    def mask(self, method: str, sample: Sample, rule: BackgroundRule, *, crf: bool) -> Tensor:
        """Compute the mask, (H, W) int64."""
        scores = self.scores(method, sample, rule, crf=crf)
        return scores_to_masks(scores[None], sample.labels[None])[0]

    def forget(self, name: str) -> None:
        """Forget the results of an image, because another one has its name now."""
        for key in [key for key in self._known if key[0] == name]:
            del self._known[key]

    def _remembered(self, what: Any, on: Tensor, make: MapsOf, sample: Sample) -> Tensor:
        """Return the channels of one image, computed once and kept for those that are ``on``."""
        key = (sample.name, tuple(sample.labels.tolist()), what)
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = make(sample.image[None], sample.labels[None])[0, on].cpu()
            held = sum(each.nbytes for each in self._known.values())
            while held > MOST_KEPT and len(self._known) > 1:
                held -= self._known.popitem(last=False)[1].nbytes
        self._known.move_to_end(key)
        kept = self._known[key]
        channels = kept.new_zeros(len(on), *kept.shape[1:])
        channels[on] = kept
        return channels
