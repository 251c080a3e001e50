"""ErrorAtlas: what each class loses and by which kind of error, down to the worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from wsss_kit.classes import Sample
from wsss_kit.evaluation import (
    ERROR_KINDS,
    Report,
    boundary_band,
    error_map,
    error_shares,
    image_counts,
    only_counted,
)
from wsss_kit.plot import show_errors
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import ERROR_STYLES, fitted_image, paint_errors, paint_mask_named
from wsss_kit.widgets.instrument import Images, Instrument, column, row
from wsss_kit.widgets.screens import Bars, Swipe, bar

BOX = (320, 320)  # height and width of the image on the screen
ALL = "all classes"
COMPARES = ("picture", "ground truth", "prediction")


class Loss(NamedTuple):
    """What an image loses: its IoU and the shares of the four kinds of error."""

    iou: float
    shares: np.ndarray


class ErrorAtlas(Instrument):
    """Bars of every class's loss; press one for its worst images, press an image to see why.

    Args:
        samples: images.
        masks: method to its predicted masks, name to (H, W) int64.
        truth: name to (H, W) int64 ground truth.
        reports: method to what `evaluate` made of the same masks.

    Attributes:
        method: whose errors are shown.
        class_name: ``"all classes"``, ``"background"`` or a class.
        picture: one of `worst`.
        compare: what is left of the handle, one of ``COMPARES``.
        opacity: weight of the errors over the image.
        class_bars, image_bars, screen: two `Bars` and the `Swipe`.
        words, problem: what is shown and what went wrong, in words.

    Raises:
        ValueError: if there is no method, an image has no mask, or masks and reports do not belong
            together.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(3)
        >>> masks = {name: torch.zeros_like(world.masks[name]) for name in world.names}
        >>> protocol = Protocol("PaperWorld", "val")
        >>> report = evaluate(masks, world.masks, classes=world.classes, protocol=protocol)
        >>> atlas = ErrorAtlas(world, {"nothing": masks}, world.masks, {"nothing": report})
        >>> atlas.class_bars.click(world.classes[0])
        >>> atlas.class_name, atlas.problem
        ('boat', '')
    """

    method = traitlets.Unicode()
    class_name = traitlets.Unicode(ALL)
    opacity = traitlets.Float(0.7)
    _KIND = "atlas"
    _STATE = ("method", "class_name", "picture", "compare", "opacity")

    def __init__(
        self,
        samples: Sequence[Sample],
        masks: Mapping[str, Mapping[str, Tensor]],
        truth: Mapping[str, Tensor],
        reports: Mapping[str, Report],
    ) -> None:
        if not masks or set(masks) != set(reports):
            raise ValueError(f"masks of {[*masks]} and reports of {[*reports]}, expected the same")
        self._samples, self._truth = Images(samples, truth), truth
        self._masks, self._reports = dict(masks), dict(reports)
        self._values = next(iter(reports.values())).values
        if not self._samples:
            raise ValueError(f"none of {len(samples)} images has ground truth")
        for method, of_method in masks.items():
            missing = [name for name in self._samples if name not in of_method]
            if missing:
                raise ValueError(f"{method!r} has no mask for {missing[0]!r}; predict it too")
            if reports[method].values != self._values:
                problem = f"{method!r} has a report over {reports[method].values[1:]}"
                raise ValueError(f"{problem}, expected {self._values[1:]}, as the first has")
        self._counts: dict[tuple[str, str], np.ndarray] = {}  # of a method and an image
        super().__init__(method=next(iter(masks)), picture=next(iter(self._samples)))
        self.class_bars, self.image_bars = (
            Bars(width, BOX[0], partial(setattr, self, trait), ERROR_STYLES)
            for trait, width in {"class_name": 255, "picture": 289}.items()
        )
        self.screen = Swipe(BOX[1], BOX[0])
        controls = [self._control("compare", width="250px"), self._slider("opacity", 0.05, "250px")]
        panels = [column([bars], bars.width) for bars in (self.class_bars, self.image_bars)]
        self._begin([row([self._buttons("method"), *controls]), row([*panels, self.screen])])

    def _choices(self) -> dict[str, Sequence[str]]:
        return {
            "method": list(self._masks),
            "compare": COMPARES,
            "picture": list(self._samples),
            "class_name": [ALL, *self._reports[self.method].classes],
        }

    def _settle(self, change: Any) -> None:
        if self.class_name not in self._choices()["class_name"]:
            self.class_name = ALL
        changed = "class_name" if change is None else change.name
        if changed in ("method", "class_name"):
            self._show_classes()
            losses = self.worst()
            rows = [_loss_bar(name, loss, "IoU") for name, loss in losses.items()]
            self.image_bars.show(f"worst images, {self.class_name}: {len(losses)}", rows)
            if losses and (changed == "class_name" or self.picture not in losses):
                self.picture = next(iter(losses))  # methods are compared on one image

    def _show_classes(self) -> None:
        """Show stacked bars of the report, all classes first."""
        report = self._reports[self.method]
        rows = [_loss_bar(ALL, Loss(report.mean_iou, np.nanmean(report.error_shares, 0)), "mIoU")]
        for name, *loss in zip(report.classes, report.iou, report.error_shares, strict=True):
            rows.append(_loss_bar(name, Loss(*loss), "IoU"))
        self.class_bars.show("lost of 100 % IoU, and IoU", rows, legend=ERROR_KINDS)

    def worst(self) -> dict[str, Loss]:
        """Return up to twelve images with the chosen class, the lowest IoU first."""
        report, ious = self._reports[self.method], {}
        if self.class_name == ALL:
            ious = report.image_iou
        else:
            c = report.classes.index(self.class_name)
            pixels = zip(report.names, report.intersections[:, c], report.unions[:, c], strict=True)
            ious = {name: right / union for name, right, union in pixels if union}
        order = sorted((iou, name) for name, iou in ious.items() if name in self._samples)
        return {name: self._loss_of(name) for _, name in order[:12]}

    def _loss_of(self, name: str) -> Loss:
        """Return the loss of the chosen class in an image, NaN where it is in neither mask."""
        report, key = self._reports[self.method], (self.method, name)
        if key not in self._counts:
            keep, K = np.flatnonzero(np.isin(self._values, report.classes)), len(self._values)
            truth = torch.as_tensor(self._truth[name]).long()
            band = boundary_band(truth, report.settings.get("boundary"))
            masks, counted = [self._masks[self.method][name]], only_counted(truth, keep, K)
            (self._counts[key],) = image_counts(masks, counted, K, band=band)
        outside, inside = self._counts[key]
        chosen = (outside + inside).sum(1) > 0  # in the target, as the report's image_iou
        if self.class_name != ALL:
            chosen = np.array(self._values) == self.class_name
        if not chosen.any():
            return Loss(np.nan, np.full(len(ERROR_KINDS), np.nan))
        shares = error_shares(inside=inside, outside=outside)[chosen].mean(0)
        return Loss(1 - float(shares.sum()), shares)

    def _show(self) -> None:
        large = fitted_image(image_array(self._samples[self.picture].image), BOX)
        predicted, truth = self._masks[self.method][self.picture], self._truth[self.picture]
        boundary = self._reports[self.method].settings.get("boundary")
        before, masks = large, {"ground truth": truth, "prediction": predicted}
        if self.compare in masks:
            before = paint_mask_named(large, masks[self.compare], self._values[1:], self.opacity)
        after = paint_errors(large, error_map(predicted, truth, boundary=boundary), self.opacity)
        names = [f"{side}, {self.picture}" for side in (self.compare, f"errors of {self.method}")]
        self.screen.show(before, names[0], after, names[1])
        self.class_bars.chosen, self.image_bars.chosen = self.class_name, self.picture
        self.words = self._in_words()

    def _in_words(self) -> str:
        loss, where = self._loss_of(self.picture), f"{self.picture}, {self.method}"
        if np.isnan(loss.iou):
            return f"{where}: {self.class_name} is not in it."
        iou = f"{self.class_name}: IoU {100 * loss.iou:.0f} %"
        return f"{where}, {iou}, {_kinds_in_words(loss.shares)}."

    def words_html(self) -> str:
        """Return the words, and the protocol that the class bars were measured by."""
        report = self._reports[self.method]
        small = f"<small>{escape(f'{report.headline}; {report.protocol}')}</small>"
        return f"{escape(self.words)}<br>{small}"

    def still(self) -> Figure:
        """Draw the class bars and the worst images with their errors, as a figure."""
        worst = [self._samples[name] for name in list(self.worst())[:6] or [self.picture]]
        return show_errors(worst, self._masks[self.method], self._truth, self._reports[self.method])


def _loss_bar(name: str, loss: Loss, what: str) -> dict[str, Any]:
    iou = "-" if np.isnan(loss.iou) else f"{100 * loss.iou:.0f}"
    parts = dict(zip(ERROR_KINDS, (100 * loss.shares).tolist(), strict=True))
    message = f"{what} {iou} %, {_kinds_in_words(loss.shares)}"
    return bar(name, parts, 100, text=iou, said=message)


def _kinds_in_words(shares: np.ndarray) -> str:
    parts = zip(ERROR_KINDS, 100 * np.nan_to_num(shares), strict=True)
    return "lost to " + ", ".join(f"{error_kind} {share:.0f}" for error_kind, share in parts)
