"""CAMExplorer: any image, any method, every step from map to mask and error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
import torch
import traitlets
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_kit.checks import check_probability
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.data import read_image
from wsss_kit.evaluation import ERROR_KINDS, BackgroundRule, ConfusionMatrix, error_map
from wsss_kit.methods.base import CAMMethod
from wsss_kit.plot import overlay, regions, show_stages
from wsss_kit.plot.canvas import image_array
from wsss_kit.widgets.instrument import Instrument, column, row
from wsss_kit.widgets.screens import Swipe
from wsss_kit.widgets.stages import STAGES, Images, Stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX = (392, 520)  # height and width of the image on the screen
RULES = ("constant", "power")


class CAMExplorer(Instrument):
    """One image at a time: map, refined map, scores, mask and error of every method.

    The handle on the image swipes between what is asked for and something to compare it with. An
    image file may be dropped on it, or opened by the button; it gets the chosen class as its one
    label, and no error is shown for it because nobody knows its mask.

    Args:
        methods: name to fitted method.
        samples: images with image-level labels; those without any are left out.
        masks: name to (H, W) ground truth; images without one have no error.
        classes: C names.
        threshold: of the constant background rule at first.

    Attributes:
        picture, method, class_name, stage: what is shown; ``stage`` is one of ``STAGES``.
        rule: ``"constant"`` with ``threshold``, or ``"power"`` with ``power``.
        crf: whether scores go through the dense CRF.
        opacity: weight of map or mask over the image.
        compare: what is left of the handle: ``"picture"``, ``"ground truth"`` or another method.
        view: the `Swipe`, with both images as PNG.
        words, problem: what is shown and what went wrong, in words.

    Raises:
        ValueError: if there is no method or no image with a class, labels and classes do not
            fit, or ``threshold`` leaves [0, 1].

    Example:
        >>> from wsss_kit.notebook_data import make_clip_es, open_data
        >>> data = open_data("paper", n_train=1, n_val=1, n_test=3)
        >>> explorer = CAMExplorer(
        ...     {"CLIP-ES": make_clip_es(data)}, data.test, data.test_masks, data.classes
        ... )
        >>> explorer.stage = "mask"
        >>> explorer.words.startswith("CLIP-ES, mask by constant 0.3, no CRF: IoU of ")
        True
    """

    method = traitlets.Unicode()
    stage = traitlets.Unicode("map")
    rule = traitlets.Unicode("constant")
    threshold = traitlets.Float(0.3)
    power = traitlets.Float(2.0)
    crf = traitlets.Bool(False)
    _KIND = "explorer"
    _STATE = ("picture", "method", "class_name", "stage", "rule", "threshold", "power", "crf")
    _STATE += ("opacity", "compare")

    def __init__(
        self,
        methods: Mapping[str, CAMMethod],
        samples: Sequence[Sample],
        masks: Mapping[str, Tensor] | None = None,
        classes: Sequence[str] = (),
        *,
        threshold: float = 0.3,
    ) -> None:
        self._samples = Images(samples)
        check_probability("threshold", threshold)
        if not methods or not self._samples:
            counts = f"{len(methods)} methods and {len(self._samples)} images with a class"
            raise ValueError(f"there are {counts}, expected at least one of each")
        self._masks, self._names = {} if masks is None else masks, tuple(classes)
        first = next(iter(self._samples.values()))
        if len(first.labels) != len(self._names):
            problem = f"{len(first.labels)} labels but there are {len(self._names)} classes"
            raise ValueError(f"{first.name!r} has {problem}; give one name for each label")
        self._longest = max(first.image.shape[1:])
        self._stages, self._own = Stages(methods), {}
        self._made: dict[Any, Tensor] = {}  # for what is on the screen now
        state = {"picture": first.name, "method": next(iter(methods)), "threshold": threshold}
        super().__init__(**state, class_name=self._classes_of(first.name)[0])
        self._upload = self._file_button("Open your own image", "image/*", self.open_image)
        self.view = Swipe(BOX[1], BOX[0], lambda *file: self._answer(self.open_image, *file))
        crf = widgets.Checkbox(description="dense CRF", indent=False, layout={"width": "auto"})
        controls = [
            self._upload,
            self._dropdown("picture"),
            self._buttons("method"),
            self._dropdown("class_name", "class"),
            self._buttons("stage"),
            self._buttons("rule", "background"),
            self._slider("threshold", 0.02, 0.98, 0.02),
            self._slider("power", 0.5, 10, 0.5),
            self._bind("crf", crf),
            self._slider("opacity", 0, 1, 0.05),
            self._dropdown("compare"),
        ]
        self._begin([row([column(controls, 340), self.view])])

    def _choices(self) -> dict[str, Sequence[str]]:
        truth = ["ground truth"] if self.picture in self._masks else []
        return {
            "picture": [*self._samples, *self._own],
            "method": list(self._stages.methods),
            "class_name": self._classes_of(self.picture),
            "stage": STAGES,
            "rule": RULES,
            "compare": ["picture", *truth, *(m for m in self._stages.methods if m != self.method)],
        }

    def _classes_of(self, picture: str) -> list[str]:
        if picture in self._own:
            return list(self._names)
        labels = self._samples.labels[picture].tolist()
        return [name for name, on in zip(self._names, labels, strict=True) if on]

    @property
    def sample(self) -> Sample:
        """The image that is shown; one of the reader's has the chosen class as its label."""
        if self.picture in self._samples:
            return self._samples[self.picture]
        labels = torch.tensor([float(name == self.class_name) for name in self._names])
        return Sample(self.picture, self._own[self.picture], labels)

    @property
    def background(self) -> BackgroundRule:
        """The background rule as the controls have it."""
        if self.rule == "power":
            return BackgroundRule(power=self.power)
        return BackgroundRule(threshold=self.threshold)

    def _settle(self, change: Any) -> None:
        here = self._classes_of(self.picture)
        if self.class_name not in here:
            self.class_name = here[0]
        if self.compare not in self._choices()["compare"]:
            self.compare = "picture"
        for rule, trait in (("constant", "threshold"), ("power", "power")):
            self._controls[trait].layout.display = "" if self.rule == rule else "none"

    def _show(self) -> None:
        self._made.clear()
        large = regions.fitted_image(image_array(self.sample.image), BOX)
        after = self._painted(self.method, large)
        self.view.show(*self._compared(large), after, f"{self.method}: {self._what()}")
        self.words = self._in_words()

    def _what(self) -> str:
        of_class = self.stage in ("map", "refined", "scores")
        return f"{self.stage} of {self.class_name}" if of_class else self.stage

    def _compared(self, large: np.ndarray) -> tuple[np.ndarray, str]:
        """Return the image left of the handle, and its name."""
        if self.compare == "picture":
            return large, f"image {self.picture}"
        if self.compare == "ground truth":
            truth = self._truth()
            return regions.paint_mask_named(large, truth, self._names, self.opacity), "ground truth"
        return self._painted(self.compare, large), f"{self.compare}: {self._what()}"

    def _painted(self, method: str, large: np.ndarray) -> np.ndarray:
        """Paint the stage of a method over the enlarged image, (h, w, 3)."""
        if self.stage == "error" and self._truth() is not None:
            return regions.paint_errors(large, self._errors(method), self.opacity)
        if self.stage in ("mask", "error"):
            return regions.paint_mask_named(large, self._mask(method), self._names, self.opacity)
        return overlay(large, self._map(method, self.stage), alpha=self.opacity)

    def _map(self, method: str, stage: str) -> Tensor:
        """Compute the chosen class's map at a stage, (H, W)."""
        c, sample = self._names.index(self.class_name), self.sample
        if stage == "scores":
            return self._stages.scores(method, sample, self.background, crf=self.crf)[1 + c]
        compute = self._stages.refined if stage == "refined" else self._stages.maps
        return compute(method, sample)[c]

    def _once(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """Make what is on the screen once, for image and words."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _mask(self, method: str) -> Tensor:
        """Return the method's mask by the rule that is set, (H, W)."""
        make = partial(self._stages.mask, method, self.sample, self.background, crf=self.crf)
        return self._once(("mask", method), make)

    def _truth(self) -> Tensor | None:
        """Return the ground truth, (H, W), which may be a file; None for an image without."""
        if self.picture not in self._masks:
            return None
        return self._once("truth", lambda: self._masks[self.picture])

    def _errors(self, method: str) -> Tensor | None:
        """Return the kinds of error, (H, W), None without ground truth."""
        truth = self._truth()
        if truth is None:
            return None
        return self._once(("errors", method), lambda: error_map(self._mask(method), truth))

    def _in_words(self) -> str:
        start = f"{self.method}, {self._what()}"
        if self.stage in ("map", "refined"):
            share = 100 * (self._map(self.method, self.stage) > self.threshold).float().mean()
            start += f": {share:.0f} % of the pixels exceed {self.threshold:g}"
            if self.stage == "refined" and not self._stages.has_affinity(self.method):
                start += f"; {self.method} brings no affinity of its own, so this is its map"
            return f"{start}."
        start += f" by {self.background}, {'dense CRF' if self.crf else 'no CRF'}"
        mask, truth = self._mask(self.method), self._truth()
        if truth is None:
            share = f"{100 * (mask > 0).float().mean():.0f} % of the image is no background"
            return f"{start}: {share}; its true mask is unknown."
        if self.stage == "error":
            return f"{start}: {self._errors_in_words(truth)}."
        value = 1 + self._names.index(self.class_name)
        iou = ConfusionMatrix(1 + len(self._names)).update(mask, truth).iou()[value].nan_to_num()
        return f"{start}: IoU of {self.class_name} in this image {100 * iou:.0f} %."

    def _errors_in_words(self, truth: Tensor) -> str:
        errors, counted = self._errors(self.method), (truth != IGNORE_INDEX).sum().clamp(min=1)
        shares = [100 * float((errors == k + 1).sum() / counted) for k in range(len(ERROR_KINDS))]
        kinds = ", ".join(f"{error} {s:.1f}" for error, s in zip(ERROR_KINDS, shares, strict=True))
        return f"{sum(shares):.1f} % of the pixels are wrong ({kinds})"

    def words_html(self) -> str:
        """Return the words, with a legend where colours and hatches need one."""
        explained = self.stage == "error" and self.picture in self._masks
        return escape(self.words) + (f"<br>{_LEGEND}" if explained else "")

    def open_image(self, name: str, content: bytes) -> None:
        """Read an image file, as if it were dropped on the panel, and show it.

        It is made as small as the first of the other images, which the networks know.

        Args:
            name: of the file.
            content: its bytes: PNG, JPEG or whatever else Pillow opens.

        Raises:
            ValueError: if it is no image.
        """
        image = read_image(content, called=name)
        size = image.shape[1:]
        if max(size) > self._longest:
            smaller = regions.fitted(size, (self._longest, self._longest))
            image = interpolate(image[None], smaller, mode="bilinear", antialias=True)[0]
        key = f"own: {name}"
        self._own.pop(key, None)
        while len(self._own) >= 5:  # images of the reader's that are kept
            self._own.pop(next(key for key in self._own if key != self.picture))
        self._own[key] = image.clamp(0, 1)
        self._stages.forget(key)
        with self._answering():
            self.picture = key
            self._settle_and_show()

    def still(self) -> Figure:
        """Draw the image and all stages of the chosen method, as a figure."""
        has_affinity = self._stages.has_affinity(self.method)
        steps = ("map", "refined", "scores") if has_affinity else ("map", "scores")
        maps = {step: self._map(self.method, step) for step in steps}
        masks, truth = {"mask": self._mask(self.method)}, self._truth()
        if truth is not None:
            masks["ground truth"] = truth
        named = self.sample._replace(name=f"{self.method}, {self.class_name}")
        return show_stages(named, maps, masks, self._names, error=self._errors(self.method))


_MARK = "display:inline-block;width:16px;height:12px;margin:0 4px 0 10px;border:1px solid #222"
_LEGEND = "".join(
    f'<span style="{_MARK};background:{regions.css_of(style)}"></span><span>{escape(kind)}</span>'
    for kind, style in regions.ERROR_STYLES.items()
)
"""Kinds of error with their colours and hatches, as HTML."""
