"""Controls that answer at once: what they do not move was computed before."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_kit.checks import check_probability
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.plot import overlay

_WIDTH = 600  # pixels of the shown picture: map and mask beside each other


class ThresholdPicker(widgets.VBox):
    """Picture, method, class and threshold; below them the map and what exceeds the threshold.

    The maps are given, so that a move of the threshold costs no more than a comparison.

    Args:
        samples: pictures with at least one class; others are left out.
        maps: method -> name of a picture -> (C, H, W) in [0, 1].
        masks: name -> (H, W) ground truth, to say the IoU.
        classes: C names.
        threshold: where the slider stands at first.

    Raises:
        ValueError: if there is no method or no picture with a class, or ``threshold`` is outside
            [0, 1].

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(2)
        >>> maps = {"truth": {n: (world.masks[n] == torch.arange(1, 9)[:, None, None]).float()
        ...                   for n in world.names}}
        >>> picker = ThresholdPicker(world, maps, world.masks, world.classes)
        >>> picker.words.value.endswith("IoU with the true mask 100 %")
        True
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        maps: Mapping[str, Mapping[str, Tensor]],
        masks: Mapping[str, Tensor],
        classes: Sequence[str],
        *,
        threshold: float = 0.3,
    ) -> None:
        self._samples = {s.name: s for s in samples if s.labels.any()}
        if not maps or not self._samples:
            raise ValueError(
                f"there are {len(maps)} methods and {len(self._samples)} pictures with a class, "
                "expected at least one of each"
            )
        check_probability("threshold", threshold)
        for method, shown in maps.items():
            missing = [name for name in self._samples if name not in shown]
            if missing:
                raise ValueError(
                    f"{method!r} has no maps for {missing[0]!r}, expected some for every picture "
                    "with a class"
                )
        self._maps, self._masks, self._names = maps, masks, tuple(classes)
        names = list(self._samples)
        self.picture = widgets.Dropdown(options=names, description="picture")
        self.method = widgets.ToggleButtons(options=list(maps), description="method")
        self.name = widgets.Dropdown(description="class")
        self.threshold = widgets.FloatSlider(
            threshold, min=0.05, max=0.95, step=0.05, description="threshold"
        )
        self.view = widgets.Image(format="png", width=_WIDTH)
        self.words = widgets.HTML()
        self._offer_classes()
        self.picture.observe(self._offer_classes, "value")
        for control in (self.picture, self.method, self.name, self.threshold):
            control.observe(self._draw, "value")
        self._draw()
        super().__init__(
            [self.picture, self.method, self.name, self.threshold, self.view, self.words]
        )

    def _offer_classes(self, _: object = None) -> None:
        """The classes of the chosen picture; others have no map."""
        labels = self._samples[self.picture.value].labels
        self.name.options = [self._names[c] for c in labels.nonzero().flatten().tolist()]
        self.name.index = 0

    def _draw(self, _: object = None) -> None:
        if self.name.value is None:
            return
        picture, level = self.picture.value, self.threshold.value
        image, c = self._samples[picture].image, self._names.index(self.name.value)
        shown = self._maps[self.method.value][picture][c]  # (H, W)
        above = shown > level
        kept = torch.where(above, image, 0.25 * image).movedim(0, -1).numpy()  # (H, W, 3)
        pixels = np.concatenate([overlay(image, shown), kept], 1)
        drawn = Image.fromarray((255 * pixels).round().astype(np.uint8))
        size = (_WIDTH, _WIDTH * drawn.height // drawn.width)
        png = io.BytesIO()
        drawn.resize(size, Image.Resampling.NEAREST).save(png, "png")
        self.view.value = png.getvalue()
        truth = self._masks[picture]
        counted = truth != IGNORE_INDEX
        ours, theirs = above & counted, truth == c + 1
        iou = (ours & theirs).sum() / (ours | theirs).sum().clamp(min=1)
        self.words.value = (
            f"{self.method.value}, {self.name.value}: {100 * above.float().mean():.0f} % of the "
            f"pixels exceed {level:.2f}; IoU with the true mask {100 * iou:.0f} %"
        )
