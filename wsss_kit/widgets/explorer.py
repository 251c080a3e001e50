"""CAMExplorer: any image, any method, every step from map to mask and error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
import traitlets
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_kit.checks import check_probability
from wsss_kit.classes import IGNORE_INDEX, PAPER_CLASSES, Sample
from wsss_kit.data import read_image
from wsss_kit.evaluation import ERROR_KINDS, BackgroundRule, ConfusionMatrix, error_map
from wsss_kit.masks import MapsOf, scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import canvas, overlay, regions
from wsss_kit.widgets.instrument import Images, Instrument, column, row
from wsss_kit.widgets.screens import Swipe

BOX = (392, 520)  # height and width of the image on the screen
RULES = ("constant", "power")
STAGES = ("map", "refined", "scores", "mask", "error")
"""The steps in their order: the method's map, the map after its affinity, scores with background
and perhaps CRF, the mask, and where the mask is wrong."""
MOST_KEPT = 2**25  # bytes of results that are kept: enough to go back and forth


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
        compare: what is left of the handle: ``"picture"``, ``"ground truth"``, another method, or
            at the stage ``"scores"`` the ``"background"``.
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
        self._methods, self._own = dict(methods), {}  # the images of the reader
        self._kept: dict[Any, Tensor] = {}  # maps and scores, the last used at the end
        self._made: dict[Any, Any] = {}  # for what is on the screen now
        state = {"picture": first.name, "method": next(iter(methods)), "threshold": threshold}
        super().__init__(**state, class_name=self._classes_of(first.name)[0])
        self._upload = self._file_button("Open your own image", "image/*", self.open_image)
        self.view = Swipe(BOX[1], BOX[0])
        controls = [
            self._upload,
            self._control("picture"),
            self._buttons("method"),
            self._control("class_name", label="class"),
            self._buttons("stage"),
            self._buttons("rule", "background"),
            self._slider("threshold", 0.01),
            self._slider("power", 0.1),
            self._control("crf", widgets.Checkbox, "dense CRF", indent=False),
            self._slider("opacity", 0.05),
            self._control("compare"),
        ]
        self._begin([row([column(controls, 340), self.view])])

    def _choices(self) -> dict[str, Sequence[str]]:
        truth = ["ground truth"] if self._is_known else []
        scores = ["background"] if self.stage == "scores" else []
        others = [method for method in self._methods if method != self.method]
        return {
            "picture": [*self._samples, *self._own],
            "method": list(self._methods),
            "class_name": self._classes_of(self.picture),
            "stage": STAGES,
            "rule": RULES,
            "compare": ["picture", *scores, *truth, *others],
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
        if change is not None and (change.name, change.new) == ("stage", "scores"):
            self.compare = "background" if self.compare == "picture" else self.compare
        for rule, trait in (("constant", "threshold"), ("power", "power")):
            self._controls[trait].layout.display = "" if self.rule == rule else "none"

    @property
    def _is_known(self) -> bool:
        """Whether the image has a ground truth."""
        return self.picture in self._masks

    def _show(self) -> None:
        self._made.clear()
        large = regions.fitted_image(canvas.image_array(self.sample.image), BOX)
        after = self._painted(self.method, self.stage, large)
        self.view.show(*self._compared(large), after, f"{self.method}: {self._what()}")
        self.words = self._in_words()
        if self.picture in self._own and self._names == PAPER_CLASSES:
            known = "These networks know only drawings of the embedded world"
            self.words += f" {known}: on a photograph their maps mean nothing."

    def _what(self) -> str:
        of_class = self.stage in ("map", "refined", "scores")
        return f"{self.stage} of {self.class_name}" if of_class else self.stage

    def _compared(self, large: np.ndarray) -> tuple[np.ndarray, str]:
        """Return the image left of the handle, and its name."""
        if self.compare == "picture":
            return large, f"image {self.picture}"
        if self.compare == "ground truth":
            return self._painted(self.method, "ground truth", large), "ground truth"
        if self.compare == "background":
            score = self._scores(self.method)[0]
            return overlay(large, score, alpha=self.opacity), "score of the background"
        painted = self._painted(self.compare, self.stage, large)
        return painted, f"{self.compare}: {self._what()}"

    def _painted(self, method: str, stage: str, large: np.ndarray) -> np.ndarray:
        """Paint a stage of a method, or the ground truth, over the enlarged image, (h, w, 3)."""
        if stage == "error" and self._is_known:
            return regions.paint_errors(large, self._result(method, stage), self.opacity)
        if stage in ("mask", "error", "ground truth"):
            mask = self._result(method, "mask" if stage == "error" else stage)
            return regions.paint_mask_named(large, mask, self._names, self.opacity)
        return overlay(large, self._result(method, stage), alpha=self.opacity)

    def _result(self, method: str, stage: str) -> Tensor:
        """Compute a stage, (H, W), once for all that is on the screen; see `_compute`."""
        if (method, stage) not in self._made:
            self._made[method, stage] = self._compute(method, stage)
        return self._made[method, stage]

    def _compute(self, method: str, stage: str) -> Tensor:
        """Compute the chosen class's map at a stage, or the mask, its errors, the ground truth."""
        if stage == "ground truth":
            return self._masks[self.picture]  # which may be a file
        if stage == "error":
            return error_map(
                self._result(method, "mask"), self._result(self.method, "ground truth")
            )
        if stage == "mask":
            return scores_to_masks(self._scores(method)[None], self.sample.labels[None])[0]
        c = self._names.index(self.class_name)
        if stage == "scores":
            return self._scores(method)[1 + c]
        return self._maps(method, refined=stage == "refined")[c]

    def _maps(self, method: str, *, refined: bool) -> Tensor:
        """Compute maps at the size of the image, after the method's own affinity if it has one."""
        affinity = "own" if refined and self._methods[method].brings_affinity else None
        compute = Pipeline(self._methods[method], affinity=affinity).maps
        return self._remembered((method, affinity), self.sample.labels > 0, compute)  # (C, H, W)

    def _scores(self, method: str) -> Tensor:
        """Add the background to refined maps, and run the dense CRF if wanted: (1 + C, H, W)."""
        scores = self.background.scores(self._maps(method, refined=True)[None])
        if not self.crf:
            return scores[0]
        refine = partial(Pipeline(self._methods[method], crf=True).refine, scores)
        present = torch.cat([torch.ones(1), self.sample.labels]) > 0
        return self._remembered((method, self.background), present, refine)

    def _remembered(self, what: Any, on: Tensor, compute: MapsOf) -> Tensor:
        """Return the channels of the image, computed once and kept for those that are ``on``."""
        sample = self.sample
        key = (sample.name, tuple(sample.labels.tolist()), what)
        if key not in self._kept:
            with torch.no_grad():
                self._kept[key] = compute(sample.image[None], sample.labels[None])[0, on].cpu()
        self._kept[key] = kept = self._kept.pop(key)
        while sum(each.nbytes for each in self._kept.values()) > MOST_KEPT and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        channels = kept.new_zeros(len(on), *kept.shape[1:])
        channels[on] = kept
        return channels

    def _in_words(self) -> str:
        start = f"{self.method}, {self._what()}"
        if self.stage in ("map", "refined"):
            least = self.threshold if self.rule == "constant" else 0.5
            share = (self._result(self.method, self.stage) > least).float().mean()
            start += f": {100 * share:.0f} % of the pixels exceed {least:g}"
            if self.stage == "refined" and not self._methods[self.method].brings_affinity:
                start += f"; {self.method} brings no affinity of its own, so this is its map"
            return f"{start}."
        start += f" by {self.background}, {'dense CRF' if self.crf else 'no CRF'}"
        mask = self._result(self.method, "mask")
        if not self._is_known:
            share = f"{100 * (mask > 0).float().mean():.0f} % of the image is no background"
            return f"{start}: {share}; its true mask is unknown."
        truth = self._result(self.method, "ground truth")
        if self.stage == "error":
            errors, counted = self._result(self.method, "error"), (truth != IGNORE_INDEX).sum()
            counts = errors.flatten().bincount(minlength=5)[1:5]
            shares = (100 * counts / counted.clamp(min=1)).tolist()
            kinds = ", ".join(f"{k} {s:.1f}" for k, s in zip(ERROR_KINDS, shares, strict=True))
            return f"{start}: {sum(shares):.1f} % of the pixels are wrong ({kinds})."
        value = 1 + self._names.index(self.class_name)
        iou = ConfusionMatrix(1 + len(self._names)).update(mask, truth).iou()[value].nan_to_num()
        return f"{start}: IoU of {self.class_name} in this image {100 * iou:.0f} %."

    def words_html(self) -> str:
        """Return the words, with a legend where colours and hatches need one."""
        is_explained = self.stage == "error" and self._is_known
        is_scaled = self.stage in ("map", "refined", "scores")
        legend = _LEGEND if is_explained else _SCALE if is_scaled else ""
        return escape(self.words) + (f"<br>{legend}" if legend else "")

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
        H, W = image.shape[1:]
        if max(H, W) > self._longest:
            smaller = regions.fitted((H, W), (self._longest, self._longest))
            image = interpolate(image[None], smaller, mode="bilinear", antialias=True)[0]
        key = f"own: {name}"
        self._own.pop(key, None)
        while len(self._own) >= 5:  # images of the reader's that are kept
            self._own.pop(next(key for key in self._own if key != self.picture))
        self._own[key] = image.clamp(0, 1)
        self._kept.clear()  # another image may have had this name
        self._answer(self._change, "picture", key)

    def still(self) -> Figure:
        """Draw the image and all stages of the chosen method, as a figure."""
        name = f"{self.method}, {self.class_name}"
        large = regions.fitted_image(canvas.image_array(self.sample.image))
        refined = ["refined"] if self._methods[self.method].brings_affinity else []
        known = ["ground truth", "error"] if self._is_known else []
        stages = ["map", *refined, "scores", "mask", *known]
        row = [canvas.Panel(self._painted(self.method, stage, large), stage) for stage in stages]
        alt = f"{name} in the steps {', '.join(['image', *stages])}."
        figure, _ = canvas.draw_grid(
            [[canvas.Panel(large, "image"), *row]], alt=alt, extra=(0, 0.45)
        )
        if known:
            regions.style_legend(figure, regions.ERROR_STYLES)
        figure.suptitle(name, fontsize=canvas.TITLE_SIZE)
        return figure


_MARK = "display:inline-block;width:16px;height:12px;margin:0 4px 0 10px;border:1px solid #222"
_LEGEND = "".join(
    f'<span style="{_MARK};background:{regions.css_of(style)}"></span><span>{escape(kind)}</span>'
    for kind, style in regions.ERROR_STYLES.items()
)
"""Kinds of error with their colours and hatches, as HTML."""
_COLOURS = ", ".join(map(to_hex, colormaps["viridis"](np.linspace(0, 1, 9))))
_SCALE = f"0 <span style='{_MARK};width:180px;background:linear-gradient(to right, {_COLOURS})'>"
_SCALE += "</span> 1"
"""The colours of maps and scores from 0 to 1, as HTML."""
