"""ErrorAtlas: what each class loses and by which kind of error, down to the worst images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import traitlets
from torch import Tensor

from wsss_kit.checks import check_samples
from wsss_kit.classes import Sample
from wsss_kit.evaluation import ERROR_KINDS, Report, error_map, error_shares
from wsss_kit.evaluation.scoring import image_counts
from wsss_kit.plot import show_errors
from wsss_kit.plot.canvas import image_array
from wsss_kit.plot.regions import ERROR_STYLES, fitted_image, paint_errors, paint_mask_named
from wsss_kit.widgets.instrument import Instrument, column, row
from wsss_kit.widgets.screens import Bars, Swipe, stacked_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        classes: C names; needed where the reports score some of them only.

    Attributes:
        method: whose errors are shown.
        class_name: ``"all classes"``, ``"background"`` or a class.
        picture: one of `worst`.
        compare: what is left of the handle, one of ``COMPARES``.
        opacity: weight of the errors over the image.
        class_bars, image_bars, screen: two `Bars` and the `Swipe`.
        words, problem: what is shown and what went wrong, in words.

    Raises:
        ValueError: if there is no method, an image has no mask, or masks, reports and classes do
            not belong together.

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
        classes: Sequence[str] | None = None,
    ) -> None:
        check_samples(samples)
        if not masks or list(masks) != list(reports):
            raise ValueError(f"masks of {[*masks]} and reports of {[*reports]}, expected the same")
        names = getattr(samples, "names", None) or [sample.name for sample in samples]
        self._places = {name: i for i, name in enumerate(names) if name in truth}
        self._samples, self._masks, self._truth = samples, dict(masks), truth
        self._reports, self._names = dict(reports), _class_names(reports, classes)
        if not self._places:
            raise ValueError(f"none of {len(names)} images has ground truth")
        for method, of_method in masks.items():
            missing = [name for name in self._places if name not in of_method]
            if missing:
                raise ValueError(f"{method!r} has no mask for {missing[0]!r}; predict it too")
        self._counts: dict[str, dict[str, np.ndarray]] = {}
        super().__init__(method=next(iter(masks)), picture=next(iter(self._places)))
        self.class_bars, self.image_bars = (
            Bars(width, BOX[0], partial(setattr, self, trait), styles=ERROR_STYLES)
            for trait, width in {"class_name": 255, "picture": 289}.items()
        )
        self.screen = Swipe(BOX[1], BOX[0])
        compare = self._dropdown("compare", width="250px")
        opacity = self._slider("opacity", 0, 1, 0.05, width="250px")
        panels = [column([bars], bars.width) for bars in (self.class_bars, self.image_bars)]
        controls = row([self._buttons("method"), compare, opacity])
        self._begin([controls, row([*panels, self.screen])])

    @property
    def _boundary(self) -> int | None:
        """Width of the boundary band, as in the report."""
        return self._reports[self.method].settings.get("boundary")

    def _choices(self) -> dict[str, Sequence[str]]:
        return {
            "method": list(self._masks),
            "compare": COMPARES,
            "picture": list(self._places),
            "class_name": [ALL, *self._reports[self.method].classes],
        }

    def _settle(self, change: Any) -> None:
        if self.class_name not in self._choices()["class_name"]:
            self.class_name = ALL
        if change is None or change.name in ("method", "class_name"):
            self._keeps = change is not None and change.name == "method"
            self._show_classes()
            self._slices.start(self._find_worst())

    def _show_classes(self) -> None:
        """Show stacked bars of the report, all classes first."""
        report = self._reports[self.method]
        rows = [_loss_bar(ALL, Loss(report.mean_iou, np.nanmean(report.error_shares, 0)), "mIoU")]
        for name, *loss in zip(report.classes, report.iou, report.error_shares, strict=True):
            rows.append(_loss_bar(name, Loss(*loss), "IoU"))
        self.class_bars.show("lost of 100 % IoU, and IoU", rows, legend=ERROR_KINDS)
        self.class_bars.chosen = self.class_name

    def _find_worst(self) -> Iterator[None]:
        """Count the images of the method one by one, then list and show the worst."""
        counts, masks = self._counts.setdefault(self.method, {}), self._masks[self.method]
        options = {"n_values": 1 + len(self._names), "boundary": self._boundary}
        for i, name in enumerate(self._places, 1):
            if name not in counts:
                (counts[name],) = image_counts([masks[name]], self._truth[name], **options)
                self.image_bars.title = f"{i} of {len(self._places)} images counted"
                yield
        self._show_worst()

    def worst(self) -> dict[str, Loss]:
        """Return up to twelve images with the chosen class, the lowest IoU first."""
        losses = {name: self._loss_of(name) for name in self._counts.get(self.method, {})}
        losses = {name: loss for name, loss in losses.items() if loss is not None}
        return dict(sorted(losses.items(), key=lambda item: (item[1].iou, item[0]))[:12])

    def _loss_of(self, name: str) -> Loss | None:
        """Return the loss of the chosen class, None where it is in neither mask or not counted."""
        counts = self._counts.get(self.method, {}).get(name)
        if counts is None:
            return None
        chosen = counts.sum((0, 2)) > 0  # in the target, as the report's image_iou
        if self.class_name != ALL:
            chosen = np.array(["background", *self._names]) == self.class_name
        shares = error_shares(inside=counts[1], outside=counts[0])[chosen]  # (chosen, 4)
        if not len(shares) or np.isnan(shares).any():
            return None
        return Loss(1 - float(shares.mean(0).sum()), shares.mean(0))

    def _show_worst(self) -> None:
        losses = self.worst()
        rows = [_loss_bar(name, loss, "IoU") for name, loss in losses.items()]
        self.image_bars.show(f"worst images, {self.class_name}: {len(losses)}", rows)
        with self._answering():
            if losses and not (self._keeps and self.picture in losses):  # to compare methods on it
                self.picture = next(iter(losses))
            self._show()

    def _show(self) -> None:
        large = fitted_image(image_array(self._samples[self._places[self.picture]].image), BOX)
        predicted, truth = self._masks[self.method][self.picture], self._truth[self.picture]
        errors = error_map(predicted, truth, boundary=self._boundary)
        before, masks = large, {"ground truth": truth, "prediction": predicted}
        if self.compare in masks:
            before = paint_mask_named(large, masks[self.compare], self._names, self.opacity)
        names = [f"{side}, {self.picture}" for side in (self.compare, f"errors of {self.method}")]
        self.screen.show(before, names[0], paint_errors(large, errors, self.opacity), names[1])
        self.class_bars.chosen, self.image_bars.chosen = self.class_name, self.picture
        self.words = self._in_words()

    def _in_words(self) -> str:
        loss, where = self._loss_of(self.picture), f"{self.picture}, {self.method}"
        if loss is None:
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
        self.finish()
        worst = list(self.worst())[:6] or [self.picture]
        samples = [self._samples[self._places[name]] for name in worst]
        report = self._reports[self.method]
        return show_errors(samples, self._masks[self.method], self._truth, report)


def _loss_bar(name: str, loss: Loss, what: str) -> dict[str, Any]:
    iou = "-" if np.isnan(loss.iou) else f"{100 * loss.iou:.0f}"
    message = f"{name}: {what} {iou} %, {_kinds_in_words(loss.shares)}"
    values = dict(zip(ERROR_KINDS, (100 * np.nan_to_num(loss.shares)).tolist(), strict=True))
    return stacked_bar(name, values, 100, text=iou, said=message)


def _kinds_in_words(shares: np.ndarray) -> str:
    parts = zip(ERROR_KINDS, 100 * np.nan_to_num(shares), strict=True)
    return "lost to " + ", ".join(f"{error_kind} {share:.0f}" for error_kind, share in parts)


def _class_names(reports: Mapping[str, Report], classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the C class names, by which mask values are known."""
    names = next(iter(reports.values())).classes[1:] if classes is None else tuple(classes)
    for method, each in reports.items():
        n = len(each.matrix) - 1
        if n != len(names) or not set(each.classes) <= {"background", *names}:
            problem = f"{len(names)} class names, but the report of {method!r} counts {n} classes"
            raise ValueError(f"{problem}, expected classes to name all mask values")
    return names
