"""Why a number is not the published one: the usual reasons, looked for in protocol and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wsss_kit.evaluation.bootstrap import mean_of
from wsss_kit.evaluation.error_kinds import ERROR_KINDS
from wsss_kit.evaluation.published_numbers import Published, differences
from wsss_kit.evaluation.report import Report
from wsss_kit.prompts import Prompts

VOC_LONGEST_SIDE = 500
"""Of VOC's pictures: one side of nearly all has as many pixels, and none has more."""


@dataclass(frozen=True)
class Reason:
    """One reason for a gap.

    Args:
        name: in a word or two, such as ``"wrong split"``.
        sentence: what was seen and what to do.
    """

    name: str
    sentence: str


@dataclass(frozen=True)
class Gap:
    """The distance to a published number, and what may explain it.

    Args:
        ours: mean IoU in percent.
        row: the published number.
        points: ours minus theirs.
        reasons: most telling first; none where nothing was found.
    """

    ours: float
    row: Published
    points: float
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        """The gap in a sentence, then a reason a line."""
        head = f"{self.ours:.1f} where {self.row.value:g} is published, {self.points:+.1f} points"
        if not self.reasons:
            return (
                f"{head}: none of the usual reasons was found. Compare the protocol line by line: "
                f"{self.row}"
            )
        lines = [f"{head}:", *(f"- {each.name}: {each.sentence}" for each in self.reasons)]
        return "\n".join(lines)

    __repr__ = __str__


def explain_gap(report: Report, row: Published, *, prompts: Prompts | None = None) -> Gap:
    """Look for the usual reasons why a number differs from a published one.

    Each was asked about by users of the released codes: another split, a map that was scored at
    its own low resolution, a refinement left out, no background words, pixels of 255 in the
    prediction, ground truth that was resized.

    Args:
        report: ours.
        row: from `published`.
        prompts: of the method, if it has some: with few background words CLIP-ES has little to
            compare a lonely class with.

    Returns:
        A `Gap`; print it.

    Raises:
        ValueError: if the row is no mean IoU.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate, published
        >>> masks = {"a": torch.zeros(300, 500).long()}
        >>> protocol = Protocol("VOC 2012", "train_aug", refinement="none")
        >>> report = evaluate(masks, masks, classes=("cow",), protocol=protocol)
        >>> gap = explain_gap(report, published("clip-es/train/crf"))
        >>> [reason.name for reason in gap.reasons]
        ['wrong split', 'refinement left out', 'few pictures']
    """
    if row.percent is None:
        raise ValueError(f"{row.name} is {row.unit}, expected a row of mean IoU")
    apart = differences(report, row)
    found = [look(report, row, apart) for look in _LOOKS]
    if prompts is not None:
        found.insert(0, _words(row, prompts))
    ours = 100 * report.mean_iou
    reasons = tuple(reason for reason in found if reason is not None)
    return Gap(ours=ours, row=row, points=ours - row.percent, reasons=reasons)


Differences = dict[str, tuple[str, str]]


def _words(row: Published, prompts: Prompts) -> Reason | None:
    """Background words that the published prompts have and these have not."""
    if row.method not in ("CLIP-ES", "CLIMS") or not row.data.startswith(("VOC", "COCO")):
        return None
    make = Prompts.voc if row.data.startswith("VOC") else Prompts.coco
    theirs = make(method="clip_es" if row.method == "CLIP-ES" else "clims").backgrounds
    missing = [word for word in theirs if word not in prompts.backgrounds]
    if len(missing) < len(theirs) / 2:
        return None
    return Reason(
        "background words missing",
        f"{len(missing)} of the {len(theirs)} published background words are not among the "
        f"prompts', such as {', '.join(missing[:3])}: they are what a lonely class is compared "
        "with. CLIP-ES without any was reported at 29.5 instead of 70.8",
    )


def _split(report: Report, row: Published, apart: Differences) -> Reason | None:
    if not {"data", "split"} & set(apart):
        return None
    ours = f"{report.protocol.data} {report.protocol.split}"
    theirs = f"{row.data} {row.split}"
    more = ""
    if report.protocol.split == "train_aug" and row.split == "train":
        more = (
            "; published masks are scored on the 1,464 pictures of train, and the 10,582 of "
            "train_aug give CLIP-ES 68.7 instead of 75.0"
        )
    return Reason("wrong split", f"{ours} was scored, the published number is of {theirs}{more}")


