"""The result of ``evaluate``: a report that never shows a number without its protocol."""

from __future__ import annotations

import html
import json
import math
from dataclasses import KW_ONLY, asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_kit.checks import check_count, check_given, check_probability
from wsss_kit.evaluation.confusion import ERROR_KINDS, divide, mean_of

if TYPE_CHECKING:
    import pandas as pd

_STATED = ("resolution", "background", "refinement", "preset", "scored")


@dataclass(frozen=True)
class Protocol:
    """How a number was measured. Two numbers compare only where their protocols agree.

    Args:
        data: the data set, as in ``"PaperWorld"``.
        split: the part of it, as in ``"val"``.
        n_images: number of images; ``evaluate`` fills it in.
        resolution: size at which masks are compared, as in ``"96 px"``.
        stride: pixels of the image a side of each value that is compared; 1 for masks of the
            image's own size, 16 for maps on a grid of a sixteenth.
        background: the background rule, as in ``"constant 0.25"`` or ``"power 1"``.
        refinement: what came after the maps, as in ``"random walk, CRF"``.
        preset: the method's preset, as in ``"reference"``.
        scored: the classes that count; ``evaluate`` fills it in.
        predicted_255: share of the scored pixels that were predicted 255, which counts as
            background; ``evaluate`` fills it in.

    Raises:
        ValueError: if one of the words is no text or empty, or ``n_images`` or ``stride`` no count.

    Example:
        What nobody stated is not hidden:

        >>> print(Protocol("PaperWorld", "val", n_images=200, background="constant 0.25"))
        PaperWorld val, 200 images, resolution: image, background: constant 0.25, \
refinement: not stated, preset: not stated, scored: all classes
    """

    data: str
    split: str
    _: KW_ONLY
    n_images: int | None = None
    resolution: str = "image"
    background: str = "not stated"
    refinement: str = "not stated"
    preset: str = "not stated"
    scored: str = "all classes"
    stride: int = 1
    predicted_255: float = 0.0

    def __post_init__(self) -> None:
        check_count("stride", self.stride)
        check_given(check_count, n_images=self.n_images)
        check_probability("predicted_255", self.predicted_255)
        for name in ("data", "split", *_STATED):
            stated = getattr(self, name)
            if not isinstance(stated, str) or not stated.strip():
                raise ValueError(f"{name} of the protocol is {stated!r}, expected words")

    def __str__(self) -> str:
        """Write the protocol on one line."""
        n = self.n_images
        images = "images not counted" if n is None else f"{n} image{'s' * (n != 1)}"
        stated = [*_STATED, "stride"] if self.stride != 1 else _STATED
        rules = [f"{name}: {getattr(self, name)}" for name in stated]
        if self.predicted_255:
            share = f"{100 * self.predicted_255:.2g} % of the pixels"
            rules.append(f"predicted 255: {share}, counted as background")
        return " ".join(", ".join([f"{self.data} {self.split}", images, *rules]).split())


