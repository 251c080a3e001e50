"""CAMExplorer: any picture, any method, every step from map to mask and error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from wsss_kit.plot import overlay, show_stages
from wsss_kit.plot.canvas import picture_array
from wsss_kit.plot.regions import (
    ERROR_STYLES,
    Style,
    css_of,
    fitted_picture,
    paint_errors,
    paint_mask_named,
    pixels_png,
)
from wsss_kit.widgets.instrument import (
    Instrument,
    between,
    choice,
    column,
    dropdown,
    offer,
    row,
    slider,
)
from wsss_kit.widgets.pictures import Pictures
from wsss_kit.widgets.stages import STAGES, Stages
from wsss_kit.widgets.swipe import Swipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX = (392, 520)
"""Height and width of the picture on the screen."""
RULES = ("constant", "power")
_OWN = "own: "
_MOST_OWN = 5
"""Pictures of the reader's that are kept."""


class CAMExplorer(Instrument):
    """One picture at a time: map, refined map, scores, mask and error of every method.

    The handle on the picture swipes between what is asked for and something to compare it with. A
    picture file may be dropped on it, or opened by the button; it gets the chosen class as its one
    label, and no error is shown for it because nobody knows its mask.

    Args:
        methods: name to fitted method.
        samples: pictures with image-level labels; those without any are left out.
        masks: name to (H, W) ground truth; pictures without one have no error.
        classes: C names.
        threshold: of the constant background rule at first.

    Attributes:
        picture, method, class_name, stage: what is shown; ``stage`` is one of ``STAGES``.
        rule: ``"constant"`` with ``threshold``, or ``"power"`` with ``power``.
        crf: whether scores go through the dense CRF.
        opacity: weight of map or mask over the picture.
        compare: what is left of the handle: ``"picture"``, ``"ground truth"`` or another method.
        view: the `Swipe`, with both pictures as PNG.
        words, problem: what is shown and what went wrong, in words.

    Raises:
        ValueError: if there is no method or no picture with a class, labels and classes do not
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

    picture = traitlets.Unicode()
    method = traitlets.Unicode()
    class_name = traitlets.Unicode()
    stage = traitlets.Unicode("map")
    rule = traitlets.Unicode("constant")
    threshold = traitlets.Float(0.3)
    power = traitlets.Float(2.0)
    crf = traitlets.Bool(False)
    compare = traitlets.Unicode("picture")
    _KIND = "explorer"
    _STATE = (
        *("picture", "method", "class_name", "stage", "rule", "threshold", "power", "crf"),
        *("opacity", "compare"),
    )

    def __init__(
        self,
        methods: Mapping[str, CAMMethod],
        samples: Sequence[Sample],
        masks: Mapping[str, Tensor] | None = None,
        classes: Sequence[str] = (),
        *,
        threshold: float = 0.3,
    ) -> None:
        self._samples = Pictures(samples)
        check_probability("threshold", threshold)
        if not methods or not self._samples:
            raise ValueError(
                f"there are {len(methods)} methods and {len(self._samples)} pictures with a class, "
                "expected at least one of each"
            )
        self._masks, self._names = {} if masks is None else masks, tuple(classes)
        first = next(iter(self._samples.values()))
        if len(first.labels) != len(self._names):
            raise ValueError(
                f"{first.name!r} has {len(first.labels)} labels but there are {len(self._names)} "
                "classes; give the names that the labels stand for"
            )
        self._longest = max(first.image.shape[1:])
        self._stages, self._own = Stages(methods), {}
        self._made: dict[Any, Tensor] = {}  # for what is on the screen now
        state = {"picture": first.name, "method": next(iter(methods)), "threshold": threshold}
        super().__init__(**state, class_name=self._classes_of(first)[0])
        self.view = Swipe(BOX[1], BOX[0], takes_pictures=True)
        self.view.on_picture(self._taken)
        self._begin([row([column(self._controls(), 340), self.view])])

    def _controls(self) -> list[widgets.Widget]:
        rule = {"layout": {"width": "auto"}}
        self._pictures = dropdown("picture")
        self._methods = choice("method", list(self._stages.methods))
        self._classes = dropdown("class")
        self._compares = dropdown("compare")
        self._threshold = slider("threshold", 0.3, 0.02, 0.98, 0.02, **rule)
        self._power = slider("power", 2, 0.5, 10, 0.5, **rule)
        self._upload = widgets.FileUpload(
            accept="image/*", description="Open your own picture", layout={"width": "auto"}
        )
        self._upload.observe(self._uploaded, "value")
        crf = widgets.Checkbox(description="dense CRF", indent=False, layout={"width": "auto"})
        bound = {
            "picture": self._pictures,
            "method": self._methods,
            "class_name": self._classes,
            "stage": choice("stage", STAGES),
            "rule": choice("background", RULES),
            "threshold": self._threshold,
            "power": self._power,
            "crf": crf,
            "opacity": slider("opacity", 0.6, 0, 1, 0.05),
            "compare": self._compares,
        }
        controls = [self._bind(control, trait) for trait, control in bound.items()]
        return [self._upload, *controls]

    # what may be chosen

    @traitlets.validate("picture", "method", "class_name", "stage", "rule", "compare")
    def _one_of(self, proposal: Any) -> str:
        trait, value = proposal["trait"].name, proposal["value"]
        may = {  # of the other traits as they are
            "picture": [*self._samples, *self._own],
            "method": list(self._stages.methods),
            "class_name": self._classes_of(self.sample),
            "stage": STAGES,
            "rule": RULES,
            "compare": self._compares_here(),
        }
        return self._check_among(trait, value, may[trait])

    @traitlets.validate("threshold")
    def _share(self, proposal: Any) -> float:
        return between(proposal["value"], 0, 1)

    @traitlets.validate("power")
    def _exponent(self, proposal: Any) -> float:
        return between(proposal["value"], 0.5, 10)

    def _classes_of(self, sample: Sample) -> list[str]:
        if sample.name in self._own:
            return list(self._names)
        return [n for n, on in zip(self._names, sample.labels.tolist(), strict=True) if on]

    @property
    def sample(self) -> Sample:
        """The picture that is shown; one of the reader's has the chosen class as its label."""
        if self.picture not in self._own:
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
        sample = self.sample
        here = self._classes_of(sample)
        if self.class_name not in here:
            self.class_name = here[0]
        compares = self._compares_here()
        if self.compare not in compares:
            self.compare = "picture"
        offer(self._pictures, [*self._samples, *self._own])
        offer(self._classes, here)
        offer(self._compares, compares)
        self._threshold.layout.display = "none" if self.rule == "power" else ""
        self._power.layout.display = "" if self.rule == "power" else "none"

    def _compares_here(self) -> list[str]:
        truth = ["ground truth"] if self.picture in self._masks else []
        return ["picture", *truth, *(m for m in self._stages.methods if m != self.method)]

    # what is shown

    def _show(self) -> None:
        self._made.clear()
        large = fitted_picture(picture_array(self.sample.image), BOX)
        before, before_name = self._compared(large)
        after = self._painted(self.method, large)
        with self.view.hold_sync():
            self.view.before, self.view.before_name = pixels_png(before), before_name
            self.view.after = pixels_png(after)
            self.view.after_name = f"{self.method}: {self._what()}"
        self.words = self._in_words()

    def _what(self) -> str:
        of_class = self.stage in ("map", "refined", "scores")
        return f"{self.stage} of {self.class_name}" if of_class else self.stage

    def _compared(self, large: np.ndarray) -> tuple[np.ndarray, str]:
        """The picture left of the handle, and what it is."""
        if self.compare == "picture":
            return large, f"picture {self.picture}"
        if self.compare == "ground truth":
            truth = self._truth()
            return paint_mask_named(large, truth, self._names, self.opacity), "ground truth"
        return self._painted(self.compare, large), f"{self.compare}: {self._what()}"

    def _painted(self, method: str, large: np.ndarray) -> np.ndarray:
        """The stage of a method over the enlarged picture, (h, w, 3)."""
        errors = self._errors(method) if self.stage == "error" else None
        if errors is not None:
            return paint_errors(large, errors, self.opacity)
        if self.stage in ("mask", "error"):
            return paint_mask_named(large, self._mask(method), self._names, self.opacity)
        return overlay(large, self._map(method), alpha=self.opacity)

    def _map(self, method: str) -> Tensor:
        """(H, W) the chosen class's map at the chosen stage."""
        c, sample = self._names.index(self.class_name), self.sample
        if self.stage == "scores":
            return self._stages.scores(method, sample, self.background, crf=self.crf)[1 + c]
        if self.stage == "refined":
            return self._stages.refined(method, sample)[c]
        return self._stages.maps(method, sample)[c]

    def _mask(self, method: str) -> Tensor:
        """(H, W) the method's mask as the controls have it; made once for picture and words."""
        key = "mask", method
        if key not in self._made:
            sample, rule = self.sample, self.background
            self._made[key] = self._stages.mask(method, sample, rule, crf=self.crf)
        return self._made[key]

    def _truth(self) -> Tensor | None:
        """(H, W) ground truth, None for a picture without."""
        if "truth" not in self._made and self.picture in self._masks:
            self._made["truth"] = self._masks[self.picture]  # may be a file
        return self._made.get("truth")

    def _errors(self, method: str) -> Tensor | None:
        """(H, W) kinds of error, None without ground truth."""
        key, truth = ("errors", method), self._truth()
        if truth is None:
            return None
        if key not in self._made:
            self._made[key] = error_map(self._mask(method), truth)
        return self._made[key]

    def _in_words(self) -> str:
        said = f"{self.method}, {self._what()}"
        if self.stage in ("map", "refined"):
            shown = self._map(self.method)
            level = self.threshold
            said += f": {100 * (shown > level).float().mean():.0f} % of the pixels exceed {level:g}"
            if self.stage == "refined" and not self._stages.has_affinity(self.method):
                said += f"; {self.method} brings no affinity of its own, so this is its map"
            return f"{said}."
        rule = f"{self.background}, {'dense CRF' if self.crf else 'no CRF'}"
        said += f" by {rule}"
        truth = self._truth()
        if truth is None:
            share = 100 * (self._mask(self.method) > 0).float().mean()
            return (
                f"{said}: {share:.0f} % of the picture is no background; its true mask is unknown."
            )
        mask = self._mask(self.method)
        if self.stage == "error":
            return f"{said}: {self._errors_in_words(truth)}."
        value = 1 + self._names.index(self.class_name)
        iou = ConfusionMatrix(1 + len(self._names)).update(mask, truth).iou()[value].nan_to_num()
        return f"{said}: IoU of {self.class_name} in this picture {100 * iou:.0f} %."

    def _errors_in_words(self, truth: Tensor) -> str:
        errors = self._errors(self.method)
        counted = (truth != IGNORE_INDEX).sum().clamp(min=1)
        shares = [100 * float((errors == k + 1).sum() / counted) for k in range(len(ERROR_KINDS))]
        kinds = ", ".join(f"{kind} {s:.1f}" for kind, s in zip(ERROR_KINDS, shares, strict=True))
        return f"{sum(shares):.1f} % of the pixels are wrong ({kinds})"

    def words_html(self) -> str:
        """The words, with a legend where colours and hatches need one."""
        if self.stage == "error" and self.picture in self._masks:
            return escape(self.words) + "<br>" + _legend(ERROR_STYLES)
        return escape(self.words)

    # the reader's own pictures

    def open_picture(self, name: str, content: bytes) -> None:
        """Take in a picture file, as if it were dropped on the panel, and show it.

        It is made as small as the first of the other pictures, so that the networks see what they
        know.

        Args:
            name: of the file.
            content: its bytes: PNG, JPEG or whatever else Pillow opens.

        Raises:
            ValueError: if it is no picture.
        """
        image = read_image(content, called=name)
        H, W = image.shape[1:]
        scale = self._longest / max(H, W)
        if scale < 1:
            smaller = (max(1, round(H * scale)), max(1, round(W * scale)))
            image = interpolate(image[None], smaller, mode="bilinear", antialias=True)[0]
        key = _OWN + name
        self._own.pop(key, None)
        while len(self._own) >= _MOST_OWN:
            self._own.pop(next(key for key in self._own if key != self.picture))
        self._own[key] = image.clamp(0, 1)
        self._stages.forget(key)
        with self._answering():
            self.picture = key
            self._settle(None)
            self._show()

    def _taken(self, name: str, content: bytes) -> None:
        with self._answering():
            self.open_picture(name, content)

    def _uploaded(self, change: Any) -> None:
        for file in change.new:
            self._taken(file["name"], bytes(file["content"]))
        if change.new:
            self._upload.value = ()  # the same file may be opened again

    def still(self) -> Figure:
        """The picture and all stages of the chosen method, as a figure."""
        stages, sample = self._stages, self.sample
        c, rule = self._names.index(self.class_name), self.background
        maps = {"map": stages.maps(self.method, sample)[c]}
        if stages.has_affinity(self.method):
            maps["refined"] = stages.refined(self.method, sample)[c]
        maps["scores"] = stages.scores(self.method, sample, rule, crf=self.crf)[1 + c]
        masks = {"mask": self._mask(self.method)}
        truth = self._truth()
        if truth is not None:
            masks["ground truth"] = truth
        named = sample._replace(name=f"{self.method}, {self.class_name}")
        return show_stages(named, maps, masks, self._names, error=self._errors(self.method))


def _legend(styles: Mapping[str, Style]) -> str:
    """Names with their colours and hatches, as HTML."""
    mark = "display:inline-block;width:16px;height:12px;margin:0 4px 0 10px;border:1px solid #222"
    return "".join(
        f'<span style="{mark};background:{css_of(style)}"></span><span>{escape(name)}</span>'
        for name, style in styles.items()
    )