def _resolution(report: Report, row: Published, apart: Differences) -> Reason | None:
    if report.protocol.stride == 1:
        return None
    return Reason(
        "low resolution",
        f"masks were compared at stride {report.protocol.stride}; bring maps to the picture's size "
        "before they become masks (58.6 became 50 in one report of CLIP-ES)",
    )


def _resized(report: Report, row: Published, apart: Differences) -> Reason | None:
    sizes = report.settings.get("sizes", ())
    if not row.data.startswith("VOC") or not len(sizes):
        return None
    longest = [max(size) for size in sizes]
    if max(longest) <= VOC_LONGEST_SIDE and (len(sizes) > 1 or max(longest) > 400):
        return None
    shown = ", ".join("x".join(map(str, size)) for size in sizes[:3])
    return Reason(
        "resized ground truth",
        f"the ground truth has {len(sizes)} size{'s' * (len(sizes) != 1)} ({shown}), and VOC's own "
        f"masks have many, with {VOC_LONGEST_SIDE} pixels on the longer side: resize predictions, "
        "never the ground truth",
    )


def _refinement(report: Report, row: Published, apart: Differences) -> Reason | None:
    if "refinement" not in apart:
        return None
    ours, theirs = apart["refinement"]
    steps, needed = (set(text.lower().split(", ")) for text in (ours, theirs))
    if needed - steps - {"none"}:
        return Reason(
            "refinement left out",
            f"ours says {ours!r}, the published number comes after {theirs!r}",
        )
    return Reason("another refinement", f"ours says {ours!r}, the published number {theirs!r}")


def _ignored(report: Report, row: Published, apart: Differences) -> Reason | None:
    share = report.settings.get("predicted_255", 0.0)
    if share < 0.001:
        return None
    return Reason(
        "predicted 255",
        f"{100 * share:.1f} % of the scored pixels are predicted 255, which counts as background; "
        "masks that are scored keep every pixel: give the recipe min_confidence=None",
    )


def _scored(report: Report, row: Published, apart: Differences) -> Reason | None:
    if "scored" not in apart:
        return None
    return Reason("other classes", f"scored were {apart['scored'][0]}, published are all classes")


def _background(report: Report, row: Published, apart: Differences) -> Reason | None:
    if "background" not in apart:
        return None
    ours, theirs = apart["background"]
    return Reason("background rule", f"ours is {ours}, theirs {theirs}")


def _only_background(report: Report, row: Published, apart: Differences) -> Reason | None:
    objects = report.iou[1:][np.isfinite(report.iou[1:])]
    if not len(objects) or objects.mean() > 0.1:
        return None
    kinds = mean_of(report.error_shares[1:].T)
    if kinds.argmax() != ERROR_KINDS.index("missed"):
        return None
    return Reason(
        "only background",
        f"objects have a mean IoU of {100 * objects.mean():.1f} and are missed nearly everywhere: "
        "a background rule that is too strong, empty maps, or a segmenter that learned background "
        'alone (loss="balanced" and a lower rate help)',
    )


def _threshold(report: Report, row: Published, apart: Differences) -> Reason | None:
    precision, recall = mean_of(report.precision[1:]), mean_of(report.recall[1:])
    if not (np.isfinite(precision) and np.isfinite(recall)) or recall < 0.1:
        return None
    if abs(precision - recall) < 0.2:
        return None
    low = recall < precision
    return Reason(
        "background too strong" if low else "background too weak",
        f"objects have a precision of {100 * precision:.0f} and a recall of {100 * recall:.0f}: "
        f"{'lower' if low else 'raise'} the background, as chosen on a validation split",
    )


def _few(report: Report, row: Published, apart: Differences) -> Reason | None:
    if "n_images" not in apart:
        return None
    ours, theirs = apart["n_images"]
    if int(ours) > 0.9 * int(theirs):
        return None
    low, high = (100 * bound for bound in report.interval)
    within = low <= (row.percent or 0.0) <= high
    said = "lies inside" if within else "lies outside"
    return Reason(
        "few pictures",
        f"{ours} of {theirs} pictures were scored; the published number {said} the interval of "
        f"ours, {low:.1f} to {high:.1f}",
    )


_LOOKS: tuple[Callable[[Report, Published, Differences], Reason | None], ...] = (
    _split,
    _resolution,
    _resized,
    _ignored,
    _refinement,
    _scored,
    _only_background,
    _threshold,
    _background,
    _few,
)