@dataclass(frozen=True, eq=False)
class Report:
    """Scores of one set of predicted masks, with the protocol they were measured by.

    S is the number of scored values, background included. Shares and IoU are in [0, 1].

    Args:
        protocol: how the numbers were measured.
        classes: S names, background first.
        iou: (S,) float64; NaN for a class in neither targets nor predictions.
        mean_iou: mean over the classes that have an IoU.
        interval: bounds of the 95 % bootstrap interval of ``mean_iou`` over images; NaN where no
            bootstrap was asked for.
        error_shares: (S, 4) float64, what each of ``ERROR_KINDS`` takes from the IoU; a row sums
            to 1 - IoU.
        pixels: (S,) int64, counted pixels of each class in the targets.
        image_iou: image name to its own mean IoU over the classes in its target; images
            without a counted pixel are not listed.
        matrix: (K, K) int64 pixel counts over all classes, rows targets, columns predictions.
        values: K names of all values of the masks, scored or not, background first.
        inside: (K, K) int64, the part of ``matrix`` that lies in the boundary band.
        names: of the N images.
        intersections: (N, S) int64 pixels of each image that are right.
        unions: (N, S) int64 pixels of each image in target or prediction.
        precision: (S,) float64, the share of the predicted pixels that are right; NaN for a class
            that was nowhere predicted.
        settings: what else fixes the numbers: ``n_bootstrap``, ``seed``, ``boundary``; and
            ``sizes``, up to twenty sizes (H, W) of the targets.
        stuff: (J + 1, K) int64, what was predicted on each kind of background outside the boundary
            band, the last row on none that has a name; None where nobody gave the kinds.
        stuff_names: J names.

    Example:
        Nobody drew or predicted the camel, so the mean leaves it out:

        >>> import torch
        >>> from wsss_kit.evaluation import evaluate
        >>> masks = {"a": torch.tensor([[0, 1]])}
        >>> protocol = Protocol("one image", "val", resolution="1 x 2 px")
        >>> report = evaluate(masks, masks, classes=("cow", "camel"), protocol=protocol)
        >>> print(report)
        mIoU 100.0 %, 95 % interval 100.0 to 100.0, mean of 2 values
        class            IoU  boundary    missed   spilled  confused
        background     100.0       0.0       0.0       0.0       0.0
        cow            100.0       0.0       0.0       0.0       0.0
        camel              -         -         -         -         -
        mean           100.0       0.0       0.0       0.0       0.0
        worst images: a 100.0
        one image val, 1 image, resolution: 1 x 2 px, background: not stated, \
refinement: not stated, preset: not stated, scored: all classes
        >>> report.to_frame()["iou"].tolist()
        [1.0, 1.0, nan]
    """

    protocol: Protocol
    classes: tuple[str, ...]
    iou: np.ndarray
    mean_iou: float
    interval: tuple[float, float]
    error_shares: np.ndarray
    pixels: np.ndarray
    image_iou: dict[str, float]
    matrix: np.ndarray
    values: tuple[str, ...]
    inside: np.ndarray
    names: tuple[str, ...]
    intersections: np.ndarray
    unions: np.ndarray
    precision: np.ndarray
    settings: dict[str, Any]
    stuff: np.ndarray | None = None
    stuff_names: tuple[str, ...] = ()

    @property
    def recall(self) -> np.ndarray:
        """(S,) float64, the share of the target's pixels that are right; NaN for no pixel."""
        return divide(self.intersections.sum(0), self.pixels)

    @property
    def worst(self) -> list[tuple[str, float]]:
        """Up to ten (image name, its mean IoU), the lowest first; ``image_iou`` has them all."""
        return sorted(self.image_iou.items(), key=lambda item: (item[1], item[0]))[:10]

    @property
    def headline(self) -> str:
        """The mean IoU in percent with its interval and the number of values it averages."""
        low, high = map(percent, self.interval)
        interval = "" if low == "-" else f", 95 % interval {low} to {high}"
        n_values = np.isfinite(self.iou).sum()
        return f"mIoU {percent(self.mean_iou)} %{interval}, mean of {n_values} values"

    def rows(self) -> list[tuple[str, ...]]:
        """Return name, IoU and the four error shares in percent; the last row is the mean."""
        numbers = np.column_stack([self.iou, self.error_shares])  # (S, 5)
        table = np.vstack([numbers, mean_of(numbers.T)])
        names = (*self.classes, "mean")
        return [(name, *map(percent, row)) for name, row in zip(names, table, strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """Return the table for analysis: one row a class, fractions; ``attrs`` holds the protocol.

        Returns:
            Index ``class``; columns ``iou``, the four ``ERROR_KINDS``, ``precision``, ``recall``
            and ``pixels``.
        """
        import pandas as pd

        columns = {"iou": self.iou, **dict(zip(ERROR_KINDS, self.error_shares.T, strict=True))}
        columns |= {"precision": self.precision, "recall": self.recall, "pixels": self.pixels}
        frame = pd.DataFrame(columns, index=pd.Index(self.classes, name="class"))
        frame.attrs.update(protocol=str(self.protocol), headline=self.headline)
        return frame

    def to_json(self) -> str:
        """Write all numbers as JSON: fractions, null for NaN, with the protocol in parts.

        Example:
            >>> import torch
            >>> from wsss_kit.evaluation import evaluate
            >>> masks = {"a": torch.tensor([[0, 1]])}
            >>> report = evaluate(masks, masks, classes=["cow"], protocol=Protocol("mine", "val"))
            >>> written = json.loads(report.to_json())
            >>> written["mean_iou"], written["classes"]["cow"]["iou"], written["protocol"]["split"]
            (1.0, 1.0, 'val')
        """
        found = {"mean_iou": self.mean_iou, "interval": [*self.interval]}
        found |= {"protocol": asdict(self.protocol), "settings": self.settings}
        found |= {"classes": self.to_frame().to_dict("index"), "images": self.image_iou}
        return json.dumps(_finite(found), indent=1) + "\n"

    def __str__(self) -> str:
        """Write a text table in percent under its headline, the protocol below."""
        rows = [("class", "IoU", *ERROR_KINDS), *self.rows()]
        width = max(len(row[0]) for row in rows)
        lines = [f"{name:<{width}}" + "".join(f"{x:>10}" for x in rest) for name, *rest in rows]
        worst = ", ".join(f"{name} {percent(iou)}" for name, iou in self.worst[:3])
        return "\n".join([self.headline, *lines, f"worst images: {worst}", str(self.protocol)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Write the same table for a notebook."""
        import pandas as pd

        frame = pd.DataFrame(self.rows(), columns=["class", "IoU", *ERROR_KINDS])
        frame = frame.set_index("class").rename_axis(index=None, columns="class")
        worst = ", ".join(f"{name} {percent(iou)}" for name, iou in self.worst[:5])
        head = f"<b>{self.headline}</b>; IoU and what each kind of error takes from it, in percent"
        foot = f"{html.escape(worst)}<br><small>{html.escape(str(self.protocol))}</small>"
        return f"<p>{head}</p>{frame.to_html(border=0)}<p>Worst images: {foot}</p>"


def percent(value: float) -> str:
    """Format a fraction in percent with one decimal, ``-`` for NaN.

    Example:
        >>> percent(0.4567), percent(float("nan"))
        ('45.7', '-')
    """
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _finite(value: Any) -> Any:
    """Replace NaN by None and numbers of NumPy by Python's, at any depth."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
